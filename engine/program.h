// A plan with addresses: one batch size and mode of a session, as the backends see it. Everything a
// step reads or writes is handed out here as the views of kernels/operand.h; no backend computes an
// address.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>

#include "engine/arenas.h"
#include "engine/graph.h"
#include "engine/plan.h"
#include "kernels/image.h"
#include "kernels/loss.h"
#include "kernels/operand.h"
#include "kernels/update.h"

namespace engine {

// The preprocessing on the device: (u/255 − mean)/std per channel.
struct Normalisation {
  float mean[3] = {0, 0, 0}, std[3] = {1, 1, 1};
};

// The options of a session that decide how a training program reads images and labels.
struct ProgramInput {
  bool mixing = false;   // batches may come with mixes
  double smoothing = 0;  // of the labels
};

class Program {
 public:
  Program(const Graph& graph, const Plan& plan, const Arenas& arenas,
          const Normalisation& normalisation, int slot_capacity, const ProgramInput& input = {})
      : graph(graph),
        plan(plan),
        arenas(arenas),
        normalisation(normalisation),
        slot_capacity(slot_capacity),
        input(input) {}

  const Graph& graph;
  const Plan& plan;
  Arenas arenas;
  Normalisation normalisation;
  int slot_capacity;  // images per staging slot
  ProgramInput input;

  int batch() const { return plan.options.batch; }
  bool training() const { return plan.options.training; }
  Precision precision() const { return plan.options.precision; }
  // Norms read the statistics of this very batch; else their running values, which have no
  // gradient.
  bool batch_statistics() const { return training() && !plan.options.frozen_norms; }
  // The output of that step is computed again in the backward.
  bool recomputed(int step) const {
    return std::ranges::find(plan.recomputed, step, &Recomputation::step) != plan.recomputed.end();
  }

  InputView images() const;
  TargetView targets() const;  // plain in evaluation

  template <class T>
  OperandView<T> operand(const Operand& o) const;
  template <class T>
  SliceView<T> output(const Slice& s) const;
  // The same place without statistics: they are there when the output is computed again.
  template <class T>
  SliceView<T> output_again(const Slice& s) const;
  template <class T>
  GradientView<T> gradient(const Slice& s) const;
  template <class T>
  ActivatedGradient<T> activated_gradient(int step, const Add& add) const;
  // What the step's forward keeps for its backward: a sum the bytes of its slopes, a maximum what
  // KeptMaxima says; null: nothing.
  uint8_t* kept(int step) const { return scratch<uint8_t>(plan.steps[step].kept); }
  // Where operand `which` of step `step` takes its gradient. A learned-gated operand has no sums of
  // the norm here: the squeeze-excite adds them, through sums().
  template <class T>
  GradientSink<T> sink(int step, int which, const Operand& o) const;
  template <class T>
  GradientSink<T> sums(const Operand& o) const;  // dgamma, dbeta, k0, k1 alone
  template <class R>
  GateView<R> gate(int gate) const;

  template <class T>
  const T* weight(int parameter) const {  // storage type, memory layout
    return arenas.weights.as<T>() + plan.layout.at[parameter];
  }
  template <class R>
  R* master(int parameter) const {  // trained, or running statistics
    const Untyped& arena = graph.parameters[parameter].trained() ? arenas.parameters : arenas.state;
    return arena.as<R>() + plan.layout.at[parameter];
  }
  template <class R>
  R* dparameter(int parameter) const {  // trained parameters only
    return arenas.gradients.as<R>() + plan.layout.at[parameter];
  }
  template <class T>
  T* scratch(const Range& range) const {  // null if absent
    return range.bytes ? placed<T>(range) : nullptr;
  }
  template <class T>
  T* placed(const Range& range) const {  // in the activation arena
    return reinterpret_cast<T*>(arenas.activations.at + range.offset);
  }

 private:
  enum ChannelVector { k0, k1, mean, var };
  template <class R>
  R* channel(ChannelVector which, const Slice& s) const {
    return arenas.channels.as<R>() + which * plan.layout.channels +
           plan.layout.channel_at[s.buffer] + s.c0;
  }
  template <class T>
  T* at(const std::vector<Range>& ranges, const Slice& s) const {
    return placed<T>(ranges[s.buffer]) + s.c0;
  }
};

// ---------------------------------------------------------------- views

inline InputView Program::images() const {
  const Buffer& b = graph.buffers[graph.image.buffer];
  const Normalisation& n = normalisation;
  return {.images = arenas.images,
          .pack = arenas.pack,
          .records = arenas.records,
          .mean_levels = arenas.mean_levels,
          .mixes = training() && input.mixing ? arenas.mixes : nullptr,
          .capacity = slot_capacity,
          .batch = batch(),
          .height = b.height,
          .width = b.width,
          .channels = b.channels,
          .mean = {n.mean[0], n.mean[1], n.mean[2]},
          .std = {n.std[0], n.std[1], n.std[2]},
          .params = arenas.params};
}

inline TargetView Program::targets() const {
  TargetView view{.labels = arenas.labels,
                  .presence = arenas.presence,
                  .capacity = slot_capacity,
                  .classes = graph.classes(),
                  .params = arenas.params};
  if (!training()) return view;
  view.mixes = input.mixing ? arenas.mixes : nullptr;
  view.class_weights = arenas.class_weights;
  view.smoothing = input.smoothing;
  return view;
}

template <class T>
OperandView<T> Program::operand(const Operand& o) const {
  using R = Real<T>;
  const Buffer& b = graph.buffers[o.at.buffer];
  OperandView<T> view{.x = at<T>(plan.data, o.at),
                      .batch = batch(),
                      .height = b.height,
                      .width = b.width,
                      .channels = o.at.channels(),
                      .pitch = b.channels};
  if (o.norm != kNone) {
    const Norm& n = graph.norms[o.norm];
    view.norm = {.mean = batch_statistics() ? channel<R>(mean, o.at) : master<R>(n.running_mean),
                 .var = batch_statistics() ? channel<R>(var, o.at) : master<R>(n.running_var),
                 .gamma = master<R>(n.gamma),
                 .beta = master<R>(n.beta),
                 .eps = R(n.eps)};
  }
  view.act = o.act;
  if (o.gate != kNone) {
    const Gate& g = graph.gates[o.gate];
    if (g.learned)
      view.gate = gate<R>(o.gate).gate;
    else if (training())
      view.random = {g.keep, g.whole_image, purpose(g.name.c_str()), arenas.params};
  }
  return view;
}

template <class T>
SliceView<T> Program::output(const Slice& s) const {
  using R = Real<T>;
  const Buffer& b = graph.buffers[s.buffer];
  const bool statistics = batch_statistics() && b.normed;
  return {.y = at<T>(plan.data, s),
          .batch = batch(),
          .height = b.height,
          .width = b.width,
          .channels = s.channels(),
          .pitch = b.channels,
          .mean = statistics ? channel<R>(mean, s) : nullptr,
          .var = statistics ? channel<R>(var, s) : nullptr};
}

template <class T>
SliceView<T> Program::output_again(const Slice& s) const {
  SliceView<T> view = output<T>(s);
  view.mean = view.var = nullptr;
  return view;
}

template <class T>
GradientView<T> Program::gradient(const Slice& s) const {
  using R = Real<T>;
  const Buffer& b = graph.buffers[s.buffer];
  GradientView<T> view{.grad = at<T>(plan.grad, s),
                       .x = at<T>(plan.data, s),
                       .batch = batch(),
                       .height = b.height,
                       .width = b.width,
                       .channels = s.channels(),
                       .pitch = b.channels};
  if (b.normed && batch_statistics())
    view.norm = {.mean = channel<R>(mean, s), .var = channel<R>(var, s), .eps = R(b.eps)};
  if (const Operand* scaled = plan.scaled[s.buffer]) {
    view.norm = operand<T>(*scaled).norm;
    view.scaled = true;
  }
  if (const Operand* gated = plan.gated_by[s.buffer]) {
    const GateView<R> memory = gate<R>(gated->gate);
    view.gate = memory.gate;
    view.q = memory.q;
    view.act = gated->act;
    if (gated->norm != kNone) view.norm = operand<T>(*gated).norm;
  }
  if (view.normed() || view.gated()) {
    view.k0 = channel<R>(k0, s);  // zero where nothing adds to them
    view.k1 = channel<R>(k1, s);
  }
  return view;
}

template <class T>
ActivatedGradient<T> Program::activated_gradient(int step, const Add& add) const {
  return {.dy = at<T>(plan.grad, add.out),
          .h = at<T>(plan.data, add.out),
          .slopes = kept(step),
          .act = add.act};
}

template <class T>
GradientSink<T> Program::sink(int step, int which, const Operand& o) const {
  using R = Real<T>;
  const GradientWrite write = plan.steps[step].write[which];
  if (write == GradientWrite::none || write == GradientWrite::same) return {};
  if (write == GradientWrite::scaled) return sums<T>(o);
  GradientSink<T> sink{.grad = at<T>(plan.grad, o.at),
                       .pitch = graph.buffers[o.at.buffer].channels,
                       .how = write == GradientWrite::add ? Write::add : Write::assign};
  if (o.gate != kNone && graph.gates[o.gate].learned) {
    const GateView<R> memory = gate<R>(o.gate);
    sink.dz_h = memory.dz_h;
    sink.dz_slope = memory.dz_slope;
    sink.dz_slope_xhat = memory.dz_slope_xhat;
    return sink;
  }
  const GradientSink<T> norm = sums<T>(o);
  sink.dgamma = norm.dgamma;
  sink.dbeta = norm.dbeta;
  sink.k0 = norm.k0;
  sink.k1 = norm.k1;
  return sink;
}

template <class T>
GradientSink<T> Program::sums(const Operand& o) const {
  using R = Real<T>;
  if (o.norm == kNone) return {};
  const Norm& n = graph.norms[o.norm];
  // Frozen statistics have no gradient: their k0 and k1 go where batch statistics would stand,
  // which nobody reads then.
  return {.dgamma = dparameter<R>(n.gamma),
          .dbeta = dparameter<R>(n.beta),
          .k0 = channel<R>(batch_statistics() ? k0 : mean, o.at),
          .k1 = channel<R>(batch_statistics() ? k1 : var, o.at)};
}

template <class R>
GateView<R> Program::gate(int gate) const {
  const Gate& g = graph.gates[gate];
  R* next = scratch<R>(plan.gate[gate]);
  const auto take = [&](int width) {
    R* here = next;
    next += int64_t{batch()} * width;
    return here;
  };
  GateView<R> m{};
  for (R** vector :
       {&m.gate, &m.pooled, &m.slope, &m.slope_xhat, &m.dz_h, &m.dz_slope, &m.dz_slope_xhat, &m.q})
    *vector = take(g.channels);
  m.hidden = take(g.squeezed);
  m.dhidden = take(g.squeezed);
  return m;
}

}  // namespace engine
