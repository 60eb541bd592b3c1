// The builder: shapes, parameters, what only annotates, and every refusal.
#include "engine/graph.h"

#include <functional>

#include "engine/error.h"
#include "tests/support.h"

using namespace engine;

namespace {

Graph empty_graph() {
  return Graph("test", 1e-5, 0.1);
}

// The message and kind of what `build` throws.
void check_refused(const std::function<void()>& build, Failure kind, const std::string& message) {
  try {
    build();
    FAIL_CHECK("not refused: " << message);
  } catch (const Error& error) {
    CHECK(error.kind == kind);
    CHECK(std::string(error.what()) == message);
  }
}

struct Extent {
  int height, width, channels;
  bool operator==(const Extent&) const = default;
};
Extent extent(const Value& v) {
  return {v.height, v.width, v.channels};
}

}  // namespace

TEST_CASE("shapes of windows are PyTorch's") {
  Graph g = empty_graph();
  const Value v = g.input(11, 8, 3);
  CHECK(extent(g.conv(v, "a", {.out = 4, .kernel = 3})) == Extent{11, 8, 4});
  CHECK(extent(g.conv(v, "b", {.out = 4, .kernel = 3, .stride = 2})) == Extent{6, 4, 4});
  CHECK(extent(g.conv(v, "c", {.out = 4, .kernel = 3, .padding = 0})) == Extent{9, 6, 4});
  CHECK(extent(g.conv(v, "d", {.out = 4, .kernel = 7, .stride = 2})) == Extent{6, 4, 4});
  CHECK(extent(g.conv(v, "e", {.out = 3, .kernel = 5, .stride = 2, .depthwise = true})) ==
        Extent{6, 4, 3});
  CHECK(extent(g.conv(v, "f", {.out = 7})) == Extent{11, 8, 7});
  CHECK(extent(g.max_pool(v, "g", 3, 2, 1)) == Extent{6, 4, 3});
  CHECK(extent(g.max_pool(v, "h", 2, 2)) == Extent{5, 4, 3});
  CHECK(extent(g.average_pool(v, "i", 3)) == Extent{3, 2, 3});
  CHECK(extent(g.global_pool(v, "j")) == Extent{1, 1, 3});
  CHECK(extent(g.linear(v, "k", 10)) == Extent{1, 1, 10});
}

TEST_CASE("parameters carry the reference's names and layouts, and ours in memory") {
  Graph g = empty_graph();
  const Value v = g.input(4, 5, 3);
  g.conv(v, "c", {.out = 6, .kernel = 3, .bias = true});
  g.linear(v, "l", 2);
  const Value n = g.batch_norm(g.conv(v, "d", {.out = 3, .kernel = 5, .depthwise = true}), "n");
  g.squeeze_excite(n, "se", 2);
  struct Expected {
    const char* name;
    Shape shape, memory;
    bool trained;
  };
  const Expected expected[] = {
      {"c.weight", {6, 3, 3, 3}, {6, 3, 3, 3}, true},
      {"c.bias", {6}, {6}, true},
      {"l.weight", {2, 60}, {2, 4, 5, 3}, true},
      {"l.bias", {2}, {2}, true},
      {"d.weight", {3, 1, 5, 5}, {3, 5, 5, 1}, true},
      {"n.weight", {3}, {3}, true},
      {"n.bias", {3}, {3}, true},
      {"n.running_mean", {3}, {3}, false},
      {"n.running_var", {3}, {3}, false},
      {"se.fc1.weight", {2, 3, 1, 1}, {2, 1, 1, 3}, true},
      {"se.fc1.bias", {2}, {2}, true},
      {"se.fc2.weight", {3, 2, 1, 1}, {3, 1, 1, 2}, true},
      {"se.fc2.bias", {3}, {3}, true},
  };
  REQUIRE(g.parameters.size() == std::size(expected));
  for (size_t i = 0; i < std::size(expected); ++i) {
    CHECK(g.parameters[i].name == expected[i].name);
    CHECK(g.parameters[i].shape == expected[i].shape);
    CHECK(g.parameters[i].memory == expected[i].memory);
    CHECK(g.parameters[i].trained() == expected[i].trained);
  }
  CHECK(g.trained_parameters() == 6 * 27 + 6 + 120 + 2 + 75 + 6 + 6 + 2 + 6 + 3);
}

TEST_CASE("norms, activations, gates only annotate; the rest makes steps") {
  Graph g = empty_graph();
  const Value image = g.input(8, 8, 3);
  const Value raw = g.conv(image, "c", {.out = 4});
  CHECK(g.steps.size() == 1);
  const Value v = g.dropout(g.silu(g.batch_norm(raw, "n")), "d", 0.25f);
  CHECK(g.steps.size() == 1);
  CHECK(v.at == raw.at);
  CHECK(raw.plain());
  CHECK(g.buffers[raw.at.buffer].normed);
  CHECK(g.buffers[raw.at.buffer].eps == 1e-5);
  CHECK(v.norm == 0);
  CHECK(v.act == Activation::silu);
  CHECK(g.gates[v.gate].keep == 0.75f);
  CHECK_FALSE(g.gates[v.gate].whole_image);
  CHECK(g.gates[g.stochastic_depth(raw, "s", 0.5f).gate].whole_image);
  CHECK(g.dropout(raw, "none", 0).gate == kNone);

  const Value sum = g.add(v, raw, "add");
  g.cross_entropy(g.linear(g.global_pool(sum, "pool"), "fc", 5));
  std::vector<std::string> names;
  for (const Step& step : g.steps) names.push_back(name_of(step));
  CHECK(names == std::vector<std::string>{"c", "add", "pool", "fc", "loss"});
  CHECK(operands_of(g.steps[1]).size() == 2);
  CHECK(output_of(g.steps[4]) == nullptr);
  CHECK(g.classes() == 5);
  for (const Parameter& p : g.parameters) CHECK(p.head == p.name.starts_with("fc."));
}

TEST_CASE("concatenation is placement") {
  Graph g = empty_graph();
  const Value image = g.input(9, 9, 3);
  const int dense = g.buffer("dense", 10);
  const Value a = g.max_pool(image, "pool", 3, 2, 1, dense);
  CHECK(a.at == Slice{dense, 0, 3});
  CHECK(g.placed(dense).channels == 3);
  const Value b =
      g.conv(g.relu(g.batch_norm(g.placed(dense), "n")), "c", {.out = 4, .into = dense});
  CHECK(b.at == Slice{dense, 3, 7});
  CHECK(g.placed(dense).at == Slice{dense, 0, 7});
  CHECK(extent(g.placed(dense)) == Extent{5, 5, 7});
  CHECK(g.norms[0].at == Slice{dense, 0, 3});
}

TEST_CASE("the builder refuses what is no network") {
  Graph g = empty_graph();
  const Value image = g.input(6, 6, 3);
  const Value v = g.conv(image, "c", {.out = 4});
  using enum Failure;
  check_refused([&] { g.conv(image, "wide", {.out = 4, .kernel = 9, .padding = 0}); }, usage,
                "wide: the image is too small: its output would be 0x0");
  check_refused([&] { g.max_pool(g.global_pool(v, "p"), "q", 2, 2); }, usage,
                "q: the image is too small: its output would be 0x0");
  check_refused([&] { g.conv(v, "dw", {.out = 5, .depthwise = true}); }, internal,
                "dw: depthwise with 4 inputs and 5 outputs");
  check_refused([&] { g.add(v, image, "sum"); }, internal, "sum: adds 6x6x4 and 6x6x3");
  check_refused([&] { g.batch_norm(g.relu(v), "n"); }, internal, "n: a norm reads a raw slice");
  check_refused([&] { g.batch_norm(g.batch_norm(v, "n1"), "n2"); }, internal,
                "n2: a norm reads a raw slice");
  check_refused([&] { g.silu(g.relu(v)); }, internal, "c: one activation, and before the gate");
  check_refused([&] { g.relu(g.dropout(v, "d", 0.5f)); }, internal,
                "c: one activation, and before the gate");
  check_refused([&] { g.dropout(g.dropout(v, "d1", 0.5f), "d2", 0.5f); }, internal,
                "d2: one gate per value");

  const int gate = g.squeeze_excite(g.silu(v), "se", 2);
  check_refused([&] { g.scale(v, gate); }, internal, "se: gates another value than it squeezed");
  CHECK(g.scale(g.silu(v), gate).gate == gate);

  const int shared = g.buffer("shared", 6);
  g.conv(v, "first", {.out = 4, .into = shared});
  check_refused([&] { g.conv(v, "many", {.out = 3, .into = shared}); }, internal,
                "shared: 4 + 3 channels in a buffer of 6");
  check_refused([&] { g.conv(v, "small", {.out = 2, .stride = 2, .into = shared}); }, internal,
                "shared: a slice of 3x3 in a buffer of 6x6");
  check_refused([&] { g.cross_entropy(v); }, internal, "c: logits are plain and 1x1");
  const Value logits = g.linear(v, "fc", 3);
  check_refused([&] { g.cross_entropy(g.relu(logits)); }, internal, "fc: logits are plain and 1x1");
}

TEST_CASE("norms of one buffer share eps") {
  Graph g = empty_graph();
  const Value v = g.conv(g.input(4, 4, 3), "c", {.out = 2});
  g.batch_norm(v, "n");
  g.buffers[v.at.buffer].eps = 1e-3;
  check_refused([&] { g.batch_norm(v, "m"); }, Failure::internal,
                "m: norms of one buffer share eps");
}
