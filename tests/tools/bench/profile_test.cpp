// Where a step's time goes: records that are launches, and the arithmetic of the gap report, on
// made-up times; a profile of the CPU backend, whose parts make up the step.
#include <algorithm>
#include <cmath>
#include <numeric>
#include <string>
#include <vector>

#include "engine/error.h"
#include "models/models.h"
#include "tests/support.h"
#include "tools/bench/gaps.h"
#include "tools/bench/profile.h"
#include "tools/bench/profile_report.h"
#include "tools/bench/records.h"

using namespace engine;
using namespace engine::test;
using doctest::Approx;

namespace {

constexpr uint32_t kLayers = 7, kBeside = 9;  // streams

// A step of five launches: two kernels, none, one, a sum on a stream beside, one.
class MadeUpStep {
 public:
  MadeUpStep() {
    for (const char* kernel : {"memset", "join all_reduce", "load_operand", "all_reduce", "update"})
      owned_.push_back({.kernel = kernel, .shape = "s", .cost = {}, .enqueue = {}});
    for (const Launch& launch : owned_) launches.push_back({&launch, kNone});
    trace.one_by_one = {record("zero", 0, kLayers, 0), record("zero", 1, kLayers, 0),
                        record("load", 2, kLayers, 2), record("ncclSum", 3, kBeside, 3),
                        record("adam", 5, kLayers, 4)};
    for (int step = 0; step < 2; ++step) {
      const uint64_t t = 100 * (step + 1);
      add_captured({"zero", "zero", "load", "ncclSum", "adam"}, t);
    }
  }

  static DeviceRecord record(std::string name, uint64_t start, uint32_t stream, int launch = -1) {
    return {.name = std::move(name),
            .start = start,
            .end = start + 1,
            .stream = stream,
            .captured = launch < 0,
            .launch = launch};
  }
  void add_captured(const std::vector<std::string>& names, uint64_t start) {
    for (const std::string& name : names)  // a graph has streams of its own
      trace.steps.push_back(record(name, start++, 30));
  }
  std::vector<LaunchRecords> match(int steps = 2) const {
    return match_records(launches, trace, steps);
  }
  std::string complaint(int steps = 2) const {
    return message_of([&] { match(steps); }, Failure::internal);
  }

  std::vector<OrderedLaunch> launches;
  DeviceTrace trace;

 private:
  std::vector<Launch> owned_;
};

ProfiledLaunch launch(std::string kernel, std::string layer, double ms, double gap, Cost cost,
                      std::string shape = "") {
  ProfiledLaunch l{.kernel = std::move(kernel),
                   .shape = std::move(shape),
                   .layer = std::move(layer),
                   .kind = {},
                   .cost = cost,
                   .ms = ms,
                   .gap_ms = gap,
                   .kernels = 1};
  l.kind = kind_of_kernel(l.kernel);
  return l;
}

// Copies 1 GB/s, products 1 GFLOP/s: a megabyte or a megaflop takes a millisecond.
StepProfile made_up_profile() {
  StepProfile p{.hardware = "made up", .backend = BackendKind::cuda};
  p.ceilings = {1e9, 1e9};
  p.traced.launches = {launch("load_operand", "a", 3, 0, {2e6, 0}),
                       launch("cuBLASLt forward", "b", 5, 0.5, {1e6, 4e6}),
                       launch("note_time", "(note_time)", 0, 0.25, {0, 0}, "reduced"),
                       launch("update", "(update)", 1, 0.25, {2e6, 0})};
  p.traced.ms = 10;
  p.untraced = {.ms = 10, .marked_ms = 9.75, .waiting_ms = 0.125, .joining_ms = 0.5};
  return p;
}

StepBench small_bench() {
  return with_defaults({.model = "mnist_cnn", .batch = 4, .steps = 3, .warmup = 1});
}

double sum_of(const StepProfile& p, double ProfiledLaunch::*member) {
  double sum = 0;
  for (const ProfiledLaunch& l : p.traced.launches) sum += l.*member;
  return sum;
}

}  // namespace

TEST_CASE("records are matched to launches by order and name, on two streams") {
  MadeUpStep step;
  step.trace.steps.insert(step.trace.steps.begin(), MadeUpStep::record("memcpy", 50, kLayers, 99));
  CHECK_FALSE(step.trace.steps.front().captured);  // an upload between steps is no launch
  const std::vector<LaunchRecords> matched = step.match();
  REQUIRE(matched.size() == 2);
  const std::vector<size_t> kernels = {2, 0, 1, 1, 1};
  for (int s = 0; s < 2; ++s)
    for (size_t i = 0; i < kernels.size(); ++i) CHECK(matched[s][i].size() == kernels[i]);
  CHECK(matched[1][4].front().start == 204);
  CHECK(matched[1][4].front().name == "adam");
  CHECK(matched[1][4].front().stream == kLayersStream);
  CHECK(matched[1][3].front().stream == kBesideStream);
}

TEST_CASE("a launch may have kernels on both streams; the layers wait for all of them") {
  MadeUpStep step;
  step.trace.one_by_one[1].stream = kBeside;  // of the memset
  step.trace.one_by_one[1].name = "ncclGather";
  for (const size_t i : {1, 6}) step.trace.steps[i].name = "ncclGather";
  const std::vector<LaunchRecords> matched = step.match();
  CHECK(matched[1][0][1].stream == kBesideStream);
  const Graph graph = make_model("mnist_cnn", {.classes = 10, .height = 28, .width = 28});
  const TracedSteps traced = summarise(step.launches, graph, matched);
  CHECK_FALSE(traced.launches[0].beside);
  CHECK(traced.launches[0].ms == Approx(2e-6));
  CHECK(traced.launches[2].gap_ms == 0);
}

TEST_CASE("a kernel that is scheduled before the one ahead has ended counts from that end") {
  MadeUpStep step;
  for (const size_t i : {1, 6}) step.trace.steps[i].start -= 1;  // the second memset of each step
  const Graph graph = make_model("mnist_cnn", {.classes = 10, .height = 28, .width = 28});
  const TracedSteps traced = summarise(step.launches, graph, step.match());
  CHECK(traced.launches[0].ms == Approx(2e-6));
  CHECK(traced.launches[0].gap_ms == 0);
}

TEST_CASE("sums beside the layers may come early or late") {
  MadeUpStep step;
  step.trace.steps.clear();
  step.add_captured({"ncclSum", "zero", "zero", "load", "adam"}, 100);
  step.add_captured({"zero", "zero", "load", "adam", "ncclSum"}, 200);
  const std::vector<LaunchRecords> matched = step.match();
  CHECK(matched[0][3].front().start == 100);
  CHECK(matched[1][3].front().start == 204);
}

TEST_CASE("a trace that is not the step says where") {
  {
    MadeUpStep step;
    step.trace.steps[7].name = "other";
    CHECK(mentions(step.complaint(), "step 1"));
    CHECK(mentions(step.complaint(), "other ran where load of launch 2 (load_operand s)"));
  }
  {
    MadeUpStep step;
    step.trace.steps.pop_back();
    CHECK(mentions(step.complaint(), "ends in step 1, where adam of launch 4"));
  }
  {
    MadeUpStep step;
    CHECK(mentions(step.complaint(3), "the trace of 3 steps ends in step 2"));
  }
  {
    MadeUpStep step;
    step.trace.one_by_one[3].launch = -1;
    CHECK(mentions(step.complaint(), "no launch enqueued ncclSum"));
  }
  {
    MadeUpStep step;
    step.trace.one_by_one[2].launch = 0;
    step.trace.one_by_one[1].launch = 2;
    CHECK(mentions(step.complaint(), "launch 0 (memset s) runs after launch 2"));
  }
  {
    MadeUpStep step;
    step.trace.one_by_one.clear();
    CHECK(mentions(step.complaint(), "is empty"));
  }
}

TEST_CASE("the middle half lies between the quartiles, and is never empty") {
  CHECK(middle_half(std::vector<double>{5}) == std::vector<size_t>{0});
  CHECK(middle_half(std::vector<double>{9, 1, 5}).size() == 3);
  CHECK(middle_half(std::vector<double>{4, 100, 2, 3, 1, 5, 0, 6}) ==
        std::vector<size_t>{2, 3, 0, 5});
}

TEST_CASE("busy and idle times of launches are means over the steps") {
  MadeUpStep step;
  // Each record lasts 1 ns and the next begins then, but for 6 ns before the update of step 1.
  for (size_t i = 9; i < step.trace.steps.size(); ++i) {
    step.trace.steps[i].start += 6;
    step.trace.steps[i].end += 6;
  }
  const Graph graph = make_model("mnist_cnn", {.classes = 10, .height = 28, .width = 28});
  const TracedSteps traced = summarise(step.launches, graph, step.match());
  CHECK(traced.launches[0].ms == Approx(2e-6));
  CHECK(traced.launches[0].kernels == 2);
  CHECK(traced.launches[1].ms == 0);
  CHECK(traced.launches[3].beside);
  // The sum beside is no business of the layers' stream: its time is idle there.
  CHECK(traced.launches[4].gap_ms == Approx((1e-6 + 7e-6) / 2));
  CHECK(traced.launches[4].layer == "(update)");
  CHECK(traced.ms == Approx((5e-6 + 11e-6) / 2));
  CHECK(traced.timeline.size() == 5);
}

TEST_CASE("the gap report adds up what is measured apart") {
  StepProfile p = made_up_profile();
  StepGaps g = step_gaps(p);
  CHECK(g.roofline_ms == Approx(2 + 4 + 2));
  CHECK(g.inefficiency_ms == Approx(1 + 1 - 1));  // the update found its operands in a cache
  CHECK(g.tracing_ms == Approx(0.25));
  CHECK(g.gaps_ms == Approx(1 - 0.25));
  CHECK(g.exposed_ms == 0);
  CHECK(g.waiting_ms == Approx(0.125));
  CHECK(g.missed_ms() == Approx(10 - 8 - 1 - 0.75 - 0.125));
  CHECK(g.adds_up());

  p.ranks = 2;  // the wait for the sums is no gap
  g = step_gaps(p);
  CHECK(g.exposed_ms == Approx(0.5));
  CHECK(g.gaps_ms == Approx(0.5));

  p.untraced.ms = 11;
  CHECK_FALSE(step_gaps(p).adds_up());
  p.untraced.marked_ms = 8;  // more than all gaps together: they are none, and nothing else shrinks
  CHECK(step_gaps(p).gaps_ms == 0);
}

TEST_CASE("on a host the sums stand between the layers, and are the exposed communication") {
  StepProfile p = made_up_profile();
  p.backend = BackendKind::cpu;
  p.ranks = 2;
  p.traced.launches.push_back(launch("all_reduce", "(all_reduce)", 1.5, 0, {8e6, 1e6}));
  p.traced.launches.push_back(launch("share_statistics", "a", 0.25, 0, {8e6, 1e6}));
  const StepGaps g = step_gaps(p);
  CHECK(g.exposed_ms == Approx(1.75));
  CHECK(g.roofline_ms == Approx(8));
}

TEST_CASE("the layers that lose most come first") {
  const StepProfile p = made_up_profile();
  const std::vector<LayerGap> worst = worst_layers(p, 2);
  REQUIRE(worst.size() == 2);
  CHECK(worst[0].lost_ms() == Approx(1));
  CHECK(worst[1].lost_ms() == Approx(1));
  CHECK(worst_layers(p, 10).back().layer == "(update)");
}

TEST_CASE("sums alone: what the wires take, what is lost, what a step hides") {
  StepProfile p = made_up_profile();
  p.ranks = 4;
  p.buckets = {{8e6, 12}, {2e6, 6}};
  const SumGaps s = sum_gaps(p);
  CHECK(s.bus_bytes_per_s == Approx(1.5 * 8e6 / 12e-3));
  CHECK(s.at_rate_ms == Approx(15));
  CHECK(s.alone_ms == Approx(18));
  CHECK(s.exposed_ms == Approx(0.5));
  CHECK(mentions(gap_text(p), "all-reduce alone"));
}

TEST_CASE("the loader's report compares stages, threads and need") {
  const std::string text = loader_text({.stages = {{"decode", 500}, {"resize", 2000}},
                                        .one_thread = 250,
                                        .threads = 4,
                                        .loader = 800,
                                        .upload = 0,
                                        .need = 1600});
  CHECK(mentions(text, "decode                         2.000    50.0%"));
  CHECK(mentions(text, "not accounted                  1.500    37.5%"));
  CHECK(mentions(text, "80.0% of that"));
  CHECK(mentions(text, "it waits 50.0% of the time"));
}

TEST_CASE("a profile of the CPU: its parts make up its step") {
  for (const int count : {1, 2}) {
    CAPTURE(count);
    const Ranks ranks = choose_ranks({.device = Device::cpu, .ranks = count, .threads = count});
    const StepProfile p = profile_step(small_bench(), ranks);
    for (const ProfiledLaunch& l : p.traced.launches) {
      CHECK_MESSAGE(l.kind != "other", l.kernel);
      CHECK(l.kernels == 1);
      CHECK(l.ms >= 0);
    }
    // On one thread launches follow one another: busy and idle times are the whole step.
    CHECK(sum_of(p, &ProfiledLaunch::ms) + sum_of(p, &ProfiledLaunch::gap_ms) ==
          Approx(p.traced.ms).epsilon(1e-6));
    const StepGaps g = step_gaps(p);
    CHECK(g.accounted_ms() + g.missed_ms() == Approx(g.step_ms));
    CHECK(g.step_ms == Approx(p.untraced.ms));
    CHECK(p.untraced.marked_ms <= p.untraced.ms);
    CHECK(p.untraced.waiting_ms >= 0);
    CHECK(p.ceilings.copy_bytes_per_s > 0);
    CHECK(p.ceilings.product_flops_per_s > 0);
    CHECK((count > 1) == !p.buckets.empty());
    for (const BucketTime& b : p.buckets) CHECK(b.bytes > 0);
  }
}

TEST_CASE("every launch of every model has a kind and a layer") {
  for (const char* model : {"efficientnet_b0", "densenet121", "resnet18", "mobilenet_v2"}) {
    CAPTURE(model);
    SyntheticSession synthetic(
        {.model = model, .batch = 1, .image_size = 32, .classes = 10, .warmup = 0, .marks = true},
        BackendKind::cpu, {.threads = 1});
    const auto launches = synthetic.session().launches(1, Mode::train);
    std::vector<LaunchRecords> matched(1, LaunchRecords(launches.size()));
    matched[0][0] = {{.name = "note_time", .start = 1, .end = 2}};
    const TracedSteps traced = summarise(launches, synthetic.session().graph(), matched);
    int phases[3] = {};
    for (const ProfiledLaunch& l : traced.launches) {
      CHECK_MESSAGE(l.kind != "other", l.kernel);
      CHECK_FALSE(l.layer.empty());
      ++phases[static_cast<int>(l.phase)];
    }
    const int steps = static_cast<int>(synthetic.session().graph().steps.size());
    CHECK(phases[0] > steps);
    CHECK(phases[1] >= steps - 1);
    CHECK(phases[2] >= 3);
  }
}

TEST_CASE("groups hold every launch once, whatever they go by") {
  const StepProfile p = made_up_profile();
  for (const GroupBy by : {GroupBy::kind, GroupBy::layer, GroupBy::phase}) {
    double ms = 0;
    int launches = 0;
    for (const ProfileGroup& g : groups_of(p, by)) {
      ms += g.ms;
      launches += g.launches;
    }
    CHECK(ms == Approx(9));
    CHECK(launches == 4);
  }
  CHECK(groups_of(p, GroupBy::layer).front().name == "b");
}
