// The oracle as a backend: the whole session in plain loops, double or float, one thread.
#include <functional>
#include <utility>

#include "engine/cost.h"
#include "engine/error.h"
#include "engine/forms.h"
#include "engine/host_backend.h"
#include "kernels/reference.h"

namespace engine {
namespace {

// ---------------------------------------------------------------- steps

// Every step is one launch per direction: its loops.

Cost cost_of(const Program& program, const Conv& conv, Direction direction) {
  return candidates(program.graph, conv, direction, program.plan.options.forms()).front().cost;
}

template <class T>
StepExec prepare(const Program& program, int index, const Conv& conv) {
  const auto in = program.operand<T>(conv.in);
  const auto out = program.output<T>(conv.out);
  const T* weight = program.weight<T>(conv.weight);
  const Real<T>* bias = conv.bias == kNone ? nullptr : program.master<Real<T>>(conv.bias);
  const Window window = conv.window;
  const bool depthwise = conv.depthwise();
  const std::string shape =
      fmt::format("{} to {} {}", text_of(in), out.channels, text_of(conv.window));
  StepExec exec;
  const auto forward = [&](const SliceView<T>& y) {
    return one_launch("convolve", shape, cost_of(program, conv, Direction::forward), [=] {
      reference::store_output(
          y, reference::convolve(reference::load_operand(in), weight, in, y, window, depthwise),
          bias);
    });
  };
  exec.forward = forward(out);
  if (program.recomputed(index)) exec.again = forward(program.output_again<T>(conv.out));
  if (!program.training()) return exec;
  const auto dy = program.gradient<T>(conv.out);
  const auto sink = program.sink<T>(index, 0, conv.in);
  Real<T>* dweight = program.dparameter<Real<T>>(conv.weight);
  Real<T>* dbias = bias ? program.dparameter<Real<T>>(conv.bias) : nullptr;
  const auto backward = [=] {
    const std::vector<T> d = reference::load_gradient(dy);
    if (sink.grad)
      reference::store_gradient(
          sink, reference::convolve_transposed(d, weight, in, dy, window, depthwise), in);
    reference::convolve_weight(dweight, d, reference::load_operand(in), in, dy, window, depthwise);
    if (dbias) reference::bias_gradient<T>(dbias, d, dy.channels);
  };
  exec.backward =
      one_launch("convolve backward", shape, cost_of(program, conv, Direction::backward), backward);
  return exec;
}

template <class T>
StepExec prepare(const Program& program, int, const SqueezeExcite& se) {
  using R = Real<T>;
  const auto in = program.operand<T>(se.in);
  const GateView<R> gate = program.gate<R>(se.gate);
  const int squeezed = program.graph.gates[se.gate].squeezed;
  const reference::SqueezeExcitePointers<R> weights{
      program.master<R>(se.reduce_weight), program.master<R>(se.reduce_bias),
      program.master<R>(se.expand_weight), program.master<R>(se.expand_bias)};
  const std::string shape = fmt::format("{} to {}", text_of(in), squeezed);
  StepExec exec;
  exec.forward =
      one_launch("squeeze_excite_forward", shape, squeeze_excite_cost(in, squeezed),
                 [=] { reference::squeeze_excite_forward(gate, in, weights, squeezed); });
  if (!program.training()) return exec;
  const reference::SqueezeExcitePointers<R> gradients{
      program.dparameter<R>(se.reduce_weight), program.dparameter<R>(se.reduce_bias),
      program.dparameter<R>(se.expand_weight), program.dparameter<R>(se.expand_bias)};
  const auto sums = program.sums<T>(se.in);
  exec.backward = one_launch(
      "squeeze_excite_backward", shape, squeeze_excite_backward_cost(in, squeezed),
      [=] { reference::squeeze_excite_backward(sums, gate, gradients, in, weights, squeezed); });
  return exec;
}

template <class T>
StepExec prepare(const Program& program, int index, const Pool& pool) {
  const auto in = program.operand<T>(pool.in);
  const auto out = program.output<T>(pool.out);
  const Window window = pool.window;
  const bool maximal = pool.maximal;
  const std::string shape = text_of(pool, in);
  StepExec exec;
  exec.forward = one_launch("pool_forward", shape, pool_cost(out, in),
                            [=] { reference::pool_forward(out, in, window, maximal); });
  if (!program.training()) return exec;
  const auto dy = program.gradient<T>(pool.out);
  const auto sink = program.sink<T>(index, 0, pool.in);
  if (!sink.grad) return exec;
  exec.backward = one_launch("pool_backward", shape, pool_backward_cost(sink, dy, in, maximal),
                             [=] { reference::pool_backward(sink, dy, in, window, maximal); });
  return exec;
}

template <class T>
StepExec prepare(const Program& program, int index, const Add& add) {
  const auto a = program.operand<T>(add.a), b = program.operand<T>(add.b);
  const auto out = program.output<T>(add.out);
  const std::string shape = text_of(a) + " + " + text_of(b);
  StepExec exec;
  exec.forward = one_launch("add_forward", shape, {bytes_of(a) + bytes_of(b) + bytes_of(out), 0},
                            [=, act = add.act] { reference::add_forward(out, a, b, act); });
  if (!program.training()) return exec;
  const auto dy = program.gradient<T>(add.out);
  const auto sum = program.activated_gradient<T>(index, add);
  const auto sink_a = program.sink<T>(index, 0, add.a), sink_b = program.sink<T>(index, 1, add.b);
  const auto backward = [=] {
    std::vector<T> d = reference::load_gradient(dy);
    reference::multiply_slopes(d, sum);
    if (dy.dense()) std::ranges::copy(d, sum.dy);  // an operand may share this memory
    reference::store_gradient(sink_a, d, a);
    reference::store_gradient(sink_b, d, b);
  };
  exec.backward =
      one_launch("add_backward", shape, add_backward_cost(dy, sum, sink_a, a, sink_b, b), backward);
  return exec;
}

template <class T>
StepExec prepare(const Program& program, int index, const Loss& loss) {
  const auto logits = program.operand<T>(loss.in);
  T* dlogits = program.training() ? program.sink<T>(index, 0, loss.in).grad : nullptr;
  const TargetView targets = program.targets();
  const auto forward = [=, m = program.arenas] {
    StepResult& result = m.results[m.params->result];
    if (targets.presence)
      reference::binary_cross_entropy(dlogits, result, logits, targets, *m.scale);
    else
      reference::cross_entropy(dlogits, result, logits, targets, *m.scale);
  };
  return loss_exec(logits, targets, forward);
}

// ---------------------------------------------------------------- the backend

template <class T>
class ReferenceBackend final : public HostBackend<Real<T>> {
  using R = Real<T>;

 public:
  explicit ReferenceBackend(const BackendOptions& options)
      : HostBackend<Real<T>>(options.communicator) {
    info_.ranks = options.communicator.ranks();
  }

  const BackendInfo& info() const override { return info_; }
  size_t free_bytes() const override { return SIZE_MAX; }

  std::map<std::string, std::string> algorithms() const override { return {}; }
  void set_algorithms(const std::map<std::string, std::string>&) override {}

 private:
  std::vector<StepExec> prepare_steps(const Program& program) override {
    std::vector<StepExec> execs;
    for (const Step& step : program.graph.steps)
      execs.push_back(std::visit(
          [&](const auto& s) {
            return engine::prepare<T>(program, static_cast<int>(execs.size()), s);
          },
          step));
    return execs;
  }

  void load_images(const Program& program) override {
    reference::load_images(program.output<T>(program.graph.image).y, program.images());
  }

  void update_running(const Program& program, int64_t images) override {
    for (const Norm& n : program.graph.norms) {
      const auto now = program.output<T>(n.at);
      reference::update_running(program.master<R>(n.running_mean), program.master<R>(n.running_var),
                                now.mean, now.var, now.channels, R(n.momentum),
                                images * now.height * now.width);
    }
  }

  BackendInfo info_{.kind = BackendKind::reference,
                    .description = sizeof(T) == 8 ? "reference, double" : "reference, float"};
};

}  // namespace

std::unique_ptr<Backend> make_reference_backend(const BackendOptions& options) {
  if (options.precision == Precision::fp64)
    return std::make_unique<ReferenceBackend<double>>(options);
  require(options.precision == Precision::fp32, Failure::usage,
          "--device reference computes in fp64 or fp32, not {}", name_of(options.precision));
  return std::make_unique<ReferenceBackend<float>>(options);
}

}  // namespace engine
