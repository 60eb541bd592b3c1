// Every hand-written CUDA kernel of the engine: one launcher each, host-callable, declared for g++.
// T is float, __half or __nv_bfloat16; arithmetic is in float. Activations are NHWC; vectors are
// (C,) or (N, C) floats. The launchers of a family are the members of a struct, which its source
// file instantiates once per type.
// `partials` is scratch of partial_rows() rows of kPartialsPerChannel·C floats. Its rows are merged
// in fp64 in a fixed order, so every result is the same bits in every run. Launchers enqueue; they
// never synchronise, allocate or throw, and leave a failed launch to cudaPeekAtLastError().
// The order of arguments: outputs, inputs, sizes, parameters, stream.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>
#include <functional>

#include "kernels/folded_tiles.h"
#include "kernels/image.h"
#include "kernels/loss.h"
#include "kernels/operand.h"
#include "kernels/sync_norms.h"
#include "kernels/tiles.h"
#include "kernels/update.h"

namespace engine::kernels {

// The limits of the calling thread's device, which is asked once; the defaults if there is none.
const DeviceLimits& device_limits();

// Where a sweep leaves its sums.
struct Partials {
  float* rows;  // scratch of partial_rows() rows of kPartialsPerChannel·C floats
  unsigned*
      done;  // (kMaxGroups,): how many blocks have left their row, by group of channels; zero,
             // and zero again when the sweep has ended
};
constexpr int kMaxGroups = 8192;

// What a kernel reads beside weights: the launch ahead in the stream may have written of it, or it
// lay there before that launch began.
enum class Inputs { fresh, settled };

// ---------------------------------------------------------------- sweeps/operand.cu

// What surrounds the call of a library.
template <class T>
struct Sweeps {
  // f = f(x), dense: (pixels, channels).
  static void load_operand(T* f, const OperandView<T>& in, cudaStream_t stream);

  // out = dense + bias (null: no bias), and the channel statistics of what was stored if out.mean
  // is set. `dense` may be out.y itself: then only bias and statistics are done, and nothing is
  // launched if there is neither.
  static void store_output(const SliceView<T>& out, const T* dense, const float* bias,
                           const Partials& partials, cudaStream_t stream);

  // dy, dense: (pixels, channels).
  static void load_gradient(T* dy, const GradientView<T>& gradient, cudaStream_t stream);

  // The epilogue of every backward: from df, dense (pixels, channels), to sink.grad, dgamma, dbeta,
  // k0 and k1. A gated sink gets dz = df and its (N, C) sums. df may be sink.grad itself. Without a
  // sink.grad the sums alone are taken.
  static void store_gradient(const GradientSink<T>& sink, const T* df, const OperandView<T>& in,
                             const Partials& partials, cudaStream_t stream);

  // sink.grad(n, stride·y, stride·x) += df(n, y, x) of a plain operand; df is dense (N, height,
  // width, channels), of whatever lies within the operand.
  static void add_strided(const GradientSink<T>& sink, const T* df, const OperandView<T>& in,
                          int height, int width, int stride, cudaStream_t stream);

  // dbias += Σ dy over the pixels; dy is dense (pixels, channels).
  static void bias_gradient(float* dbias, const T* dy, int64_t pixels, int channels,
                            const Partials& partials, cudaStream_t stream);
};

// ---------------------------------------------------------------- sweeps/add.cu

template <class T>
struct SummedOperand {
  GradientSink<T> sink;
  OperandView<T> in;
};

template <class T>
struct Addition {
  // out = act(a + b), and the channel statistics of what was stored if out.mean is set. slopes, as
  // in ActivatedGradient, are left unless null: of 16-bit types in whole packs of eight channels,
  // of operands that are a norm at most.
  static void forward(const SliceView<T>& out, uint8_t* slopes, const OperandView<T>& a,
                      const OperandView<T>& b, Activation act, const Partials& partials,
                      cudaStream_t stream);

  // Of a sum that is stored activated: sum.dy *= act', and from that Sweeps::store_gradient() of
  // `first`, whose sink may want nothing and whose grad is not sum.dy. Of two operands the sums
  // alone are wanted, and they are a norm each.
  static void backward(const ActivatedGradient<T>& sum, const SummedOperand<T>& first,
                       const SummedOperand<T>& second, const Partials& partials,
                       cudaStream_t stream);
};

// ---------------------------------------------------------------- depthwise/

// Depthwise convolutions with a square window of 3 or 5; the weight is (C, K, K).
template <class T>
struct DepthwiseForward {
  // out = the convolution, and the channel statistics of what was stored if out.mean is set.
  static void run(const SliceView<T>& out, const OperandView<T>& in, const T* weight, Window window,
                  float* partials, cudaStream_t stream);
};

template <class T>
struct DepthwiseBackward {
  // dweight (C, K, K) = the weight's gradient, and the operand's gradient to the sink, from one
  // read of (G_y, y, x). weight_partials is scratch of depthwise_weight_partials() floats,
  // counted with device_limits().
  static void run(const GradientSink<T>& sink, float* dweight, const GradientView<T>& dy,
                  const OperandView<T>& in, const T* weight, Window window, float* partials,
                  float* weight_partials, cudaStream_t stream);
};

// Enqueues what was prepared for some addresses and a shape; empty: it cannot be done so.
using Enqueue = std::function<void(cudaStream_t)>;

// The same on the matrix units, whose operands are rounded to T, __half or __nv_bfloat16: for the
// windows and images that kernels/banded_tiles.h has a tile for, on a GPU of sm_90 at least.
template <class T>
struct BandedForward {
  // partials.rows is scratch of banded_partials(…, kBandedStatistics, …) floats, counted over the
  // output with device_limits().
  static Enqueue prepare(const SliceView<T>& out, const OperandView<T>& in, const T* weight,
                         Window window, const Partials& partials);
};
template <class T>
struct BandedBackward {
  // For an output that a squeeze-excite gates. partials.rows is scratch of
  // banded_partials(…, banded_sums(K), …) floats, counted over the operand.
  static Enqueue prepare(const GradientSink<T>& sink, float* dweight, const GradientView<T>& dy,
                         const OperandView<T>& in, const T* weight, Window window,
                         const Partials& partials);
};

// ---------------------------------------------------------------- gemm/

// Pointwise convolutions of 16-bit types as one matrix product each. All channel counts and pitches
// are multiples of 8 and all slices begin at multiples of 16 bytes; a gate is learned, and the
// output has none; product_fits() says whether the depth fits. Scratch is `partials` alone.
template <class T>
struct PointwiseForward {
  // out = W · f(in), and the channel statistics of what was stored if out.mean is set. The depth is
  // the operand's channels; the weight is (C', C).
  static void run(const SliceView<T>& out, const OperandView<T>& in, const T* weight,
                  float* partials, cudaStream_t stream);
};

template <class T>
struct PointwiseStreamed {
  // The same by the copy engine, on a GPU of sm_90; streamed_fits() says whether the layer does.
  static Enqueue prepare(const SliceView<T>& out, const OperandView<T>& in, const T* weight,
                         const Partials& partials);
};

template <class T>
struct PointwiseDgrad {
  // The operand's gradient to the sink. The depth is the channels of dy. Where they are set,
  // dense_dy (pixels, C') = dy if a norm completes it, and f (pixels, C) = f(in) unless plain.
  static void run(const GradientSink<T>& sink, T* dense_dy, T* f, const GradientView<T>& dy,
                  const OperandView<T>& in, const T* weight, float* partials, Inputs inputs,
                  cudaStream_t stream);
};

template <class T>
struct PointwiseWgrad {
  // dweight (C', C) = the weight's gradient, without a limit to either. `partials` is scratch of
  // wgrad_partials() floats, counted with device_limits().
  static void run(float* dweight, const GradientView<T>& dy, const OperandView<T>& in,
                  float* partials, cudaStream_t stream);
};

template <class T>
struct PointwiseJoined {
  // Both of them, for an operand without a gate; joined_fits() says whether the channels do.
  // dweight (C', C) is overwritten; `rows` is scratch of joined_rows() floats, counted with
  // device_limits(). Without sink.grad, nothing but dweight is made.
  static void run(const GradientSink<T>& sink, float* dweight, const GradientView<T>& dy,
                  const OperandView<T>& in, const T* weight, float* rows, const Partials& partials,
                  cudaStream_t stream);
};

template <class T>
struct PointwiseFolded {
  // The operand's gradient of a layer whose output y has a norm, from the gradient and the operand
  // alone: y = weight · f(in), and dy.x is not read. The operand has no gate; folded_fits() says
  // whether the channels do; on a GPU of sm_90. `f` (pixels, C), where it is set, gets f(in);
  // `scratch` is folded_scratch() floats, counted with device_limits(), whose sums of f it makes.
  static Enqueue prepare(const GradientSink<T>& sink, T* f, const GradientView<T>& dy,
                         const OperandView<T>& in, const T* weight, float* scratch,
                         const Partials& partials);
  // dweight (C', C), overwritten, once dy.gradᵀ · f (C', C) and fᵀ · f (C, C) lie at the begin of
  // the scratch's sums.
  static void finish(float* dweight, const GradientView<T>& dy, const T* weight, int channels,
                     const FoldedScratch& sizes, float* scratch, cudaStream_t stream);
};

template <class T>
struct PointwiseNarrow {
  // Both of them, of a layer whose output y has a norm, from the gradient and the operand alone:
  // y = weight · f(in), and dy.x is not read. The operand has no gate; narrow_fits() says whether
  // the channels do; on a GPU of sm_90. dweight (C', C) is overwritten; `scratch` is
  // narrow_scratch() floats, counted with device_limits(). Without sink.grad, nothing but dweight
  // and the sums are made.
  static Enqueue prepare(const GradientSink<T>& sink, float* dweight, const GradientView<T>& dy,
                         const OperandView<T>& in, const T* weight, float* scratch,
                         const Partials& partials);
};

// ---------------------------------------------------------------- dense/

// Dense convolutions of 16-bit types with a window of 3 × 3, stride 1 and padding 1. The operand
// has a multiple of 16 channels, a norm or none, and ReLU or nothing; the output a multiple of 8;
// pitches are multiples of 8 and slices begin at multiples of 16 bytes. kernels/dense_tiles.h says
// what fits. The weight is (C', 3, 3, C).
template <class T>
struct DenseForward {
  // out = the convolution, and the channel statistics of what was stored if out.mean is set.
  static void run(const SliceView<T>& out, const OperandView<T>& in, const T* weight,
                  const Partials& partials, cudaStream_t stream);
};

template <class T>
struct DenseDgrad {
  // The operand's gradient to the sink; dy belongs to an output without a gate.
  static void run(const GradientSink<T>& sink, const GradientView<T>& dy, const OperandView<T>& in,
                  const T* weight, const Partials& partials, Inputs inputs, cudaStream_t stream);
};

template <class T>
struct DenseWgrad {
  // dweight (C', 3, 3, C) = the weight's gradient. rows is scratch of dense_wgrad_rows() floats,
  // counted with device_limits(); dy belongs to an output without a gate.
  static void run(float* dweight, const GradientView<T>& dy, const OperandView<T>& in, float* rows,
                  cudaStream_t stream);
};

// ---------------------------------------------------------------- stem/

// The first convolution of a network, of 16-bit types: a plain image of three channels, a square
// window of `kernel` 3 or 7, stride 2, padding kernel / 2. The output has a multiple of 8 channels,
// as has its pitch, and begins at a multiple of 16 bytes; the image's width is a multiple of 4, and
// it lies at a multiple of 8 bytes. kernels/stem_tiles.h says what fits. The weight is
// (C', K, K, 3).
template <class T>
struct StemForward {
  // out = the convolution, and the channel statistics of what was stored if out.mean is set.
  static void run(const SliceView<T>& out, const OperandView<T>& in, const T* weight, int kernel,
                  const Partials& partials, cudaStream_t stream);
};

template <class T>
struct StemWgrad {
  // dweight (C', K, K, 3) = the weight's gradient. rows is scratch of stem_wgrad_rows() floats,
  // counted with device_limits(); dy belongs to an output without a gate.
  static void run(float* dweight, const GradientView<T>& dy, const OperandView<T>& in, int kernel,
                  float* rows, cudaStream_t stream);
};

// ---------------------------------------------------------------- sweeps/pool.cu

template <class T>
struct Pooling {
  // A maximum or an average over each window, and the channel statistics of what was stored if
  // out.mean is set. As in PyTorch, an average counts the padding and a NaN is the maximum. Where
  // `kept` is set, winners are kept: of windows of 3 × 3, stride 2, padding 1, of an operand behind
  // ReLU, without a gate, in whole packs of eight channels.
  static void forward(const SliceView<T>& out, const OperandView<T>& in, Window window,
                      bool maximal, const KeptMaxima<T>& kept, const Partials& partials,
                      cudaStream_t stream);
  // dy is the gradient of the pooled slice. A maximum that was not kept is found again: the first
  // in scan order.
  static void backward(const GradientSink<T>& sink, const GradientView<T>& dy,
                       const OperandView<T>& in, Window window, bool maximal,
                       const KeptMaxima<T>& kept, const Partials& partials, cudaStream_t stream);
};

// ---------------------------------------------------------------- sweeps/squeeze_excite.cu

struct SqueezeExciteWeights {
  const float *reduce, *reduce_bias, *expand, *expand_bias;  // (S, C), (S,), (C, S), (C,)
};
struct SqueezeExciteGradients {
  float *reduce, *reduce_bias, *expand, *expand_bias;  // all +=
};

template <class T>
struct SqueezeExcitation {
  // One sweep over x, then the vectors pooled, slope, slope_xhat, hidden, dhidden and gate.
  static void forward(const GateView<float>& gate, const OperandView<T>& in,
                      const SqueezeExciteWeights& weights, int squeezed, cudaStream_t stream);
  // From the sums that the gated reader left to q, the four weight gradients, and the norm's
  // dgamma, dbeta, k0 and k1.
  static void backward(const GradientSink<T>& sink, const GateView<float>& gate,
                       const SqueezeExciteGradients& gradients, const OperandView<T>& in,
                       const SqueezeExciteWeights& weights, int squeezed, cudaStream_t stream);
};

// ---------------------------------------------------------------- sweeps/loss.cu

template <class T>
struct CrossEntropy {
  // Softmax cross entropy of plain logits. Writes the gradient (p·Σq − q)·scale/divisor, with the
  // pitch of the logits, if dlogits is set, and loss, correct1 and correct5 (of the label, not of
  // its mix) to results[params->result].
  static void run(T* dlogits, StepResult* results, const OperandView<T>& logits,
                  const TargetView& targets, const ScaleState* scale, cudaStream_t stream);
  // Binary cross entropy of the labels that are not missing: ((w·q + 1 − q)·σ(z) − w·q)·scale /
  // divisor, 0 where one is missing. correct1 counts the images whose labels are all on the right
  // side of 0; correct5 is 0.
  static void run_labels(T* dlogits, StepResult* results, const OperandView<T>& logits,
                         const TargetView& targets, const ScaleState* scale, cudaStream_t stream);
};

// ---------------------------------------------------------------- sweeps/update.cu

// These sweep flat arenas. n is the length of every array and a multiple of kUpdateBlock, but for
// casts.
struct GroupTable {
  const uint8_t* of;             // (n / kUpdateBlock,)
  const ParameterGroup* groups;  // (kMaxParameterGroups,)
};

// Fills in scale->gradient_norm, the norm of what is updated, and scale->found_inf.
void gradient_norm(ScaleState* scale, NormPartials* partials, const float* gradients,
                   const GroupTable& groups, int64_t n, cudaStream_t stream);

template <class T>
struct UpdateArrays {
  float *weights, *moments;  // moments: Step::kMoments arrays, n apart
  T* copies;                 // of the weights, or null
  float* averages;           // of the weights, or null
  const float* gradients;
};

// Step is one of kernels/update.h.
template <class T, class Step>
struct Update {
  // Updates weights, moments, copies and averages; does nothing if found_inf.
  static void run(const UpdateArrays<T>& arrays, const GroupTable& groups, int64_t n,
                  const StepParams* params, const ScaleState* scale, const Step& step,
                  double clip_norm, double ema_decay, cudaStream_t stream);
};

template <class T>
struct Casts {
  static void from_float(T* to, const float* from, int64_t n, cudaStream_t stream);
  // For weight gradients that a library leaves in T.
  static void to_float(float* to, const T* from, int64_t n, cudaStream_t stream);
};

// averages = averaged(averages, values); does nothing if found_inf.
void average(float* averages, const float* values, int64_t n, const ScaleState* scale,
             double ema_decay, cudaStream_t stream);
// sums += values.
void accumulate(float* sums, const float* values, int64_t n, cudaStream_t stream);
// values += sums; sums = 0.
void add_accumulated(float* values, float* sums, int64_t n, cudaStream_t stream);
// Swaps a and b.
void exchange(float* a, float* b, int64_t n, cudaStream_t stream);
// Counts the update, grows or backs off the scale, and fills in what results[params->result] says
// of them: overflow, scale, gradient_norm, the time of Mark::end and, last, step.
void finish_step(ScaleState* scale, StepResult* results, const StepParams* params, bool updated,
                 cudaStream_t stream);

// results[params->result].times[mark] = the device's clock.
void note_time(StepResult* results, const StepParams* params, Mark mark, cudaStream_t stream);
// *step = params->step, in host-visible memory.
void note_step(uint64_t* step, const StepParams* params, cudaStream_t stream);

// One entry per norm; the table lives in device memory.
struct RunningNorm {
  float *running_mean, *running_var;
  const float *mean, *var;  // biased, of this step
  int channels;
  int pixels;  // of an image
  int images;  // whose statistics these are; 0: those of all ranks in this step
  float momentum;
};
// The variance is made unbiased: times M / (M − 1), M = images · pixels.
void update_running(const RunningNorm* norms, int count, int max_channels, const StepParams* params,
                    cudaStream_t stream);

// ---------------------------------------------------------------- sweeps/sync_norms.cu

// This rank's row of rows = {images, first, second}.
void pack_rank_row(const RankRows<float>& rows, int rank, const float* first, const float* second,
                   int images, cudaStream_t stream);
// mean, var = those of all ranks' rows; the same for k0 and k1. See kernels/sync_norms.h.
void merge_rank_statistics(float* mean, float* var, const RankRows<float>& rows,
                           cudaStream_t stream);
void merge_rank_sums(float* k0, float* k1, const RankRows<float>& rows, cudaStream_t stream);

// ---------------------------------------------------------------- sweeps/image.cu

template <class T>
struct Images {
  // image (batch, H, W, C) = what the slot that view.params names holds, bytes or records of the
  // pack, normalised and mixed. A view without pack and mixes is a plain stream of bytes.
  static void load(T* image, const InputView& view, cudaStream_t stream);
};

}  // namespace engine::kernels
