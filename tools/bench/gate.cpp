#include "tools/bench/gate.h"

#include <algorithm>
#include <cmath>
#include <functional>
#include <initializer_list>
#include <span>
#include <utility>

#include "kernels/reference.h"

namespace engine {
namespace {

// Of values in the storage type; sums over pixels, which may cancel, get ten times as much.
double tolerance(Precision precision) {
  switch (precision) {
    case Precision::fp64:
    case Precision::fp32: return 1e-4;
    case Precision::tf32: return 5e-3;
    case Precision::fp16: return 1e-2;
    case Precision::bf16: return 6e-2;
  }
  return 0;
}

double norm(std::span<const float> values) {
  double sum = 0;
  for (float v : values) sum += double{v} * v;
  return std::sqrt(sum);
}

bool learned(const Graph& graph, const Operand& o) {
  return o.gate != kNone && graph.gates[o.gate].learned;
}

std::vector<int> weights_of(const Step& step) {
  if (const auto* conv = std::get_if<Conv>(&step)) {
    if (conv->bias == kNone) return {conv->weight};
    return {conv->weight, conv->bias};
  }
  if (const auto* se = std::get_if<SqueezeExcite>(&step))
    return {se->reduce_weight, se->reduce_bias, se->expand_weight, se->expand_bias};
  return {};
}

class StepGate {
 public:
  StepGate(const Graph& graph, Backend& backend, Backend& reference, const PlanOptions& options)
      : graph_(graph),
        device_(graph, backend, options),
        host_(graph, reference, {.batch = options.batch, .backend = BackendKind::reference}),
        allowed_(tolerance(options.precision)) {}

  std::vector<StepCheck> run(const std::vector<int>& wanted) {
    const int steps = static_cast<int>(graph_.steps.size());
    std::vector<StepCheck> checks;
    for (int i : wanted) checks.push_back({i, name_of(graph_.steps[i])});
    const auto check_of = [&](int step) {
      const auto at = std::find(wanted.begin(), wanted.end(), step);
      return at == wanted.end() ? nullptr : &checks[at - wanted.begin()];
    };
    device_.begin();
    host_.begin();
    for (int i = 0; i < steps; ++i) {
      check_ = check_of(i);
      check_ ? forward(i) : device_.forward(i);
    }
    for (int i = steps - 1; i >= 0; --i) {
      check_ = check_of(i);
      check_ ? backward(i) : device_.backward(i);
    }
    return checks;
  }

 private:
  void forward(int i) {
    const Step& step = graph_.steps[i];
    host_.copy_channels(device_);
    for (const Operand& o : operands_of(step)) {
      host_.copy_data(device_, o.at.buffer);
      if (learned(graph_, o)) host_.copy_gate(device_, o.gate);
    }
    device_.forward(i);
    host_.forward(i);
    if (const Slice* out = output_of(step)) {
      compare("output", device_.data(*out), host_.data(*out), allowed_);
      compare_statistics(*out);
    } else if (const auto* se = std::get_if<SqueezeExcite>(&step)) {
      compare_gate(se->gate, {{"gate", &GateView<float>::gate},
                              {"slope sums", &GateView<float>::slope},
                              {"slope·xhat sums", &GateView<float>::slope_xhat}});
    } else {
      const Slice logits = operands_of(step)[0].at;
      compare("gradient", device_.gradient(logits), host_.gradient(logits), allowed_);
    }
  }

  // Copies what the plan keeps until then; other memory may have a new owner.
  void backward(int i) {
    const Step& step = graph_.steps[i];
    const Plan& plan = host_.program().plan;
    const auto* add = std::get_if<Add>(&step);
    const std::vector<Operand> operands = operands_of(step);
    host_.copy_channels(device_);
    for (size_t k = 0; k < operands.size(); ++k) {
      const Operand& o = operands[k];
      if (!add || !o.plain()) host_.copy_data(device_, o.at.buffer);
      if (plan.steps[i].write[k] == GradientWrite::add) host_.copy_gradient(device_, o.at.buffer);
      if (learned(graph_, o)) host_.copy_gate(device_, o.gate);
    }
    if (const auto* se = std::get_if<SqueezeExcite>(&step)) host_.copy_gate(device_, se->gate);
    if (const Slice* out = output_of(step)) {
      host_.copy_gradient(device_, out->buffer);
      const Operand* gated = plan.gated_by[out->buffer];
      const bool activated = add && add->act != Activation::none;
      if (graph_.buffers[out->buffer].normed || gated || activated)
        host_.copy_data(device_, out->buffer);
      if (gated) host_.copy_gate(device_, gated->gate);
    }
    for (int p : weights_of(step)) host_.copy_parameter_gradient(device_, p);
    device_.backward(i);
    host_.backward(i);
    compare_backward(i, operands);
  }

  void compare_backward(int i, const std::vector<Operand>& operands) {
    const Step& step = graph_.steps[i];
    if (std::holds_alternative<Loss>(step)) return;  // its forward wrote the gradient
    for (size_t k = 0; k < operands.size(); ++k) {
      const Operand& o = operands[k];
      const GradientWrite write = host_.program().plan.steps[i].write[k];
      if (write == GradientWrite::assign || write == GradientWrite::add) {
        compare("operand's gradient", device_.gradient(o.at), host_.gradient(o.at), allowed_);
        if (!learned(graph_, o)) compare_sums(o, host_.gradient(o.at));
      }
      if (write == GradientWrite::scaled)
        compare_sums(o, reference::load_gradient(host_.program().gradient<float>(o.at)));
      if (learned(graph_, o))
        compare_gate(o.gate, {{"dz·h", &GateView<float>::dz_h},
                              {"dz·h'", &GateView<float>::dz_slope},
                              {"dz·h'·xhat", &GateView<float>::dz_slope_xhat}});
    }
    if (const auto* se = std::get_if<SqueezeExcite>(&step)) {
      compare_gate(se->gate, {{"q", &GateView<float>::q}});
      compare_sums(se->in, host_.gradient(se->in.at));
    }
    if (const auto* add = std::get_if<Add>(&step); add && add->act != Activation::none)
      compare("sum's gradient", device_.gradient(add->out), host_.gradient(add->out), allowed_);
    for (int p : weights_of(step)) {
      const int64_t count = elements(graph_.parameters[p].shape);
      compare(graph_.parameters[p].name,
              device_.vector(device_.program().dparameter<float>(p), count),
              host_.vector(host_.program().dparameter<float>(p), count), 10 * allowed_);
    }
  }

  // The mean may be near zero: its error is judged by the standard deviation.
  void compare_statistics(const Slice& out) {
    const auto ours = device_.program().output<float>(out),
               theirs = host_.program().output<float>(out);
    if (!ours.mean) return;
    std::vector<float> var = host_.vector(theirs.var, out.channels());
    compare("variance", device_.vector(ours.var, out.channels()), var, 10 * allowed_);
    for (float& v : var) v = std::sqrt(v);
    compare("mean", device_.vector(ours.mean, out.channels()),
            host_.vector(theirs.mean, out.channels()), 10 * allowed_, norm(var));
  }

  // k0 and k1 may cancel to nothing: their error is judged by the gradient they are taken from.
  void compare_sums(const Operand& o, const std::vector<float>& gradient) {
    if (o.norm == kNone) return;
    const auto ours = device_.program().sums<float>(o), theirs = host_.program().sums<float>(o);
    const double rms = norm(gradient) / std::sqrt(double(gradient.size()) / o.at.channels());
    compare("k0", device_.vector(ours.k0, o.at.channels()),
            host_.vector(theirs.k0, o.at.channels()), allowed_, rms);
    compare("k1", device_.vector(ours.k1, o.at.channels()),
            host_.vector(theirs.k1, o.at.channels()), allowed_, rms);
  }

  using GateVector = std::pair<const char*, float * GateView<float>::*>;
  void compare_gate(int gate, std::initializer_list<GateVector> vectors) {
    const auto ours = device_.program().gate<float>(gate),
               theirs = host_.program().gate<float>(gate);
    const int64_t count = int64_t{host_.program().batch()} * graph_.gates[gate].channels;
    for (const auto& [name, member] : vectors)
      compare(name, device_.vector(ours.*member, count), host_.vector(theirs.*member, count),
              10 * allowed_);
  }

  void compare(const std::string& what, const std::vector<float>& ours,
               const std::vector<float>& theirs, double allowed, double least = 0) {
    std::vector<float> difference(ours.size());
    std::transform(ours.begin(), ours.end(), theirs.begin(), difference.begin(), std::minus<>());
    const double wrong = norm(difference);
    if (wrong == 0) return;
    const double error = wrong / std::max(norm(theirs), least) / allowed;
    if (error <= check_->error || std::isnan(check_->error)) return;
    check_->error = error;
    check_->worst = what;
  }

  const Graph& graph_;
  Rig device_, host_;
  double allowed_;
  StepCheck* check_ = nullptr;  // of the step under way; null: not wanted
};

}  // namespace

std::vector<StepCheck> check_steps(const Graph& graph, Backend& backend, const PlanOptions& options,
                                   const std::vector<int>& wanted) {
  const auto reference = make_reference_backend({});
  return StepGate(graph, backend, *reference, options).run(wanted);
}

}  // namespace engine
