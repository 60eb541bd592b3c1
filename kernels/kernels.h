// Every hand-written CUDA kernel of the engine: one launcher each, host-callable, declared for g++.
// T: float, __half or __nv_bfloat16; arithmetic in float. Activations NHWC; vectors (C,) or (N, C) float.
// `partials`: scratch of partial_rows() rows of kPartialsPerChannel·C floats; merged in fp64 in a fixed order, so
// every result is the same bits in every run. Launchers enqueue, never synchronise, never allocate.
// Order of arguments: outputs, inputs, sizes, parameters, stream.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

#include "kernels/image.h"
#include "kernels/loss.h"
#include "kernels/operand.h"
#include "kernels/tiles.h"
#include "kernels/update.h"

namespace engine::kernels {

// ---------------------------------------------------------------- operand.cu: sweeps around library calls

// f = f(x), dense (pixels, channels).
template <class T>
void load_operand(T* f, const OperandView<T>& in, cudaStream_t stream);

// out = dense + bias (bias null: none), and the channel statistics of what was stored if out.mean is set.
// `dense` may be out.y itself (then only bias and statistics are done; nothing is launched if there is neither).
template <class T>
void store_output(const SliceView<T>& out, const T* dense, const float* bias, float* partials,
                  cudaStream_t stream);

// dy, dense (pixels, channels).
template <class T>
void load_gradient(T* dy, const GradientView<T>& gradient, cudaStream_t stream);

// The epilogue of every backward: from df, dense (pixels, channels), to sink.grad, sums, dgamma, dbeta, k0, k1.
// A gated sink gets dz = df and its (N, C) sums. count: N·H·W of the operand's buffer. df may be sink.grad itself.
template <class T>
void store_gradient(const GradientSink<T>& sink, const T* df, const OperandView<T>& in,
                    float* partials, cudaStream_t stream);

// dbias += Σ dy over pixels; dy dense (pixels, channels).
template <class T>
void bias_gradient(float* dbias, const T* dy, int64_t pixels, int channels, float* partials,
                   cudaStream_t stream);

// ---------------------------------------------------------------- add.cu

template <class T>
void add_forward(const SliceView<T>& out, const OperandView<T>& a, const OperandView<T>& b,
                 float* partials, cudaStream_t stream);

// ---------------------------------------------------------------- depthwise.cu: fused on both sides; weight (C, K, K)

template <class T>
void depthwise_forward(const SliceView<T>& out, const OperandView<T>& in, const T* weight,
                       DepthwiseShape shape, float* partials, cudaStream_t stream);

// dweight (C, K, K) = and the operand's gradient, from one read of (G_y, y, x). weight_partials: scratch of
// depthwise_weight_partials() floats.
template <class T>
void depthwise_backward(const GradientSink<T>& sink, float* dweight, const GradientView<T>& dy,
                        const OperandView<T>& in, const T* weight, DepthwiseShape shape,
                        float* partials, float* weight_partials, cudaStream_t stream);

// ---------------------------------------------------------------- pool.cu

struct PoolShape {
  int kernel_h, kernel_w, stride, padding;
  bool maximal;
};

template <class T>
void pool_forward(const SliceView<T>& out, const OperandView<T>& in, PoolShape shape,
                  float* partials, cudaStream_t stream);
// Max pool finds its maximum again: the first in scan order. dy: the gradient of the pooled slice, loaded on the fly.
template <class T>
void pool_backward(const GradientSink<T>& sink, const GradientView<T>& dy, const OperandView<T>& in,
                   PoolShape shape, float* partials, cudaStream_t stream);

// ---------------------------------------------------------------- squeeze_excite.cu

struct SqueezeExciteWeights {
  const float *reduce, *reduce_bias, *expand, *expand_bias;  // (S, C), (S,), (C, S), (C,)
};
struct SqueezeExciteGradients {
  float *reduce, *reduce_bias, *expand, *expand_bias;  // all +=
};
struct GateVectors {  // see GateMemory
  float *gate, *pooled, *slope, *slope_xhat, *dz_h, *dz_slope, *dz_slope_xhat, *q, *hidden,
      *dhidden;
};

// One sweep over x, then (N, C) vectors: pooled, slope sums, hidden, gate.
template <class T>
void squeeze_excite_forward(const GateVectors& gate, const OperandView<T>& in,
                            const SqueezeExciteWeights& weights, int squeezed, cudaStream_t stream);
// From the sums that the gated reader left: q, the four weight gradients, and the norm's dgamma, dbeta, k0, k1.
template <class T>
void squeeze_excite_backward(const GradientSink<T>& sink, const GateVectors& gate,
                             const SqueezeExciteGradients& gradients, const OperandView<T>& in,
                             const SqueezeExciteWeights& weights, int squeezed,
                             cudaStream_t stream);

// ---------------------------------------------------------------- loss.cu

// Softmax cross entropy of plain logits. Writes the gradient (p·Σq − q)·scale/divisor, with the pitch of the
// logits, if dlogits is set, and loss, correct1, correct5 (of the label, not its mix) to results[params->result].
template <class T>
void cross_entropy(T* dlogits, StepResult* results, const OperandView<T>& logits,
                   const TargetView& targets, const ScaleState* scale, cudaStream_t stream);

// ---------------------------------------------------------------- update.cu: over the flat arenas

// n: of every array, a multiple of kUpdateBlock.
struct GroupTable {
  const uint8_t* of;             // (n / kUpdateBlock,)
  const ParameterGroup* groups;  // (kMaxParameterGroups,)
};

// scale->gradient_norm of what is updated, and scale->found_inf if the scale is dynamic.
void gradient_norm(ScaleState* scale, NormPartials* partials, const float* gradients,
                   const GroupTable& groups, int64_t n, cudaStream_t stream);

template <class T>
struct UpdateArrays {
  float *weights, *moments;  // moments: Step::kMoments arrays, n apart
  T* copies;                 // of the weights, or null
  float* averages;           // of the weights, or null
  const float* gradients;
};
// Nothing if found_inf. Step: one of kernels/update.h.
template <class T, class Step>
void update(const UpdateArrays<T>& arrays, const GroupTable& groups, int64_t n,
            const StepParams* params, const ScaleState* scale, const Step& step, double clip_norm,
            double ema_decay, cudaStream_t stream);
// averages = averaged(averages, values); nothing if found_inf.
void average(float* averages, const float* values, int64_t n, const ScaleState* scale,
             double ema_decay, cudaStream_t stream);
void accumulate(float* sums, const float* values, int64_t n, cudaStream_t stream);  // sums +=
void add_accumulated(float* values, float* sums, int64_t n,
                     cudaStream_t stream);  // values += sums; sums = 0
void exchange(float* a, float* b, int64_t n, cudaStream_t stream);
// Counts the update, grows or backs off the scale, and fills results[params->result].{overflow, scale, step}.
void finish_step(ScaleState* scale, StepResult* results, const StepParams* params, bool updated,
                 cudaStream_t stream);
template <class T>
void cast(T* to, const float* from, int64_t n, cudaStream_t stream);
template <class T>
void cast_back(float* to, const T* from, int64_t n, cudaStream_t stream);  // wgrad in T → float

// One entry per norm; the table lives in device memory.
struct RunningNorm {
  float *running_mean, *running_var;
  const float *mean, *var;  // biased, of this step
  int channels;
  float momentum, unbias;  // M / (M − 1)
};
void update_running(const RunningNorm* norms, int count, int max_channels, cudaStream_t stream);

// ---------------------------------------------------------------- image.cu

// The slot that params name → image (batch, H, W, C): bytes or records of the pack, normalised, mixed. A view
// without pack and mixes is a plain stream of bytes.
template <class T>
void load_images(T* image, const InputView& view, cudaStream_t stream);

}  // namespace engine::kernels
