// Softmax and binary cross entropy with their gradients and accuracies. There is one block: a row
// of logits is a warp's work, and the rows' losses are added in a fixed order.
#include "kernels/device.cuh"
#include "kernels/kernels.h"
#include "kernels/launch.cuh"
#include "kernels/vector.cuh"

namespace engine::kernels {
namespace {

constexpr int kLossThreads = 1024, kWarps = kLossThreads / kWarp;

__device__ __forceinline__ float warp_max(float value) {
#pragma unroll
  for (int offset = kWarp / 2; offset > 0; offset /= 2)
    value = fmaxf(value, __shfl_xor_sync(0xffffffff, value, offset));
  return value;
}

template <class T>
__global__ void __launch_bounds__(kLossThreads, 1)
    cross_entropy_kernel(T* dlogits, StepResult* results, OperandView<T> logits, TargetView targets,
                         const ScaleState* scale) {
  __shared__ double losses[kWarps];
  __shared__ int first[kWarps], fifth[kWarps];
  follow();
  const int warp = threadIdx.x / kWarp, lane = threadIdx.x % kWarp, classes = logits.channels;
  const double divisor = targets.params->divisor;
  const float factor = static_cast<float>(scale->scale / divisor);
  double loss = 0;
  int correct1 = 0, correct5 = 0;

  for (int n = warp; n < logits.batch; n += kWarps) {
    const int64_t row = int64_t{n} * logits.pitch;
    const auto logit = [&](int c) { return to_float(logits.x[row + c]); };
    const TargetRow target = targets.row(n);
    const int label = target.label;
    const float of_label = logit(label);
    float highest = -INFINITY;
    int rank = 0;
#pragma unroll 8
    for (int c = lane; c < classes; c += kWarp) {
      const float z = logit(c);
      highest = fmaxf(highest, z);
      rank += stands_before(z, c, of_label, label);
    }
    highest = warp_max(highest);
    rank = warp_sum(rank);
    float sum = 0;
    double total = 0, against = 0;  // Σ q, Σ q·(z − highest)
#pragma unroll 4
    for (int c = lane; c < classes; c += kWarp) {
      const float z = logit(c);
      const double q = target.at(c);
      sum += expf(z - highest);
      total += q;
      if (q != 0) against += q * (static_cast<double>(z) - highest);
    }
    sum = warp_sum(sum);
    total = warp_sum(total);
    against = warp_sum(against);
    loss += total * static_cast<double>(logf(sum)) - against;
    correct1 += rank < 1;
    correct5 += rank < 5;
    if (!dlogits) continue;
    const float weight = static_cast<float>(total);
#pragma unroll 4
    for (int c = lane; c < classes; c += kWarp) {
      const float p = expf(logit(c) - highest) / sum;
      dlogits[row + c] = from_float<T>((p * weight - static_cast<float>(target.at(c))) * factor);
    }
  }
  if (lane == 0) losses[warp] = loss, first[warp] = correct1, fifth[warp] = correct5;
  __syncthreads();
  if (threadIdx.x != 0) return;
  for (int i = 1; i < kWarps; ++i) loss += losses[i], correct1 += first[i], correct5 += fifth[i];
  StepResult& result = results[targets.params->result];
  result.loss = loss / divisor;
  result.correct1 = correct1;
  result.correct5 = correct5;
}

template <class T>
__global__ void __launch_bounds__(kLossThreads, 1)
    label_loss_kernel(T* dlogits, StepResult* results, OperandView<T> logits, TargetView targets,
                      const ScaleState* scale) {
  __shared__ double losses[kWarps];
  __shared__ int all_right[kWarps];
  follow();
  const int warp = threadIdx.x / kWarp, lane = threadIdx.x % kWarp;
  const double divisor = targets.params->divisor;
  const float factor = static_cast<float>(scale->scale / divisor);
  double loss = 0;  // of this lane
  int right = 0;

  for (int n = warp; n < logits.batch; n += kWarps) {
    const int64_t row = int64_t{n} * logits.pitch;
    int wrong = 0;
    for (int c = lane; c < logits.channels; c += kWarp) {
      const float z = to_float(logits.x[row + c]);
      const LabelTarget target = targets.label(n, c);
      loss += label_loss(z, target);
      wrong += is_wrong(z, targets.presence_of(n, c));
      if (dlogits) dlogits[row + c] = from_float<T>(label_slope(z, target) * factor);
    }
    right += warp_sum(wrong) == 0;
  }
  loss = warp_sum(loss);
  if (lane == 0) losses[warp] = loss, all_right[warp] = right;
  __syncthreads();
  if (threadIdx.x != 0) return;
  for (int i = 1; i < kWarps; ++i) loss += losses[i], right += all_right[i];
  StepResult& result = results[targets.params->result];
  result.loss = loss / divisor;
  result.correct1 = right;
  result.correct5 = 0;
}

}  // namespace

template <class T>
void CrossEntropy<T>::run(T* dlogits, StepResult* results, const OperandView<T>& logits,
                          const TargetView& targets, const ScaleState* scale, cudaStream_t stream) {
  launch(cross_entropy_kernel<T>, 1, kLossThreads, 0, stream, dlogits, results, logits, targets,
         scale);
}

template <class T>
void CrossEntropy<T>::run_labels(T* dlogits, StepResult* results, const OperandView<T>& logits,
                                 const TargetView& targets, const ScaleState* scale,
                                 cudaStream_t stream) {
  launch(label_loss_kernel<T>, 1, kLossThreads, 0, stream, dlogits, results, logits, targets,
         scale);
}

template struct CrossEntropy<float>;
template struct CrossEntropy<__half>;
template struct CrossEntropy<__nv_bfloat16>;

}  // namespace engine::kernels
