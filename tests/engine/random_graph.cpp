#include "tests/engine/random_graph.h"

#include <algorithm>
#include <string>
#include <utility>
#include <vector>

#include "engine/rng.h"

namespace engine::test {

namespace {

class RandomGraph {
 public:
  RandomGraph(uint64_t seed, bool residuals) : residuals_(residuals), rng_({.seed = seed}) {}

  Graph make() {
    values_ = {g_.conv(g_.input(6 + below(8), 6 + below(8), 3), "stem", {.out = 1 + below(9)})};
    for (int i = 0, layers = 2 + below(10); i < layers; ++i) add_layer("layer" + std::to_string(i));
    Value sum = ending(values_[0], "ending0");
    for (size_t i = 1; i < values_.size(); ++i) {
      const std::string name = "ending" + std::to_string(i);
      sum = g_.add(sum, ending(values_[i], name), name + ".add");
    }
    g_.cross_entropy(g_.linear(sum, "head", 4));
    return std::move(g_);
  }

 private:
  int below(int n) { return static_cast<int>(rng_.below(n)); }

  Value annotated(Value v, const std::string& name) {
    if (below(3) > 0) v = g_.batch_norm(v, name + ".norm");
    const int act = below(3);
    if (act == 1) v = g_.relu(v);
    if (act == 2) v = g_.silu(v);
    if (below(5) == 0)
      v = below(2) ? g_.dropout(v, name + ".drop", 0.3f)
                   : g_.stochastic_depth(v, name + ".drop", 0.3f);
    return v;
  }

  Value ending(const Value& v, const std::string& name) {
    return g_.conv(g_.global_pool(annotated(v, name), name + ".pool"), name, {.out = 4});
  }

  void add_layer(const std::string& name) {
    const Value v = values_[below(static_cast<int>(values_.size()))];
    const Value in = annotated(v, name);
    const int small = std::min(v.height, v.width);
    switch (below(residuals_ ? 8 : 7)) {
      case 0: return keep(g_.conv(in, name, {.out = 1 + below(9), .kernel = 1 + 2 * below(2)}));
      case 1:
        return keep(g_.conv(
            in, name, {.out = v.channels, .kernel = 3, .stride = 1 + below(2), .depthwise = true}));
      case 2: return keep(g_.max_pool(in, name, 3, 2, 1));
      case 3: return small < 2 ? void() : keep(g_.average_pool(in, name, 2));
      case 4: return add_sum(in, name);
      case 5: return add_gated(in, name);
      case 7: return add_residual(v, name);
      default: return add_block(in, name);
    }
  }

  void add_sum(const Value& in, const std::string& name) {
    std::vector<Value> alike;
    for (const Value& other : values_)
      if (other.channels == in.channels && other.height == in.height && other.width == in.width)
        alike.push_back(other);
    const Value other = alike[below(static_cast<int>(alike.size()))];
    keep(g_.add(in, annotated(other, name + ".other"), name));
  }

  // A norm that the sum alone reads; what it is added to may have readers in between, and has none
  // later.
  void add_residual(const Value v, const std::string& name) {
    Value y = v;
    if (below(2))
      y = annotated(g_.conv(v, name + ".narrow", {.out = 1 + below(9)}), name + ".inner");
    y = g_.conv(y, name + ".wide", {.out = v.channels, .kernel = 1 + 2 * below(2)});
    if (below(3) == 0) keep(g_.conv(v, name + ".between", {.out = 1 + below(9)}));
    std::erase_if(values_, [&](const Value& value) { return value.at == v.at; });
    Value shortcut = v;
    if (below(3) == 0)
      shortcut = g_.batch_norm(g_.conv(v, name + ".shortcut", {.out = v.channels}), name + ".n");
    keep(g_.add(g_.batch_norm(y, name + ".sum"), shortcut, name,
                below(2) ? Activation::relu : Activation::none));
  }

  void add_gated(const Value& in, const std::string& name) {
    Value y = g_.conv(in, name + ".wide", {.out = in.channels, .kernel = 3, .depthwise = true});
    y = g_.silu(g_.batch_norm(y, name + ".wide.norm"));
    y = g_.scale(y, g_.squeeze_excite(y, name + ".gate", 1 + below(3)));
    keep(g_.conv(y, name, {.out = 1 + below(9)}));
  }

  void add_block(const Value& in, const std::string& name) {
    const int layers = 1 + below(3), growth = 1 + below(4);
    const int dense = g_.buffer(name, in.channels + layers * growth);
    g_.conv(in, name + ".open", {.out = in.channels, .into = dense});
    for (int l = 0; l < layers; ++l) {
      const std::string layer = name + ".layer" + std::to_string(l);
      const Value seen = g_.relu(g_.batch_norm(g_.placed(dense), layer + ".norm"));
      g_.conv(seen, layer, {.out = growth, .kernel = 3, .into = dense});
    }
    keep(g_.placed(dense));
  }

  void keep(const Value& v) { values_.push_back(v); }

  bool residuals_;
  Rng rng_;
  Graph g_{"random", 1e-5, 0.1};
  std::vector<Value> values_;
};

}  // namespace

Graph random_graph(uint64_t seed, bool residuals) {
  return RandomGraph(seed, residuals).make();
}

}  // namespace engine::test
