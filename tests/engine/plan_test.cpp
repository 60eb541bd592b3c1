// The planner's promises, checked from lifetimes derived here a second time: nothing alive is
// overlapped, the first writer of a gradient assigns, buckets are complete when they are sent.
#include "engine/plan.h"

#include <fmt/format.h>

#include <algorithm>
#include <map>
#include <set>

#include "engine/error.h"
#include "engine/features.h"
#include "models/models.h"
#include "tests/engine/random_graph.h"
#include "tests/engine/step_cases.h"
#include "tests/support.h"

using namespace engine;
using namespace engine::test;

namespace {

// ---------------------------------------------------------------- lifetimes, a second time

struct Life {
  std::string name;
  Range range;
  int from, to;
};

// Walks a step as session and backends do and notes what each instant touches.
// The buffer whose gradient memory `buffer` uses: that of the sum, where it was given `same` or
// `scaled`.
int root(const Graph& graph, const Plan& plan, int buffer) {
  for (size_t i = 0; i < graph.steps.size(); ++i)
    if (const auto* add = std::get_if<Add>(&graph.steps[i]))
      for (int k : {0, 1}) {
        const GradientWrite write = plan.steps[i].write[k];
        if ((write == GradientWrite::same || write == GradientWrite::scaled) &&
            (k ? add->b : add->a).at.buffer == buffer)
          return root(graph, plan, add->out.buffer);
      }
  return buffer;
}

class Lifetimes {
 public:
  Lifetimes(const Graph& graph, const Plan& plan)
      : graph_(graph), plan_(plan), steps_(static_cast<int>(graph.steps.size())) {}

  std::vector<Life> derive() {
    if (graph_.image.buffer != kNone) touch_data(graph_.image.buffer, 0);
    for (int i = 0; i < steps_; ++i) forward(i, i);
    int time = steps_;
    for (int i = steps_ - 1; plan_.options.training && i >= 0; --i) {
      for (const Recomputation& again : plan_.recomputed)
        if (again.before == i) recompute(again.step, time);
      backward(i, time + 1);
      time += 2;
    }
    touch_data(graph_.logits.buffer, time);
    if (!plan_.options.training && plan_.options.features) {
      const Head head = head_of(graph_);
      touch_data(head.linear->in.at.buffer, time);
      if (head.pool) touch_data(head.pool->in.at.buffer, time);
    }
    if (plan_.options.training && plan_.options.input_gradient)
      touch_grad(graph_.image.buffer, time);
    std::vector<Life> lives;
    for (auto& [key, life] : lives_) lives.push_back(life);
    return lives;
  }

 private:
  void touch(const std::string& name, const Range& range, int time) {
    if (range.bytes == 0) return;
    const auto [it, fresh] = lives_.try_emplace(name, Life{name, range, time, time});
    it->second.to = time;
  }
  // What is computed again has two lives, and is there only once it is.
  void touch_data(int buffer, int time) {
    REQUIRE(plan_.data[buffer].bytes > 0);
    const std::string name = graph_.buffers[buffer].name + std::to_string(buffer);
    const bool again = time >= steps_ && is_recomputed(buffer);
    if (again) CHECK_MESSAGE(there_again_.contains(buffer), name << " is read too early");
    touch((again ? "data again " : "data ") + name, plan_.data[buffer], time);
  }
  bool is_recomputed(int buffer) const {
    return std::ranges::any_of(plan_.recomputed, [&](const Recomputation& again) {
      return output_of(graph_.steps[again.step])->buffer == buffer;
    });
  }
  // A convolution, which leaves the whole buffer, in its forward's scratch.
  void recompute(int i, int time) {
    const auto* conv = std::get_if<Conv>(&graph_.steps[i]);
    REQUIRE(conv);
    CHECK(conv->out.channels() == graph_.buffers[conv->out.buffer].channels);
    CHECK_FALSE(there_again_.contains(conv->out.buffer));
    touch_data(conv->in.at.buffer, time);
    touch_gate(conv->in.gate, time);
    there_again_.insert(conv->out.buffer);
    touch_data(conv->out.buffer, time);
    touch_scratch(plan_.steps[i].forward, time);
  }
  // Gradients that share memory on purpose are one tenant.
  void touch_grad(int buffer, int time) {
    REQUIRE(plan_.grad[buffer].bytes > 0);
    touch("grad " + std::to_string(root(graph_, plan_, buffer)), plan_.grad[buffer], time);
  }
  void touch_gate(int gate, int time) {
    if (gate != kNone && graph_.gates[gate].learned)
      touch("gate " + graph_.gates[gate].name, plan_.gate[gate], time);
  }
  void touch_scratch(const ScratchPlan& s, int time) {
    const Range* ranges[] = {&s.operand, &s.output, &s.weight, &s.partials};
    for (int k = 0; k < 4; ++k) touch(fmt::format("scratch {} at {}", k, time), *ranges[k], time);
  }

  void forward(int i, int time) {
    const Step& step = graph_.steps[i];
    for (const Operand& o : operands_of(step)) {
      touch_data(o.at.buffer, time);
      touch_gate(o.gate, time);
      if (std::holds_alternative<Loss>(step) && plan_.options.training)
        touch_grad(o.at.buffer, time);
    }
    if (const Slice* out = output_of(step)) touch_data(out->buffer, time);
    if (const auto* se = std::get_if<SqueezeExcite>(&step)) touch_gate(se->gate, time);
    touch("kept " + std::to_string(i), plan_.steps[i].kept, time);
    touch_scratch(plan_.steps[i].forward, time);
  }

  void backward(int i, int time) {
    const Step& step = graph_.steps[i];
    if (std::holds_alternative<Loss>(step)) return;
    if (const auto* se = std::get_if<SqueezeExcite>(&step)) {  // vectors only
      touch_gate(se->gate, time);
      touch_scratch(plan_.steps[i].backward, time);
      return;
    }
    const Slice& out = *output_of(step);
    touch_grad(out.buffer, time);
    if (graph_.buffers[out.buffer].normed || plan_.gated_by[out.buffer])
      touch_data(out.buffer, time);
    if (const Operand* gated = plan_.gated_by[out.buffer]) touch_gate(gated->gate, time);
    const auto operands = operands_of(step);
    for (size_t k = 0; k < operands.size(); ++k) {
      const Operand& o = operands[k];
      if (!std::holds_alternative<Add>(step) || !o.plain()) touch_data(o.at.buffer, time);
      touch_gate(o.gate, time);
      if (plan_.steps[i].write[k] != GradientWrite::none) touch_grad(o.at.buffer, time);
    }
    touch("kept " + std::to_string(i), plan_.steps[i].kept, time);
    touch_scratch(plan_.steps[i].backward, time);
  }

  const Graph& graph_;
  const Plan& plan_;
  int steps_;
  std::map<std::string, Life> lives_;
  std::set<int> there_again_;  // buffers
};

bool disjoint(const Range& a, const Range& b) {
  return a.offset + a.bytes <= b.offset || b.offset + b.bytes <= a.offset;
}

void check_memory(const Graph& graph, const Plan& plan, const std::string& what) {
  const std::vector<Life> lives = Lifetimes(graph, plan).derive();
  size_t sum = 0, overlaps = 0;
  std::vector<size_t> live(3 * graph.steps.size() + 1);
  for (size_t i = 0; i < lives.size(); ++i) {
    const Life& a = lives[i];
    CHECK_MESSAGE(a.range.offset % 256 == 0, what << ": " << a.name);
    CHECK_MESSAGE(a.range.offset + a.range.bytes <= plan.activations, what << ": " << a.name);
    sum += (a.range.bytes + 255) / 256 * 256;
    for (int t = a.from; t <= a.to; ++t) live[t] += a.range.bytes;
    for (size_t j = 0; j < i; ++j) {
      const Life& b = lives[j];
      if (a.to < b.from || b.to < a.from || disjoint(a.range, b.range)) continue;
      ++overlaps;
      FAIL_CHECK(what << ": " << a.name << " and " << b.name << " overlap");
    }
  }
  CHECK(overlaps == 0);
  CHECK(plan.activations <= sum);
  CHECK(plan.activations >= *std::max_element(live.begin(), live.end()));
}

// ---------------------------------------------------------------- gradients

// In backward order the first writer of a channel assigns (or shares), every later one adds; a
// step's backward finds its output's gradient written; a slice is wholly one or the other; and
// nobody writes to a sum's gradient before an operand's producer has read it scaled.
void check_writes(const Graph& graph, const Plan& plan, const std::string& what) {
  std::map<int, int> writes;  // to a gradient's memory, by its root
  std::map<int, int> wanted;  // by buffer that is read scaled: the writes to it by then
  std::vector<std::vector<bool>> written;
  for (const Buffer& b : graph.buffers) written.emplace_back(b.channels);
  for (int i = static_cast<int>(graph.steps.size()) - 1; i >= 0; --i) {
    const Step& step = graph.steps[i];
    if (std::holds_alternative<SqueezeExcite>(step)) continue;
    const Slice* out = output_of(step);
    if (out)
      for (int c = out->c0; c < out->c1; ++c)
        CHECK_MESSAGE(written[out->buffer][c],
                      what << ": " << name_of(step) << " reads no gradient");
    if (out && wanted.contains(out->buffer)) {
      REQUIRE(std::holds_alternative<Conv>(step));
      CHECK_MESSAGE(writes[root(graph, plan, out->buffer)] == wanted[out->buffer],
                    what << ": " << name_of(step) << " reads a gradient that has changed");
    }
    const auto* add = std::get_if<Add>(&step);
    if (add && add->act != Activation::none) ++writes[root(graph, plan, out->buffer)];
    const auto operands = operands_of(step);
    int shared = 0;
    for (size_t k = 0; k < operands.size(); ++k) {
      const Operand& o = operands[k];
      const GradientWrite write = plan.steps[i].write[k];
      if (o.at.buffer == graph.image.buffer && !plan.options.input_gradient) {
        CHECK(write == GradientWrite::none);
        continue;
      }
      for (int c = o.at.c0; c < o.at.c1; ++c) {
        CHECK_MESSAGE((write == GradientWrite::add) == written[o.at.buffer][c],
                      what << ": " << name_of(step));
        written[o.at.buffer][c] = true;
      }
      CHECK(write != GradientWrite::none);
      if (write == GradientWrite::assign || write == GradientWrite::add) {
        ++writes[root(graph, plan, o.at.buffer)];
        continue;
      }
      REQUIRE(add);
      if (write == GradientWrite::scaled) {
        wanted[o.at.buffer] = writes[root(graph, plan, out->buffer)];
        CHECK((o.norm != kNone && o.act == Activation::none && o.gate == kNone));
      } else {
        ++shared;
        CHECK(o.plain());
      }
      CHECK_FALSE(graph.buffers[out->buffer].normed);
      CHECK(o.at.channels() == graph.buffers[o.at.buffer].channels);
      CHECK(plan.grad[o.at.buffer].offset == plan.grad[out->buffer].offset);
      CHECK(plan.grad[o.at.buffer].bytes == plan.grad[out->buffer].bytes);
    }
    CHECK(shared <= 1);
  }
}

// ---------------------------------------------------------------- buckets

void check_buckets(const Graph& graph, const Plan& plan, const std::string& what) {
  const ParameterLayout& layout = plan.layout;
  int64_t next = 0;
  int last = static_cast<int>(graph.steps.size());
  for (const Bucket& b : plan.buckets) {
    CHECK(b.first == next);
    CHECK(b.elements > 0);
    CHECK(b.after_step <= last);
    next = b.first + b.elements;
    last = b.after_step;
  }
  CHECK(next == layout.trained);

  const auto sent_after = [&](int parameter) {
    const int64_t at = layout.at[parameter];
    for (const Bucket& b : plan.buckets)
      if (at >= b.first && at + elements(graph.parameters[parameter].shape) <= b.first + b.elements)
        return b.after_step;
    FAIL_CHECK(what << ": " << graph.parameters[parameter].name << " is in no bucket");
    return -1;
  };
  const auto check_complete = [&](int parameter, int step) {
    if (parameter == kNone) return;
    CHECK_MESSAGE(sent_after(parameter) <= step,
                  what << ": " << graph.parameters[parameter].name << " is sent too early");
  };
  for (int i = 0; i < static_cast<int>(graph.steps.size()); ++i) {
    for (const Operand& o : operands_of(graph.steps[i]))
      if (o.norm != kNone) {
        check_complete(graph.norms[o.norm].gamma, i);
        check_complete(graph.norms[o.norm].beta, i);
      }
    if (const auto* conv = std::get_if<Conv>(&graph.steps[i])) {
      check_complete(conv->weight, i);
      check_complete(conv->bias, i);
    }
    if (const auto* se = std::get_if<SqueezeExcite>(&graph.steps[i]))
      for (int p : {se->reduce_weight, se->reduce_bias, se->expand_weight, se->expand_bias})
        check_complete(p, i);
  }
}

void check_layout(const Graph& graph, const ParameterLayout& layout) {
  for (bool trained : {true, false}) {
    std::vector<std::pair<int64_t, int64_t>> ranges;
    for (size_t p = 0; p < graph.parameters.size(); ++p) {
      if (graph.parameters[p].trained() != trained) continue;
      CHECK(layout.at[p] % 64 == 0);
      ranges.emplace_back(layout.at[p], layout.at[p] + elements(graph.parameters[p].shape));
    }
    std::sort(ranges.begin(), ranges.end());
    for (size_t i = 1; i < ranges.size(); ++i) CHECK(ranges[i - 1].second <= ranges[i].first);
    if (!ranges.empty()) CHECK(ranges.back().second <= (trained ? layout.trained : layout.state));
  }
  for (size_t b = 1; b < graph.buffers.size(); ++b)
    CHECK(layout.channel_at[b] >= layout.channel_at[b - 1] + graph.buffers[b - 1].channels);
  CHECK(layout.channels >= layout.channel_at.back() + graph.buffers.back().channels);
}

// Returns how many outputs lean memory computes again.
int check_plan(const Graph& graph, PlanOptions options, const std::string& what) {
  int recomputed = 0;
  for (const bool training : {true, false})
    for (const MemoryUse memory : {MemoryUse::fast, MemoryUse::lean}) {
      options.training = training;
      options.memory = memory;
      options.features = memory == MemoryUse::lean;  // which is nothing else to evaluation
      const Plan plan = make_plan(graph, options);
      check_memory(graph, plan, what);
      check_layout(graph, plan.layout);
      check_buckets(graph, plan, what);
      if (training) check_writes(graph, plan, what);
      if (!training || memory == MemoryUse::fast) CHECK(plan.recomputed.empty());
      recomputed += static_cast<int>(plan.recomputed.size());
    }
  return recomputed;
}

constexpr struct {
  BackendKind backend;
  Precision precision;
  ConvForm conv;
} kKinds[] = {{BackendKind::reference, Precision::fp64, ConvForm::automatic},
              {BackendKind::cpu, Precision::fp32, ConvForm::automatic},
              {BackendKind::cuda, Precision::fp16, ConvForm::automatic},
              {BackendKind::cuda, Precision::fp32, ConvForm::fused},
              {BackendKind::cuda, Precision::bf16, ConvForm::library}};

}  // namespace

// ---------------------------------------------------------------- tests

TEST_CASE("plans of every model keep their promises") {
  for (const std::string& name : model_names()) {
    const bool digits = name == "mnist_cnn";
    for (int size : digits ? std::vector{28} : std::vector{64, 97, 224}) {
      const Graph graph = make_model(name, {.classes = 35, .height = size, .width = size});
      for (int batch : {1, 7}) {
        const auto& kind = kKinds[(batch + size) % std::size(kKinds)];
        check_plan(graph,
                   {.batch = batch,
                    .precision = kind.precision,
                    .backend = kind.backend,
                    .conv = kind.conv},
                   fmt::format("{} at {}, batch {}", name, size, batch));
      }
    }
  }
}

TEST_CASE("plans of random graphs keep their promises") {
  int recomputed = 0;
  for (int seed = 0; seed < 300; ++seed) {
    const Graph graph = random_graph(seed, true);
    const auto& kind = kKinds[seed % std::size(kKinds)];
    recomputed += check_plan(graph,
                             {.batch = 1 + seed % 5,
                              .frozen_norms = seed % 7 == 0,
                              .input_gradient = seed % 2 == 0,
                              .precision = kind.precision,
                              .backend = kind.backend,
                              .conv = kind.conv,
                              .bucket_elements = 1 + seed % 700},
                             fmt::format("random graph {}", seed));
  }
  CHECK(recomputed >= 100);
}

// The outcome of a step in fast memory, whose bits lean memory leaves too.
StepOutcome run_in_both_memories(const Graph& graph, int seed) {
  const auto backend = make_reference_backend({.precision = Precision::fp32});
  SessionOptions options{.precision = Precision::fp32};
  StepOutcome fast = run_step(graph, 2, *backend, options);
  options.memory = MemoryUse::lean;
  const StepOutcome lean = run_step(graph, 2, *backend, options);
  CHECK_MESSAGE(lean.values == fast.values, "random graph " << seed << " in lean memory");
  return fast;
}

// Runs the same graphs: a wrong lifetime, writer or alias shows in the gradients, since the
// reference keeps everything in the planned arena. Without residuals: in float a sum behind ReLU
// may turn its sign.
TEST_CASE("random graphs give the same gradients whatever the plan") {
  for (int seed = 0; seed < 40; ++seed) {
    const Graph graph = random_graph(seed, false);
    const Worst w = compare(run_in_both_memories(graph, seed), run_reference(graph, 2), 0.1);
    CHECK_MESSAGE(w.error <= 1e-4, "random graph " << seed << ": " << w.name << " " << w.error);
  }
}

TEST_CASE("random graphs with residuals have the same bits in lean memory as in fast") {
  for (int seed = 0; seed < 40; ++seed) run_in_both_memories(random_graph(seed, true), seed);
}

TEST_CASE("a plain operand shares the gradient of its sum") {
  Graph g("test", 1e-5, 0.1);
  const Value x = g.conv(g.input(4, 4, 3), "x", {.out = 4});
  const Value y = g.conv(x, "y", {.out = 4});
  const Value one = g.add(g.batch_norm(y, "y.norm"), x, "one");
  const Value z = g.conv(one, "z", {.out = 4});
  const Value two = g.add(g.batch_norm(z, "z.norm"), one, "two");
  g.cross_entropy(g.linear(two, "fc", 2));
  const Plan plan = make_plan(g, {.batch = 2});
  using enum GradientWrite;
  const auto& writes = plan.steps;
  CHECK(writes[4].write == std::array{assign, same});  // two: one's gradient is two's
  CHECK(writes[3].write[0] == add);                    // z adds its part to it
  CHECK(writes[2].write == std::array{assign, same});  // one: so is x's
  CHECK(writes[1].write[0] == add);
  const auto offset = [&](const Value& v) { return plan.grad[v.at.buffer].offset; };
  CHECK(offset(x) == offset(two));
  CHECK(offset(one) == offset(two));
  CHECK(offset(y) != offset(two));
}

TEST_CASE("nobody writes the gradient of a norm that a sum alone reads") {
  Graph g("test", 1e-5, 0.1);
  const Value x = g.conv(g.input(4, 4, 3), "x", {.out = 4});                   // step 0
  const Value y = g.conv(g.relu(g.batch_norm(x, "x.norm")), "y", {.out = 4});  // step 1
  const Value z = g.conv(x, "z", {.out = 4});                                  // step 2
  const Value sum =
      g.add(g.batch_norm(y, "y.norm"), g.batch_norm(z, "z.norm"), "sum", Activation::relu);  // 3
  const Value narrow = g.conv(sum, "narrow", {.out = 2});                // step 4
  const Value wide = g.conv(narrow, "wide", {.out = 4});                 // step 5
  const Value two = g.add(g.batch_norm(wide, "wide.norm"), sum, "two");  // step 6
  const Value three = g.add(g.batch_norm(g.conv(two, "direct", {.out = 4}), "n"), two, "three");
  g.cross_entropy(g.linear(three, "fc", 2));
  const Plan plan = make_plan(g, {.batch = 2});
  using enum GradientWrite;
  CHECK(plan.steps[3].write == std::array{scaled, scaled});
  CHECK(plan.steps[6].write == std::array{scaled, same});
  CHECK(plan.steps[8].write == std::array{assign, same});  // "direct" adds to what it would read
  const auto offset = [&](const Value& v) { return plan.grad[v.at.buffer].offset; };
  for (const Value& v : {y, z, sum, wide, two}) CHECK(offset(v) == offset(three));
  CHECK(offset(narrow) != offset(three));
}

TEST_CASE("a sum that a norm reads shares nothing") {
  Graph g("test", 1e-5, 0.1);
  const Value a = g.conv(g.input(4, 4, 3), "a", {.out = 4});
  const Value b = g.conv(g.relu(a), "b", {.out = 4});
  const Value sum = g.add(a, b, "sum");  // step 2: both plain, one may share
  const Value again = g.add(g.batch_norm(sum, "n"), sum, "again");  // step 3: sum has a norm
  g.cross_entropy(g.linear(g.relu(again), "fc", 2));
  const Plan plan = make_plan(g, {.batch = 2});
  using enum GradientWrite;
  CHECK(plan.steps[3].write[0] == assign);  // the norm's sweep writes first
  CHECK(plan.steps[3].write[1] == add);     // so the plain read of the same buffer adds
  CHECK(plan.steps[2].write[0] == assign);  // a norm reads the sum: nobody shares with it
  CHECK(plan.steps[2].write[1] == assign);
  CHECK(plan.steps[1].write[0] == add);  // a's second reader in backward order
  CHECK(plan.steps[0].write[0] == none);
}

TEST_CASE("a third reader of a gated buffer is refused") {
  Graph g("test", 1e-5, 0.1);
  const Value raw = g.conv(g.input(4, 4, 3), "wide", {.out = 4});
  const Value v = g.silu(g.batch_norm(raw, "n"));
  const Value y = g.conv(g.scale(v, g.squeeze_excite(v, "se", 2)), "project", {.out = 4});
  g.cross_entropy(g.linear(g.add(y, raw, "sum"), "fc", 2));
  CHECK_THROWS_WITH_AS(make_plan(g, {}),
                       "wide: only the squeeze-excite and one step may read a gated buffer; 3 do",
                       Error);
}

TEST_CASE("only convolutions and pools read a learned gate") {
  Graph g("test", 1e-5, 0.1);
  const Value a = g.conv(g.input(4, 4, 3), "a", {.out = 3});
  const Value v = g.silu(g.conv(a, "b", {.out = 3}));
  g.cross_entropy(g.linear(g.add(g.scale(v, g.squeeze_excite(v, "se", 2)), a, "sum"), "fc", 2));
  CHECK_THROWS_WITH_AS(make_plan(g, {}), "sum: only a convolution or a pool reads a learned gate",
                       Error);
}

TEST_CASE("a gradient that only some channels of a reader wait for is refused") {
  Graph g("test", 1e-5, 0.1);
  const Value image = g.input(4, 4, 3);
  const int dense = g.buffer("dense", 4);
  g.conv(image, "a", {.out = 2, .into = dense});
  g.conv(image, "b", {.out = 2, .into = dense});
  const Value all = g.placed(dense);
  Value half = all;
  half.at.c1 = 2;
  half.channels = 2;
  const Value x = g.conv(all, "whole", {.out = 2});
  const Value y = g.conv(half, "half", {.out = 2});  // later in forward order: writes first
  g.cross_entropy(g.linear(g.add(x, y, "sum"), "fc", 2));
  CHECK_THROWS_WITH_AS(make_plan(g, {}), "whole: first writer of only some channels", Error);
}

// Half of what PyTorch's eager autocast step allocates at its peak: 10.9 and 8.4 GB on an H200.
TEST_CASE("a step of batch 128 at 224 px in fp16 takes at most half of PyTorch's memory") {
  const std::pair<std::string, double> limits[] = {{"efficientnet_b3", 5.45e9},
                                                   {"densenet121", 4.2e9}};
  for (const auto& [name, limit] : limits) {
    const Graph graph = make_model(name, {.classes = 35});
    const Plan plan = make_plan(
        graph, {.batch = 128, .precision = Precision::fp16, .backend = BackendKind::cuda});
    const auto totals = plan.totals(graph, {});
    MESSAGE(name << ": " << totals.sum() / 1e9 << " GB, of which activations and scratch "
                 << totals.activations / 1e9);
    CHECK(totals.sum() <= limit);
  }
}

TEST_CASE("the largest batch is what fits, what is asked for or what 32 bits index") {
  const Graph graph = make_model("efficientnet_b3", {.classes = 35});
  const PlanOptions options{
      .batch = 4096, .precision = Precision::fp16, .backend = BackendKind::cuda};
  const auto needed = [&](int batch) {
    PlanOptions of_batch = options;
    of_batch.batch = batch;
    return make_plan(graph, of_batch).totals(graph, {}).sum();
  };
  CHECK(indexed_batch(graph) == 2147483647 / (112 * 112 * 144));
  CHECK(largest_batch(graph, options, {}, SIZE_MAX) == indexed_batch(graph));
  PlanOptions few = options;
  few.batch = 65;
  CHECK(largest_batch(graph, few, {}, SIZE_MAX) == 64);
  const size_t room = needed(100);
  CHECK(largest_batch(graph, options, {}, room) == 100);
  CHECK(largest_batch(graph, options, {}, room - 1) == 99);
  CHECK(largest_batch(graph, options, {}, 1) == 0);
}

TEST_CASE("a batch whose tensors 32 bits cannot index is told, but on the reference") {
  const Graph graph = make_model("efficientnet_b3", {.classes = 35});
  PlanOptions options{.batch = 1188, .backend = BackendKind::cpu};
  CHECK_NOTHROW(check_indexed(graph, options));
  options.batch = 1189;
  CHECK_THROWS_WITH_AS(check_indexed(graph, options),
                       "a batch of 1189 images of 224 by 224 pixels: 32 bits can index the tensors "
                       "of 1188 at most",
                       Error);
  CHECK(mentions(what_fits(graph, options, {}, SIZE_MAX),
                 "the largest batch that fits is 1188; with --memory lean it needs"));
  CHECK(
      mentions(what_fits(graph, options, {}, SIZE_MAX), "and the largest batch that fits is 1188"));
  options.backend = BackendKind::reference;
  CHECK_NOTHROW(check_indexed(graph, options));
}
