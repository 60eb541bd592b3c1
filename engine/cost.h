// The bytes that a pass over a view moves, and how its shape is written: the declared formulas of
// every launch, for all backends.
#pragma once

#include <fmt/format.h>

#include <functional>
#include <string>
#include <utility>

#include "engine/graph.h"
#include "engine/launch.h"
#include "kernels/loss.h"
#include "kernels/operand.h"

namespace engine {

template <class View>
double elements_of(const View& v) {
  return double(v.pixels()) * v.channels;
}

// ---------------------------------------------------------------- bytes

// A load reads the operand, the norm's four vectors and the learned gate.
template <class T>
double bytes_of(const OperandView<T>& v) {
  constexpr double kReal = sizeof(Real<T>);
  return elements_of(v) * sizeof(T) + (v.norm.present() ? 4 * kReal * v.channels : 0) +
         (v.gate ? kReal * v.batch * v.channels : 0);
}

// A store writes the output, and its mean and variance where they are taken.
template <class T>
double bytes_of(const SliceView<T>& v) {
  return elements_of(v) * sizeof(T) + (v.mean ? 2. * sizeof(Real<T>) * v.channels : 0);
}

// A load reads G; where a norm or a gate completes it, x and the vectors, too.
template <class T>
double bytes_of(const GradientView<T>& v) {
  constexpr double kReal = sizeof(Real<T>);
  const bool both = v.normed() || v.gated();
  return elements_of(v) * sizeof(T) * (both ? 2 : 1) + (both ? 4 * kReal * v.channels : 0) +
         (v.gated() ? 2 * kReal * v.batch * v.channels : 0);
}

// The operand's gradient, if it is wanted, is written, and read where it is accumulated; so are the
// vectors of sums.
template <class T>
double bytes_of(const GradientSink<T>& sink, const OperandView<T>& in) {
  const double sums = sink.gated() ? 3. * in.batch : sink.k0 ? 8 : 0;
  return elements_of(in) * sizeof(T) *
             (!sink.grad               ? 0
              : sink.how == Write::add ? 2
                                       : 1) +
         sizeof(Real<T>) * sums * in.channels;
}

// The part of the operand that a backward's epilogue reads.
template <class T>
double epilogue_bytes(const OperandView<T>& in) {
  return in.norm.present() || in.act != Activation::none || in.gate ? bytes_of(in) : 0;
}

// ---------------------------------------------------------------- one launch on every backend

template <class T>
Cost store_gradient_cost(const GradientSink<T>& sink, const OperandView<T>& in) {
  return {elements_of(in) * sizeof(T) + epilogue_bytes(in) + bytes_of(sink, in), 0};
}

// Where winners are kept, of so many elements of an output.
template <class T>
double bytes_of(const KeptMaxima<T>& kept, double elements) {
  return kept.taps ? elements * double(KeptMaxima<T>::bytes(1)) : 0;
}

template <class T>
Cost pool_cost(const SliceView<T>& out, const OperandView<T>& in, const KeptMaxima<T>& kept = {}) {
  return {bytes_of(in) + bytes_of(out) + bytes_of(kept, elements_of(out)), 0};
}

// A maximum that was not kept is found again, so its operand is read.
template <class T>
Cost pool_backward_cost(const GradientSink<T>& sink, const GradientView<T>& dy,
                        const OperandView<T>& in, bool maximal, const KeptMaxima<T>& kept = {}) {
  if (kept.taps) return {bytes_of(dy) + bytes_of(kept, elements_of(dy)) + bytes_of(sink, in), 0};
  return {bytes_of(dy) + (maximal ? bytes_of(in) : epilogue_bytes(in)) + bytes_of(sink, in), 0};
}

template <class T>
Cost add_backward_cost(const GradientView<T>& dy, const ActivatedGradient<T>& sum,
                       const GradientSink<T>& sink_a, const OperandView<T>& a,
                       const GradientSink<T>& sink_b, const OperandView<T>& b) {
  Cost cost{bytes_of(dy), 0};
  if (sum.activated()) cost.bytes += 2 * elements_of(dy) * sizeof(T);  // reads h, leaves dy
  if (sink_a.wanted()) cost += store_gradient_cost(sink_a, a);
  if (sink_b.wanted()) cost += store_gradient_cost(sink_b, b);
  return cost;
}

// Beside the operand it moves four vectors of (N, C), two of (N, S) and the two matrices.
template <class T>
Cost squeeze_excite_cost(const OperandView<T>& in, int squeezed) {
  const double nc = double(in.batch) * in.channels, ns = double(in.batch) * squeezed;
  const double cs = double(in.channels) * squeezed;
  return {bytes_of(in) + sizeof(Real<T>) * (4 * nc + 2 * ns + 2 * cs), 4 * ns * in.channels};
}

template <class T>
Cost squeeze_excite_backward_cost(const OperandView<T>& in, int squeezed) {
  const double nc = double(in.batch) * in.channels, ns = double(in.batch) * squeezed;
  const double cs = double(in.channels) * squeezed;
  return {sizeof(Real<T>) * (8 * nc + 2 * ns + 4 * cs), 8 * ns * in.channels};
}

// ---------------------------------------------------------------- text

constexpr std::string_view name_of(Activation act) {
  switch (act) {
    case Activation::none: return "none";
    case Activation::relu: return "relu";
    case Activation::relu6: return "relu6";
    case Activation::silu: return "silu";
  }
  return "?";
}

// "128x56x56x192/256": batch, height, width, channels / pitch
template <class View>
std::string text_of(const View& v) {
  return fmt::format("{}x{}x{}x{}/{}", v.batch, v.height, v.width, v.channels, v.pitch);
}

// "… norm silu gate"
template <class T>
std::string text_of(const OperandView<T>& v) {
  std::string text = text_of<OperandView<T>>(v);
  if (v.norm.present()) text += " norm";
  if (v.act != Activation::none) text += fmt::format(" {}", name_of(v.act));
  if (v.gate) text += " gate";
  if (v.random.present()) text += " random";
  return text;
}

template <class T>
std::string text_of(const GradientView<T>& v) {
  return text_of<GradientView<T>>(v) + (v.normed() ? " norm" : "") + (v.gated() ? " gate" : "");
}

inline std::string text_of(const Window& w) {
  return w.kernel_h == w.kernel_w
             ? fmt::format("k{} s{} p{}", w.kernel_h, w.stride, w.padding)
             : fmt::format("k{}x{} s{} p{}", w.kernel_h, w.kernel_w, w.stride, w.padding);
}

template <class T>
std::string text_of(const Pool& pool, const OperandView<T>& in) {
  return fmt::format("{} {} {}", text_of(in), pool.maximal ? "max" : "average",
                     text_of(pool.window));
}

// ---------------------------------------------------------------- the loss

// Its forward writes the gradient of the logits, too.
template <class T>
StepExec loss_exec(const OperandView<T>& logits, const TargetView& targets,
                   std::function<void()> forward) {
  return {.forward = one_launch(targets.presence ? "binary_cross_entropy" : "cross_entropy",
                                text_of(logits), {2 * bytes_of(logits), 0}, std::move(forward)),
          .backward = {}};
}

}  // namespace engine
