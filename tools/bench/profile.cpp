#include "tools/bench/profile.h"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <limits>
#include <numeric>

#include "engine/cuda_module.h"
#include "tools/bench/ceilings.h"

namespace engine {
namespace {

constexpr int kMostTraced = 20;
constexpr double kMs = 1e-6;  // of a nanosecond

uint64_t now_ns() {
  using namespace std::chrono;
  return static_cast<uint64_t>(
      duration_cast<nanoseconds>(steady_clock::now().time_since_epoch()).count());
}

// ---------------------------------------------------------------- what a launch is

// The marks among the launches divide the step.
std::vector<StepPhase> phases_of(std::span<const OrderedLaunch> launches) {
  std::vector<StepPhase> phases;
  StepPhase phase = StepPhase::forward;
  for (const auto& [launch, step] : launches) {
    phases.push_back(phase);
    if (launch->kernel != "note_time") continue;
    if (launch->shape == "forward") phase = StepPhase::backward;
    if (launch->shape == "backward") phase = StepPhase::update;
  }
  return phases;
}

std::string layer_of(const OrderedLaunch& l, const Graph& graph) {
  return l.step == kNone ? fmt::format("({})", l.launch->kernel) : name_of(graph.steps[l.step]);
}

// ---------------------------------------------------------------- records to times

struct Span {
  uint64_t first = std::numeric_limits<uint64_t>::max(), last = 0;
  double ms() const { return double(last - first) * kMs; }
};

Span span_of(const LaunchRecords& step) {
  Span span;
  for (const std::vector<DeviceRecord>& records : step)
    for (const DeviceRecord& r : records) {
      span.first = std::min(span.first, r.start);
      span.last = std::max(span.last, r.end);
    }
  return span;
}

bool is_beside(const std::vector<DeviceRecord>& records) {
  return !records.empty() && std::all_of(records.begin(), records.end(),
                                         [](const auto& r) { return r.stream == kBesideStream; });
}

// Adds `weight` times what the launches of a step took. Of a launch that is not beside the layers,
// they wait for all of its kernels; a kernel that is scheduled while the one ahead still runs waits
// for it.
void add_step(std::vector<ProfiledLaunch>& launches, const LaunchRecords& step, double weight) {
  uint64_t busy_until = span_of(step).first;
  for (size_t i = 0; i < step.size(); ++i)
    for (const DeviceRecord& r : step[i]) {
      const uint64_t began = launches[i].beside ? r.start : std::clamp(busy_until, r.start, r.end);
      launches[i].ms += weight * double(r.end - began) * kMs;
      if (launches[i].beside) continue;
      if (r.start > busy_until) launches[i].gap_ms += weight * double(r.start - busy_until) * kMs;
      busy_until = std::max(busy_until, r.end);
    }
}

std::vector<TimelineSlice> timeline_of(const LaunchRecords& step) {
  std::vector<TimelineSlice> slices;
  const uint64_t start = span_of(step).first;
  for (size_t i = 0; i < step.size(); ++i)
    for (const DeviceRecord& r : step[i])
      slices.push_back({.launch = static_cast<int>(i),
                        .name = r.name,
                        .beside = r.stream == kBesideStream,
                        .start_ms = double(r.start - start) * kMs,
                        .ms = double(r.end - r.start) * kMs});
  return slices;
}

double mean_of(std::span<const double> values, std::span<const size_t> places) {
  double sum = 0;
  for (const size_t i : places) sum += values[i];
  return sum / double(places.size());
}

// ---------------------------------------------------------------- untraced steps

// The clock of a host backend's marks is the host's; a GPU's is its own, and the steps lie end to
// end there.
class Untraced {
 public:
  explicit Untraced(bool host) : host_(host) {}

  void add(const TimedStep& step) {
    const auto at = [&](Mark mark) { return step.result.times[static_cast<int>(mark)]; };
    const uint64_t before = host_ ? step.began_ns : end_before_;
    end_before_ = at(Mark::end);
    if (before == 0) return;  // of the first step on a GPU nobody knows the end before
    ms_.push_back(step.ms);
    marked_.push_back(double(at(Mark::end) - at(Mark::begin)) * kMs);
    waiting_.push_back(double(at(Mark::begin) - before) * kMs);
    joining_.push_back(double(at(Mark::reduced) - at(Mark::backward)) * kMs);
  }

  UntracedStep mean() const {
    const std::vector<size_t> middle = middle_half(ms_);
    return {mean_of(ms_, middle), mean_of(marked_, middle), mean_of(waiting_, middle),
            mean_of(joining_, middle)};
  }

 private:
  bool host_;
  uint64_t end_before_ = 0;
  std::vector<double> ms_, marked_, waiting_, joining_;
};

// ---------------------------------------------------------------- traced steps

LaunchRecords run_with_clock(std::span<const OrderedLaunch> launches) {
  LaunchRecords step;
  for (size_t i = 0; i < launches.size(); ++i) {
    DeviceRecord r{.name = std::string(launches[i].launch->kernel), .start = now_ns()};
    launches[i].launch->enqueue();
    r.end = now_ns();
    r.launch = static_cast<int>(i);
    step.push_back({r});
  }
  return step;
}

// One rank's part of a profile; every rank does the same, for the sums over them.
class RankProfile {
 public:
  RankProfile(const StepBench& bench, const Ranks& ranks, int rank)
      : bench_(bench), ranks_(ranks), rank_(rank), options_(ranks.options[rank]) {
    bench_.marks = true;
  }

  StepProfile run() {
    measure_untraced();
    if (ranks_.kind == BackendKind::cuda) trace_on_gpu();
    return std::move(profile_);
  }

 private:
  bool host() const { return ranks_.kind != BackendKind::cuda; }
  int traced_steps() const { return std::min(bench_.steps, kMostTraced); }
  void meet() { options_.communicator.group->barrier(options_.communicator.rank); }

  std::span<const OrderedLaunch> launches(SyntheticSession& synthetic) const {
    return synthetic.session().launches(bench_.batch, Mode::train);
  }

  // On a host a step with the clock follows each one without: a busy machine is as busy for both.
  void measure_untraced() {
    SyntheticSession synthetic(bench_, ranks_.kind, options_);
    profile_ = {.hardware = hardware_of(ranks_.kind, options_.device),
                .backend = ranks_.kind,
                .ranks = options_.communicator.ranks(),
                .threads = options_.threads,
                .precision = ranks_.precision,
                .bench = bench_};
    profile_.memory = synthetic.session().plan().totals(synthetic.session().graph(),
                                                        {.moments = OptimizerConfig{}.moments()});
    meet();
    Untraced untraced(host());
    if (!host()) {
      for (const TimedStep& step : time_training(synthetic, bench_.steps + 1)) untraced.add(step);
    } else {
      std::vector<LaunchRecords> traced;
      for (int i = 0; i < bench_.steps; ++i) {
        for (const TimedStep& step : time_training(synthetic, 1)) untraced.add(step);
        traced.push_back(run_with_clock(launches(synthetic)));
      }
      profile_.traced = summarise(launches(synthetic), synthetic.session().graph(), traced);
    }
    profile_.untraced = untraced.mean();
    if (profile_.ranks > 1) time_buckets(synthetic);
    meet();
    profile_.ceilings = measure_ceilings(synthetic.backend(), options_);
    bench_.algorithms = synthetic.backend().algorithms();
  }

  // Several sums in a row and one wait, so that the wait is not measured.
  void time_buckets(SyntheticSession& synthetic) {
    constexpr int kInARow = 10, kRounds = 3;
    const Launch* join = nullptr;
    for (const auto& [launch, step] : launches(synthetic))
      if (launch->kernel == "join all_reduce") join = launch;
    const Plan& plan = synthetic.session().plan();
    for (const auto& [launch, step] : launches(synthetic)) {
      if (launch->kernel != "all_reduce") continue;
      const Bucket& bucket = plan.buckets[profile_.buckets.size()];
      double best = std::numeric_limits<double>::infinity();
      for (int round = 0; round < kRounds; ++round) {
        meet();
        const uint64_t start = now_ns();
        for (int i = 0; i < kInARow; ++i) launch->enqueue();
        if (join) join->enqueue();
        synthetic.backend().synchronize();
        best = std::min(best, double(now_ns() - start) * kMs / kInARow);
      }
      profile_.buckets.push_back({double(bucket.elements) * double(bucket_real()), best});
    }
  }

  size_t bucket_real() const {
    const Precision buckets = bench_.exchange.buckets;
    return buckets == Precision::fp32 ? real_size(ranks_.precision) : storage_size(buckets);
  }

  // A session of its own, whose graphs are captured under the tracer, with the same algorithms.
  void trace_on_gpu() {
    std::shared_ptr<cuda::Tracer> tracer;
    meet();
    if (rank_ == 0) tracer = open_cuda_trace();
    meet();
    SyntheticSession synthetic(bench_, ranks_.kind, options_);
    meet();
    const std::span<const OrderedLaunch> step = launches(synthetic);
    if (rank_ == 0) {
      const DeviceTrace trace = trace_cuda_step(
          *tracer, synthetic.backend(),
          {.launches = step, .step = [&] { synthetic.enqueue(); }, .steps = traced_steps()});
      profile_.traced =
          summarise(step, synthetic.session().graph(), match_records(step, trace, traced_steps()));
    } else {
      for (const OrderedLaunch& l : step) l.launch->enqueue();
      for (int i = 0; i < traced_steps(); ++i) synthetic.enqueue();
    }
    synthetic.backend().synchronize();
    meet();
  }

  StepBench bench_;
  const Ranks& ranks_;
  int rank_;
  const BackendOptions& options_;
  StepProfile profile_;
};

}  // namespace

std::string_view name_of(StepPhase phase) {
  constexpr std::string_view kNames[] = {"forward", "backward", "update"};
  return kNames[static_cast<int>(phase)];
}

std::string_view kind_of_kernel(std::string_view kernel) {
  struct Kind {
    std::string_view begins, kind;
  };
  static constexpr Kind kKinds[] = {
      {"depthwise", "depthwise"},
      {"fused depthwise", "depthwise"},
      {"pointwise", "pointwise"},
      {"dense_", "dense"},
      {"stem_", "stem"},
      {"cuBLASLt", "cuBLASLt"},
      {"sgemm", "sgemm"},
      {"cuDNN", "cuDNN"},
      {"oneDNN", "oneDNN"},
      {"convolve", "convolutions"},
      {"squeeze_excite", "squeeze-excite"},
      {"pool", "pool"},
      {"all_reduce", "all-reduce"},
      {"join all_reduce", "all-reduce"},
      {"share_", "shared norms"},
      {"memset", "memset"},
      {"note_time", "marks"},
      {"load_", "sweeps"},
      {"store_", "sweeps"},
      {"bias_gradient", "sweeps"},
      {"cast_back", "sweeps"},
      {"add_accumulated", "update"},
      {"add_", "sweeps"},
      {"cross_entropy", "loss"},
      {"binary_cross_entropy", "loss"},
      {"label_loss", "loss"},
      {"gradient_norm", "update"},
      {"update", "update"},
      {"accumulate", "update"},
      {"average", "update"},
      {"finish_step", "update"},
      {"copy_weights", "update"},
  };
  for (const Kind& k : kKinds)
    if (kernel.starts_with(k.begins)) return k.kind;
  return "other";
}

std::vector<size_t> middle_half(std::span<const double> values) {
  std::vector<size_t> places(values.size());
  std::iota(places.begin(), places.end(), size_t{0});
  std::stable_sort(places.begin(), places.end(),
                   [&](size_t a, size_t b) { return values[a] < values[b]; });
  const auto cut = static_cast<ptrdiff_t>(places.size() / 4);
  return {places.begin() + cut, places.end() - cut};
}

TracedSteps summarise(std::span<const OrderedLaunch> launches, const Graph& graph,
                      std::span<const LaunchRecords> steps) {
  TracedSteps traced;
  const std::vector<StepPhase> phases = phases_of(launches);
  for (size_t i = 0; i < launches.size(); ++i)
    traced.launches.push_back({.kernel = std::string(launches[i].launch->kernel),
                               .shape = launches[i].launch->shape,
                               .layer = layer_of(launches[i], graph),
                               .kind = kind_of_kernel(launches[i].launch->kernel),
                               .phase = phases[i],
                               .cost = launches[i].launch->cost,
                               .kernels = static_cast<int>(steps.front()[i].size()),
                               .beside = is_beside(steps.front()[i])});
  std::vector<double> lengths;
  for (const LaunchRecords& step : steps) lengths.push_back(span_of(step).ms());
  const std::vector<size_t> middle = middle_half(lengths);
  for (const size_t i : middle) add_step(traced.launches, steps[i], 1. / double(middle.size()));
  traced.ms = mean_of(lengths, middle);
  traced.timeline = timeline_of(steps[middle[middle.size() / 2]]);
  return traced;
}

StepProfile profile_step(StepBench bench, const Ranks& ranks) {
  StepProfile profile;
  on_every_rank(ranks, [&](int rank) {
    StepProfile one = RankProfile(bench, ranks, rank).run();
    if (rank == 0) profile = std::move(one);
  });
  return profile;
}

void run_in_ranges(StepBench bench, const Ranks& ranks) {
  bench.marks = true;
  on_every_rank(ranks, [&](int rank) {
    SyntheticSession synthetic(bench, ranks.kind, ranks.options[rank]);
    const Graph& graph = synthetic.session().graph();
    const auto launches = synthetic.session().launches(bench.batch, Mode::train);
    const std::vector<StepPhase> phases = phases_of(launches);
    for (int step = 0; step < bench.steps; ++step) {
      for (size_t i = 0, next = 0; i < launches.size(); i = next) {
        const auto same = [&](size_t j) {
          return phases[j] == phases[i] &&
                 layer_of(launches[j], graph) == layer_of(launches[i], graph);
        };
        for (next = i + 1; next < launches.size() && same(next);) ++next;
        in_cuda_range(fmt::format("{}, {}", layer_of(launches[i], graph), name_of(phases[i])), [&] {
          for (size_t j = i; j < next; ++j) launches[j].launch->enqueue();
        });
      }
      synthetic.backend().synchronize();
    }
  });
}

}  // namespace engine
