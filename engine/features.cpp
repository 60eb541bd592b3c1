#include "engine/features.h"

#include "engine/error.h"
#include "engine/session.h"

namespace engine {

Head head_of(const Graph& graph) {
  Head head;
  for (const Step& step : graph.steps)
    if (const auto* conv = std::get_if<Conv>(&step); conv && conv->out == graph.logits)
      head.linear = conv;
  require(head.linear != nullptr, Failure::internal, "{}: no layer leaves the logits", graph.model);
  const Operand& in = head.linear->in;
  if (in.norm != kNone || in.act != Activation::none ||
      (in.gate != kNone && graph.gates[in.gate].learned))
    return head;
  for (const Step& step : graph.steps) {
    const auto* pool = std::get_if<Pool>(&step);
    if (!pool || pool->maximal || pool->out != in.at) continue;
    const Buffer& b = graph.buffers[pool->in.at.buffer];
    if (pool->window.kernel_h == b.height && pool->window.kernel_w == b.width) head.pool = pool;
  }
  return head;
}

// The raw output of a layer as one of its readers loads it in evaluation, where random gates are
// open.
std::vector<float> Session::read_operand(const Operand& o, int count) const {
  require(options_.features && last_mode_ == Mode::evaluate, Failure::internal,
          "what layers read is kept by evaluations with SessionOptions::features");
  require(o.gate == kNone || !graph_.gates[o.gate].learned, Failure::internal,
          "{}: a learned gate is not kept", graph_.buffers[o.at.buffer].name);
  const Running& r = const_cast<Session*>(this)->running(last_batch_, last_mode_);
  const std::vector<double> raw =
      read_slice(arenas().activations.at + r.plan.data[o.at.buffer].offset, o.at, count);
  const size_t channels = size_t(o.at.channels());
  std::vector<ChannelNorm<double>> norms(channels);
  if (o.norm != kNone) {
    const Norm& n = graph_.norms[o.norm];
    const auto values = [&](int parameter, Untyped arena) {
      return convert(read(parameter, arena), DType::f64);
    };
    const Tensor mean = values(n.running_mean, arenas().state),
                 var = values(n.running_var, arenas().state),
                 gamma = values(n.gamma, arenas().parameters),
                 beta = values(n.beta, arenas().parameters);
    const NormView<double> view{mean.as<double>().data(), var.as<double>().data(),
                                gamma.as<double>().data(), beta.as<double>().data(), n.eps};
    for (size_t c = 0; c < channels; ++c) norms[c] = view.channel(static_cast<int>(c));
  }
  std::vector<float> values(raw.size());
  for (size_t i = 0; i < raw.size(); ++i)
    values[i] = static_cast<float>(load_operand(raw[i], norms[i % channels], o.act).h);
  return values;
}

std::vector<float> Session::features(int count) const {
  return read_operand(head_of(graph_).linear->in, count);
}

std::vector<float> Session::feature_maps(int count) const {
  const Head head = head_of(graph_);
  require(head.pool != nullptr, Failure::usage,
          "{}: does not end in an average over the image and a linear layer, so it has no class "
          "activation maps",
          graph_.model);
  return read_operand(head.pool->in, count);
}

}  // namespace engine
