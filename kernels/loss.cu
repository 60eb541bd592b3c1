// Softmax cross entropy with its gradient and the two accuracies. One block: a row of logits is a warp's work, and
// the rows' losses are added in a fixed order.
#include "kernels/kernels.h"
#include "kernels/pack.cuh"

namespace engine::kernels {
namespace {

constexpr int kLossThreads = 1024, kWarp = 32, kWarps = kLossThreads / kWarp;

__device__ __forceinline__ float warp_max(float value) {
#pragma unroll
  for (int offset = kWarp / 2; offset > 0; offset /= 2)
    value = fmaxf(value, __shfl_xor_sync(0xffffffff, value, offset));
  return value;
}

template <class N>
__device__ __forceinline__ N warp_sum(N value) {
#pragma unroll
  for (int offset = kWarp / 2; offset > 0; offset /= 2)
    value += __shfl_xor_sync(0xffffffff, value, offset);
  return value;
}

template <class T>
__global__ void __launch_bounds__(kLossThreads, 1)
    cross_entropy_kernel(T* dlogits, StepResult* results, OperandView<T> logits,
                         const int32_t* labels, int capacity, const StepParams* params,
                         const ScaleState* scale) {
  __shared__ double losses[kWarps];
  __shared__ int first[kWarps], fifth[kWarps];
  const int warp = threadIdx.x / kWarp, lane = threadIdx.x % kWarp, classes = logits.channels;
  const double samples = params->samples;
  const float factor = static_cast<float>(scale->scale / samples);
  labels += int64_t{params->slot} * capacity;
  double loss = 0;
  int correct1 = 0, correct5 = 0;

  for (int n = warp; n < logits.batch; n += kWarps) {
    const int64_t row = int64_t{n} * logits.pitch;
    const auto logit = [&](int c) { return to_float(logits.x[row + c]); };
    const int label = labels[n];
    const float of_label = logit(label);
    float highest = -INFINITY;
    int rank = 0;  // classes before the label's; NaN counts as the largest, as in torch.topk
#pragma unroll 8
    for (int c = lane; c < classes; c += kWarp) {
      const float z = logit(c);
      highest = fmaxf(highest, z);
      rank += c != label && (!(z <= of_label) || (z == of_label && c < label));
    }
    highest = warp_max(highest);
    rank = warp_sum(rank);
    float sum = 0;
#pragma unroll 8
    for (int c = lane; c < classes; c += kWarp) sum += expf(logit(c) - highest);
    sum = warp_sum(sum);
    loss += static_cast<double>(logf(sum)) - (static_cast<double>(of_label) - highest);
    correct1 += rank < 1;
    correct5 += rank < 5;
    if (!dlogits) continue;
#pragma unroll 8
    for (int c = lane; c < classes; c += kWarp) {
      const float p = expf(logit(c) - highest) / sum;
      dlogits[row + c] = from_float<T>((p - (c == label ? 1.f : 0.f)) * factor);
    }
  }
  if (lane == 0) losses[warp] = loss, first[warp] = correct1, fifth[warp] = correct5;
  __syncthreads();
  if (threadIdx.x != 0) return;
  for (int i = 1; i < kWarps; ++i) loss += losses[i], correct1 += first[i], correct5 += fifth[i];
  StepResult& result = results[params->result];
  result.loss = loss / samples;
  result.correct1 = correct1;
  result.correct5 = correct5;
}

}  // namespace

template <class T>
void cross_entropy(T* dlogits, StepResult* results, const OperandView<T>& logits,
                   const int32_t* labels, int capacity, const StepParams* params,
                   const ScaleState* scale, cudaStream_t stream) {
  cross_entropy_kernel<T>
      <<<1, kLossThreads, 0, stream>>>(dlogits, results, logits, labels, capacity, params, scale);
}

template void cross_entropy(float*, StepResult*, const OperandView<float>&, const int32_t*, int,
                            const StepParams*, const ScaleState*, cudaStream_t);
template void cross_entropy(__half*, StepResult*, const OperandView<__half>&, const int32_t*, int,
                            const StepParams*, const ScaleState*, cudaStream_t);
template void cross_entropy(__nv_bfloat16*, StepResult*, const OperandView<__nv_bfloat16>&,
                            const int32_t*, int, const StepParams*, const ScaleState*,
                            cudaStream_t);

}  // namespace engine::kernels
