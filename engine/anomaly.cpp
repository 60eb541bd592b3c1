#include "engine/anomaly.h"

#include <fmt/format.h>

#include <cmath>

namespace engine {
namespace {

// The parameters whose gradients the backward of a step adds to.
std::vector<int> parameters_of(const Graph& graph, const Step& step) {
  std::vector<int> all;
  if (const auto* conv = std::get_if<Conv>(&step)) all = {conv->weight, conv->bias};
  if (const auto* se = std::get_if<SqueezeExcite>(&step))
    all = {se->reduce_weight, se->reduce_bias, se->expand_weight, se->expand_bias};
  for (const Operand& operand : operands_of(step)) {
    if (operand.norm == kNone) continue;
    all.push_back(graph.norms[operand.norm].gamma);
    all.push_back(graph.norms[operand.norm].beta);
  }
  std::erase(all, kNone);
  return all;
}

// The sign of a NaN says nothing.
double unsigned_nan(double value) {
  return std::isnan(value) ? std::abs(value) : value;
}

}  // namespace

std::string to_string(const Anomaly& a) {
  const bool too_large = std::isinf(a.value) && a.dtype == DType::f16;
  return fmt::format("{}: {} holds {}{}", a.layer, a.what, a.value,
                     too_large ? ", beyond fp16's 65504 (--precision bf16 has fp32's range)" : "");
}

DType AnomalySearch::real() const {
  return program_.precision() == Precision::fp64 ? DType::f64 : DType::f32;
}

void AnomalySearch::after_forward(int index) {
  if (first_) return;
  const Step& step = graph_.steps[index];
  const std::string& layer = name_of(step);
  if (const Slice* out = output_of(step)) look_at_output(layer, *out);
  if (const auto* se = std::get_if<SqueezeExcite>(&step)) look_at_gate(layer, se->gate);
  if (const auto* loss = std::get_if<Loss>(&step)) look_at_loss(layer, loss->in.at);
}

void AnomalySearch::after_backward(int index) {
  if (first_) return;
  const Step& step = graph_.steps[index];
  const std::vector<Operand> operands = operands_of(step);
  for (size_t i = 0; i < operands.size(); ++i) {
    const GradientWrite write = program_.plan.steps[index].write[i];
    if (write != GradientWrite::assign && write != GradientWrite::add) continue;
    look_at_slice(name_of(step), "the gradient of its input",
                  program_.plan.grad[operands[i].at.buffer], operands[i].at, true);
  }
  for (const int parameter : parameters_of(graph_, step))
    look_at_gradient(name_of(step), parameter);
}

void AnomalySearch::look_at_output(const std::string& layer, const Slice& slice) {
  look_at_slice(layer, "its output", program_.plan.data[slice.buffer], slice, false);
  const auto look_at_statistics = [&]<class T>(const SliceView<T>& out) {
    if (!out.mean) return;
    look_at_reals(layer, "the mean of its output", out.mean, out.channels, false);
    look_at_reals(layer, "the variance of its output", out.var, out.channels, false);
  };
  if (real() == DType::f64)
    look_at_statistics(program_.output<double>(slice));
  else
    look_at_statistics(program_.output<float>(slice));
}

void AnomalySearch::look_at_gate(const std::string& layer, int gate) {
  const int64_t count = int64_t{program_.batch()} * graph_.gates[gate].channels;
  const void* at = real() == DType::f64 ? static_cast<void*>(program_.gate<double>(gate).gate)
                                        : program_.gate<float>(gate).gate;
  look_at_reals(layer, "its gate", at, count, false);
}

// The forward of the loss leaves the gradient of the logits, too.
void AnomalySearch::look_at_loss(const std::string& layer, const Slice& logits) {
  backend_.synchronize();
  if (!std::isfinite(result_.loss)) first_ = {layer, "the loss", unsigned_nan(result_.loss), false};
  if (program_.training())
    look_at_slice(layer, "the gradient of its input", program_.plan.grad[logits.buffer], logits,
                  true);
}

void AnomalySearch::look_at_gradient(const std::string& layer, int parameter) {
  const Parameter& p = graph_.parameters[parameter];
  const void* at = real() == DType::f64 ? static_cast<void*>(program_.dparameter<double>(parameter))
                                        : program_.dparameter<float>(parameter);
  look_at_reals(layer, "the gradient of " + p.name, at, elements(p.shape), true);
}

void AnomalySearch::look_at_slice(const std::string& layer, const std::string& what,
                                  const Range& range, const Slice& slice, bool backward) {
  if (first_) return;
  const Buffer& b = graph_.buffers[slice.buffer];
  const int64_t rows = int64_t{program_.batch()} * b.height * b.width;
  Tensor values(storage_type(program_.precision()), {rows, b.channels});
  backend_.download(values.bytes.data(), program_.placed<std::byte>(range), values.bytes.size());
  note(layer, what, values, first_not_finite(values, slice.c0, slice.c1), backward);
}

void AnomalySearch::look_at_reals(const std::string& layer, const std::string& what, const void* at,
                                  int64_t count, bool backward) {
  if (first_) return;
  Tensor values(real(), {1, count});
  backend_.download(values.bytes.data(), at, values.bytes.size());
  note(layer, what, values, first_not_finite(values), backward);
}

void AnomalySearch::note(const std::string& layer, const std::string& what, const Tensor& values,
                         int64_t at, bool backward) {
  if (at >= 0) first_ = {layer, what, unsigned_nan(value_at(values, at)), backward, values.dtype};
}

}  // namespace engine
