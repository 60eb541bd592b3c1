#include "tools/engine/onnx_graph.h"

#include <algorithm>
#include <cmath>
#include <optional>
#include <set>
#include <vector>

#include "engine/error.h"

namespace engine {
namespace {

constexpr char kLogits[] = "logits";

class Exporter {
 public:
  Exporter(const Graph& graph, const std::map<std::string, Tensor>& tensors,
           const OnnxOptions& options)
      : graph_(graph), tensors_(tensors), options_(options) {
    if (options.fold_norms) find_folded();
  }

  OnnxModel run(const Preprocess& preprocess) {
    input(preprocess);
    for (const Step& step : graph_.steps) std::visit([&](const auto& s) { convert(s); }, step);
    model_.name = graph_.model;
    model_.outputs.push_back({kLogits, DType::f32, {0, graph_.classes()}});
    return std::move(model_);
  }

 private:
  struct Produced {  // channels [c0, c1) of a buffer
    int c0, c1;
    std::string value;
  };

  // ---- pieces of a model

  std::string node(std::string op, std::vector<std::string> inputs, std::string output,
                   std::vector<std::pair<std::string, OnnxNode::Attribute>> attributes = {}) {
    model_.nodes.push_back(
        {std::move(op), output, std::move(inputs), output, std::move(attributes)});
    return output;
  }

  std::string initializer(const std::string& name, Tensor tensor) {
    if (initialized_.insert(name).second) model_.initializers.emplace_back(name, std::move(tensor));
    return name;
  }

  std::string constant(const std::string& name, const Shape& shape, std::span<const float> values) {
    Tensor t(DType::f32, shape);
    std::copy(values.begin(), values.end(), t.as<float>().begin());
    return initializer(name, std::move(t));
  }

  const Tensor& value_of(int parameter) const {
    return tensors_.at(graph_.parameters[parameter].name);
  }

  std::string parameter(int index) {
    return initializer(graph_.parameters[index].name, convert(value_of(index), DType::f32));
  }

  // ---- folding

  // A norm is folded if all that one convolution writes is read through it and nothing else.
  void find_folded() {
    std::vector<std::set<int>> readers(graph_.buffers.size());  // norms, kNone among them
    for (const Step& step : graph_.steps)
      for (const Operand& in : operands_of(step)) readers[in.at.buffer].insert(in.norm);
    for (const Step& step : graph_.steps) {
      const auto* conv = std::get_if<Conv>(&step);
      if (!conv || readers[conv->out.buffer].size() != 1) continue;
      const int norm = *readers[conv->out.buffer].begin();
      if (norm != kNone && graph_.norms[norm].at == conv->out) folded_[conv->out.buffer] = norm;
    }
  }

  // weight · s and (bias − mean) · s + beta with s = gamma / √(var + eps), per output channel.
  std::pair<std::string, std::string> folded_weights(const Conv& conv, const Norm& norm) {
    const Tensor weight = convert(value_of(conv.weight), DType::f64),
                 gamma = convert(value_of(norm.gamma), DType::f64),
                 beta = convert(value_of(norm.beta), DType::f64),
                 mean = convert(value_of(norm.running_mean), DType::f64),
                 var = convert(value_of(norm.running_var), DType::f64);
    Tensor w(DType::f32, weight.shape), b(DType::f32, beta.shape);
    const size_t channels = size_t(beta.size()), each = size_t(weight.size()) / channels;
    for (size_t c = 0; c < channels; ++c) {
      const double scale = gamma.as<double>()[c] / std::sqrt(var.as<double>()[c] + norm.eps);
      for (size_t i = c * each; i < (c + 1) * each; ++i)
        w.as<float>()[i] = static_cast<float>(weight.as<double>()[i] * scale);
      const double bias =
          conv.bias == kNone ? 0 : convert(value_of(conv.bias), DType::f64).as<double>()[c];
      b.as<float>()[c] =
          static_cast<float>((bias - mean.as<double>()[c]) * scale + beta.as<double>()[c]);
    }
    return {initializer(conv.name + ".folded.weight", std::move(w)),
            initializer(conv.name + ".folded.bias", std::move(b))};
  }

  // ---- what steps read

  void input(const Preprocess& p) {
    const Buffer& image = graph_.buffers[graph_.image.buffer];
    const int64_t height = image.height, width = image.width, channels = image.channels;
    std::string value = "images";
    if (options_.with_normalisation) {
      model_.inputs.push_back({"pixels", DType::u8, {0, height, width, channels}});
      std::vector<float> scale, shift;  // (v / 255 − mean) / std
      for (int64_t c = 0; c < channels; ++c) {
        scale.push_back(static_cast<float>(1 / (255. * p.std[c])));
        shift.push_back(static_cast<float>(-double{p.mean[c]} / p.std[c]));
      }
      value = node("Cast", {"pixels"}, "pixels.float", {{"to", int64_t{1}}});
      value = node("Mul", {value, constant("pixels.scale", {channels}, scale)}, "pixels.scaled");
      value =
          node("Add", {value, constant("pixels.shift", {channels}, shift)}, "pixels.normalised");
      value = node("Transpose", {value}, "images", {{"perm", std::vector<int64_t>{0, 3, 1, 2}}});
    } else {
      model_.inputs.push_back({value, DType::f32, {0, channels, height, width}});
    }
    produced(graph_.image, value);
  }

  void produced(const Slice& at, const std::string& value) {
    produced_[at.buffer].push_back({at.c0, at.c1, value});
  }

  // A slice is one producer's output, or several in a row.
  std::string slice(const Slice& at) {
    std::vector<std::string> parts;
    int channel = at.c0;
    for (const Produced& p : produced_[at.buffer])
      if (p.c0 == channel && p.c1 <= at.c1) {
        parts.push_back(p.value);
        channel = p.c1;
      }
    require(channel == at.c1, Failure::internal, "{}: channels {} to {} are no whole outputs",
            graph_.buffers[at.buffer].name, at.c0, at.c1);
    if (parts.size() == 1) return parts[0];
    const std::string name = fmt::format("{}[0:{}]", graph_.buffers[at.buffer].name, at.c1);
    return once(name, [&] { return node("Concat", parts, name, {{"axis", int64_t{1}}}); });
  }

  // A value that several steps read is made once.
  template <class Make>
  std::string once(const std::string& name, Make make) {
    if (made_.insert(name).second) make();
    return name;
  }

  std::string activated(Activation act, const std::string& value) {
    switch (act) {
      case Activation::none: break;
      case Activation::relu:
        return once(value + ".relu", [&] { node("Relu", {value}, value + ".relu"); });
      case Activation::relu6:
        return once(value + ".relu6", [&] {
          const std::string least = constant("zero", {}, {{0.f}}),
                            most = constant("six", {}, {{6.f}});
          node("Clip", {value, least, most}, value + ".relu6");
        });
      case Activation::silu:
        return once(value + ".silu", [&] {
          node("Sigmoid", {value}, value + ".sigmoid");
          node("Mul", {value, value + ".sigmoid"}, value + ".silu");
        });
    }
    return value;
  }

  std::string load(const Operand& in) {
    std::string value = slice(in.at);
    const auto folded = folded_.find(in.at.buffer);
    if (in.norm != kNone && folded == folded_.end()) {
      const Norm& n = graph_.norms[in.norm];
      value = once(n.name, [&] {
        node("BatchNormalization",
             {value, parameter(n.gamma), parameter(n.beta), parameter(n.running_mean),
              parameter(n.running_var)},
             n.name, {{"epsilon", static_cast<float>(n.eps)}});
      });
    }
    value = activated(in.act, value);
    if (in.gate == kNone || !graph_.gates[in.gate].learned) return value;  // no random gates
    const std::string& gate = graph_.gates[in.gate].name;
    return once(gate + ".gated", [&] { node("Mul", {value, gate}, gate + ".gated"); });
  }

  // ---- steps

  static std::vector<int64_t> twice(int64_t value) { return {value, value}; }

  void convert(const Conv& s) {
    std::string value = load(s.in);
    const std::string name = s.out == graph_.logits ? kLogits : s.name;
    std::vector<std::string> weights;
    if (const auto folded = folded_.find(s.out.buffer); folded != folded_.end()) {
      const auto [weight, bias] = folded_weights(s, graph_.norms[folded->second]);
      weights = {weight, bias};
    } else {
      weights = {parameter(s.weight)};
      if (s.bias != kNone) weights.push_back(parameter(s.bias));
    }
    const Shape& shape = graph_.parameters[s.weight].shape;
    if (shape.size() == 2) {  // a linear layer; what it reads may come from another one
      value = once(value + ".flat", [&] {
        node("Flatten", {value}, value + ".flat", {{"axis", int64_t{1}}});
      });
      weights.insert(weights.begin(), value);
      produced(s.out, node("Gemm", weights, name, {{"transB", int64_t{1}}}));
      return;
    }
    weights.insert(weights.begin(), value);
    const int64_t padding = s.window.padding, groups = s.depthwise() ? s.in.at.channels() : 1;
    produced(s.out, node("Conv", weights, name,
                         {{"kernel_shape", std::vector<int64_t>{shape[2], shape[3]}},
                          {"strides", twice(s.window.stride)},
                          {"pads", std::vector<int64_t>(4, padding)},
                          {"group", groups}}));
  }

  void convert(const SqueezeExcite& s) {
    std::string value = node("GlobalAveragePool", {load(s.in)}, s.name + ".avgpool");
    value = node("Conv", {value, parameter(s.reduce_weight), parameter(s.reduce_bias)},
                 s.name + ".fc1");
    value = activated(Activation::silu, value);
    value = node("Conv", {value, parameter(s.expand_weight), parameter(s.expand_bias)},
                 s.name + ".fc2");
    node("Sigmoid", {value}, graph_.gates[s.gate].name);
  }

  void convert(const Pool& s) {
    const Buffer& from = graph_.buffers[s.in.at.buffer];
    const Window& w = s.window;
    const bool global = w.kernel_h == from.height && w.kernel_w == from.width && w.padding == 0;
    const std::string value = load(s.in), kind = s.maximal ? "MaxPool" : "AveragePool";
    produced(s.out, global ? node("Global" + kind, {value}, s.name)
                           : node(kind, {value}, s.name,
                                  {{"kernel_shape", std::vector<int64_t>{w.kernel_h, w.kernel_w}},
                                   {"strides", twice(w.stride)},
                                   {"pads", std::vector<int64_t>(4, w.padding)}}));
  }

  void convert(const Add& s) {
    const std::string a = load(s.a), b = load(s.b);
    produced(s.out, activated(s.act, node("Add", {a, b}, s.name)));
  }

  void convert(const Loss&) {}

  static Tensor convert(const Tensor& tensor, DType to) { return engine::convert(tensor, to); }

  const Graph& graph_;
  const std::map<std::string, Tensor>& tensors_;
  const OnnxOptions options_;
  OnnxModel model_;
  std::map<int, std::vector<Produced>> produced_;  // by buffer
  std::map<int, int> folded_;                      // norms, by buffer
  std::set<std::string> made_, initialized_;
};

}  // namespace

OnnxModel to_onnx(const Graph& graph, const std::map<std::string, Tensor>& tensors,
                  const Preprocess& preprocess, const OnnxOptions& options) {
  return Exporter(graph, tensors, options).run(preprocess);
}

}  // namespace engine
