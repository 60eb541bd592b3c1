// The oracle: every step as plain loops over the views of operand.h, in double or float, on the
// host. Slow and obvious; it allocates as it likes. Tests compare kernels with it, and the
// reference backend runs whole sessions.
#pragma once

#include <cstdint>
#include <vector>

#include "kernels/image.h"
#include "kernels/loss.h"
#include "kernels/operand.h"

namespace engine::reference {

// f(x), dense (N, H, W, C).
template <class T>
std::vector<T> load_operand(const OperandView<T>& in);
// out = dense + bias (null: none); takes mean and biased variance of what was stored if out.mean is
// set.
template <class T>
void store_output(const SliceView<T>& out, const std::vector<T>& dense, const Real<T>* bias);
// dy, dense.
template <class T>
std::vector<T> load_gradient(const GradientView<T>& gradient);
// From df, dense: the sink's gradient, and the sums of the norm or of the learned gate.
template <class T>
void store_gradient(const GradientSink<T>& sink, const std::vector<T>& df,
                    const OperandView<T>& in);
// dgamma, dbeta, k0 and k1 += what Σt and Σt·xhat per channel of one reader give.
template <class T>
void add_sums(const GradientSink<T>& sink, const std::vector<Real<T>>& sum_t,
              const std::vector<Real<T>>& sum_t_xhat, const OperandView<T>& in);

// f (N, H, W, C), weight (O, KH, KW, C) or depthwise (C, KH, KW) → y (N, OH, OW, O).
template <class T>
std::vector<T> convolve(const std::vector<T>& f, const T* weight, const OperandView<T>& in,
                        const SliceView<T>& out, Window w, bool depthwise);
// df (N, H, W, C) from dy (N, OH, OW, O).
template <class T>
std::vector<T> convolve_transposed(const std::vector<T>& dy, const T* weight,
                                   const OperandView<T>& in, const GradientView<T>& out, Window w,
                                   bool depthwise);
// dweight = the weight's gradient.
template <class T>
void convolve_weight(Real<T>* dweight, const std::vector<T>& dy, const std::vector<T>& f,
                     const OperandView<T>& in, const GradientView<T>& out, Window w,
                     bool depthwise);
// dbias += Σ dy over the pixels.
template <class T>
void bias_gradient(Real<T>* dbias, const std::vector<T>& dy, int channels);

// A maximum or an average over each window; an average counts the padding. The backward of a
// maximum takes the first in scan order.
template <class T>
void pool_forward(const SliceView<T>& out, const OperandView<T>& in, Window w, bool maximal);
template <class T>
void pool_backward(const GradientSink<T>& sink, const GradientView<T>& dy, const OperandView<T>& in,
                   Window w, bool maximal);

// out = act(a + b).
template <class T>
void add_forward(const SliceView<T>& out, const OperandView<T>& a, const OperandView<T>& b,
                 Activation act);
// dy *= act'(h), element by element.
template <class T>
void multiply_slopes(std::vector<T>& dy, const ActivatedGradient<T>& sum);

template <class R>
struct SqueezeExcitePointers {
  R *reduce, *reduce_bias, *expand, *expand_bias;  // (S, C), (S,), (C, S), (C,)
};
template <class T>
void squeeze_excite_forward(const GateView<Real<T>>& gate, const OperandView<T>& in,
                            const SqueezeExcitePointers<Real<T>>& weights, int squeezed);
// Adds to the weight gradients.
template <class T>
void squeeze_excite_backward(const GradientSink<T>& sink, const GateView<Real<T>>& gate,
                             const SqueezeExcitePointers<Real<T>>& gradients,
                             const OperandView<T>& in,
                             const SqueezeExcitePointers<Real<T>>& weights, int squeezed);

// Softmax cross entropy: fills in result's loss, correct1 and correct5, and dlogits unless it is
// null.
template <class T>
void cross_entropy(T* dlogits, StepResult& result, const OperandView<T>& logits,
                   const TargetView& targets, const ScaleState& scale);

// The same of several labels: the sum of their binary cross entropies over the divisor. correct1
// counts the images of which every label that is not missing is on the right side of 0; correct5
// is 0.
template <class T>
void binary_cross_entropy(T* dlogits, StepResult& result, const OperandView<T>& logits,
                          const TargetView& targets, const ScaleState& scale);

// running = running + momentum·(this step's − running), the variance unbiased over `count` pixels.
template <class R>
void update_running(R* running_mean, R* running_var, const R* mean, const R* var, int channels,
                    R momentum, int64_t count);

// image (batch, H, W, C) = the slot that view.params names, normalised and mixed.
template <class T>
void load_images(T* image, const InputView& view);

}  // namespace engine::reference
