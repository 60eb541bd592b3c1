#include "engine/session.h"

#include <algorithm>
#include <atomic>
#include <cassert>
#include <cmath>

#include "engine/error.h"

namespace engine {

// ---------------------------------------------------------------- planning and memory

Session::Session(Graph graph, Backend& backend, const SessionOptions& options)
    : graph_(std::move(graph)),
      backend_(backend),
      options_(options),
      layout_(lay_out_parameters(graph_)) {
  assert(!options_.programs.empty());
  Plan::Totals largest{};
  size_t staging = 0, buckets = 0;
  for (const ProgramSpec& spec : options_.programs) {
    auto running = std::make_unique<Running>();
    running->spec = spec;
    running->plan = make_plan(graph_, plan_options(spec));
    check_indexed(graph_, running->plan.options);
    const Plan::Totals t = running->plan.totals(graph_, update_memory());
    if (spec.mode != Mode::evaluate || programs_.empty()) largest = t;
    activations_ = std::max(activations_, t.activations);
    staging = std::max(staging, t.staging);
    buckets = std::max(buckets, running->plan.buckets.size());
    capacity_ = std::max(capacity_, spec.batch);
    programs_.push_back(std::move(running));
  }
  largest.activations = activations_;
  largest.staging = staging;
  const LossConfig& loss = options_.loss;
  require(loss.smoothing >= 0 && loss.smoothing < 1, Failure::usage,
          "label smoothing {}: at least 0, below 1", loss.smoothing);
  require(
      loss.class_weights.empty() || static_cast<int>(loss.class_weights.size()) == graph_.classes(),
      Failure::usage, "{} class weights, the model has {} classes", loss.class_weights.size(),
      graph_.classes());
  for (const double weight : loss.class_weights)
    require(weight > 0 && std::isfinite(weight), Failure::usage,
            "a class weight of {}: it is above 0 and finite", weight);
  size_t inputs = options_.pack_bytes + loss.class_weights.size() * sizeof(double);
  if (loss.task == Task::labels) inputs += size_t{kSlots} * capacity_ * graph_.classes();
  const size_t needed = largest.sum() + inputs, free = backend_.free_bytes();
  if (needed > free) {
    const auto biggest = std::max_element(
        programs_.begin(), programs_.end(),
        [](const auto& a, const auto& b) { return a->plan.activations < b->plan.activations; });
    fail(Failure::memory, "batch {} at {} needs {:.0f} MiB, {:.0f} MiB are free; {}", capacity_,
         name_of(options_.precision), double(needed) / 1048576, double(free) / 1048576,
         what_fits(graph_, (*biggest)->plan.options, update_memory(), free, inputs));
  }
  memory_ = ArenaMemory(backend_, graph_, layout_, largest,
                        {.capacity = capacity_,
                         .buckets = buckets,
                         .pack_bytes = options_.pack_bytes,
                         .class_weights = loss.class_weights,
                         .task = loss.task});
  const bool scaled = options_.precision == Precision::fp16;
  const ScaleState scale{.scale = scaled ? options_.loss_scale : 1.f,
                         .dynamic = scaled && !options_.fixed_loss_scale};
  backend_.upload(arenas().scale, &scale, sizeof scale);
  if (arenas().groups) make_groups();
  backend_.synchronize();
}

PlanOptions Session::plan_options(const ProgramSpec& spec) const {
  return {.batch = spec.batch,
          .training = spec.mode != Mode::evaluate,
          .memory = options_.memory,
          .frozen_norms = options_.frozen_norms,
          .input_gradient = options_.input_gradient,
          .features = options_.features,
          .precision = options_.precision,
          .backend = backend_.info().kind,
          .conv = options_.conv,
          .limits = backend_.info().limits,
          .workspace = options_.workspace,
          .bucket_elements = options_.bucket_elements};
}

UpdateMemory Session::update_memory() const {
  return {.moments = options_.optimizer.moments(),
          .accumulates = options_.accumulates,
          .averages = options_.ema_decay > 0};
}

// Parameters with the same rule form a group. Below the first that is not frozen no update needs a
// backward.
void Session::make_groups() {
  std::vector<ParameterGroup> groups;
  std::vector<uint8_t> group_of(layout_.trained / kUpdateBlock);
  first_backward_ = options_.input_gradient ? 0 : static_cast<int>(graph_.steps.size());
  for (int p = 0; p < static_cast<int>(graph_.parameters.size()); ++p) {
    const Parameter& parameter = graph_.parameters[p];
    if (!parameter.trained()) continue;
    const ParameterRule rule = options_.rule ? options_.rule(parameter) : ParameterRule{};
    const ParameterGroup group{rule.rate, rule.decay ? options_.optimizer.weight_decay : 0};
    const auto same = std::find(groups.begin(), groups.end(), group);
    const auto index = static_cast<size_t>(same - groups.begin());
    if (same == groups.end()) groups.push_back(group);
    require(groups.size() <= kMaxParameterGroups, Failure::usage,
            "parameters have more than {} different learning rates and weight decays",
            kMaxParameterGroups);
    if (group.rate != 0) first_backward_ = std::min(first_backward_, layout_.completed_by[p]);
    const int64_t count = elements(parameter.shape);
    std::fill_n(group_of.begin() + layout_.at[p] / kUpdateBlock,
                (count + kUpdateBlock - 1) / kUpdateBlock, static_cast<uint8_t>(index));
  }
  backend_.upload(arenas().groups, groups.data(), groups.size() * sizeof(ParameterGroup));
  backend_.upload(arenas().group_of, group_of.data(), group_of.size());
  backend_.synchronize();
}

const Plan& Session::plan() const {
  const auto larger = [](const auto& a, const auto& b) {
    return a->plan.activations < b->plan.activations;
  };
  return (*std::max_element(programs_.begin(), programs_.end(), larger))->plan;
}

// ---------------------------------------------------------------- programs

Session::Running& Session::running(int batch, Mode mode) {
  const auto it = std::find_if(programs_.begin(), programs_.end(), [&](const auto& r) {
    return r->spec.batch == batch && r->spec.mode == mode;
  });
  if (it != programs_.end()) return **it;
  auto fresh = std::make_unique<Running>();
  fresh->spec = {batch, mode};
  fresh->plan = make_plan(graph_, plan_options(fresh->spec));
  require(fresh->plan.activations <= activations_ && batch <= capacity_, Failure::internal,
          "batch {} does not fit the arena of {} bytes planned for {}", batch, activations_,
          capacity_);
  programs_.push_back(std::move(fresh));
  return *programs_.back();
}

void Session::prepare() {
  for (const auto& r : programs_) record(*r);
}

void Session::record(Running& r) {
  if (r.launch) return;
  r.program = std::make_unique<Program>(
      graph_, r.plan, arenas(), options_.normalisation, capacity_,
      ProgramInput{.mixing = options_.mixing, .smoothing = options_.loss.smoothing});
  // Timing takes seconds; the odd batch at an epoch's end comes too rarely to repay them.
  r.prepared =
      backend_.prepare(*r.program, {.timed = !options_.deterministic && r.spec.batch == capacity_,
                                    .marks = options_.marks,
                                    .sync_norms = options_.sync_norms,
                                    .buckets = options_.buckets,
                                    .optimizer = options_.optimizer,
                                    .ema_decay = options_.ema_decay});
  capture(r);
}

void Session::capture(Running& r) {
  r.order = order_of(r);
  r.launch = backend_.record([&r] {
    for (const OrderedLaunch& launch : r.order) launch.launch->enqueue();
  });
}

void Session::set_rule(std::function<ParameterRule(const Parameter&)> rule) {
  options_.rule = std::move(rule);
  make_groups();
  for (const auto& r : programs_)
    if (r->launch && r->spec.mode != Mode::evaluate) capture(*r);
}

// A rank without samples takes the step all the same: its zeros join the all-reduce. Where nothing
// runs beside the backward, the sums over the ranks follow it, so that the marks tell them apart.
std::vector<OrderedLaunch> Session::order_of(const Running& r) const {
  std::vector<OrderedLaunch> order;
  const auto put = [&](const Launches& launches, int step = kNone) {
    for (const Launch& launch : launches) order.push_back({&launch, step});
  };
  const Prepared& p = r.prepared;
  const Mode mode = r.spec.mode;
  const auto mark = [&](Mark at) { put(p.marks[static_cast<int>(at)]); };
  mark(Mark::begin);
  if (!options_.float_input) put(p.images);
  put(p.clear);
  const int steps = static_cast<int>(p.steps.size());
  for (int i = 0; i < steps; ++i) put(p.steps[i].forward, i);
  if (mode == Mode::evaluate) {
    put(p.publish);
    return order;
  }
  put(p.running);
  mark(Mark::forward);
  const bool beside = backend_.info().kind == BackendKind::cuda;
  size_t bucket = 0;
  for (int i = static_cast<int>(graph_.steps.size()) - 1; i >= 0; --i) {
    if (i < steps && (i >= first_backward_ || mode == Mode::gradients)) {
      for (const Recomputation& again : r.plan.recomputed)
        if (again.before == i) put(p.steps[again.step].again, again.step);
      put(p.steps[i].backward, i);
    }
    for (; bucket < r.plan.buckets.size() && r.plan.buckets[bucket].after_step == i; ++bucket) {
      if (mode == Mode::accumulate) continue;
      if (mode == Mode::train && options_.accumulates) put(p.add_accumulated[bucket]);
      if (beside) put(p.reduce[bucket]);
    }
  }
  mark(Mark::backward);
  if (mode == Mode::accumulate) {
    put(p.accumulate);
    put(p.publish);
    return order;
  }
  if (!beside)
    for (const Launches& reduce : p.reduce) put(reduce);
  put(p.finish_reduce);
  mark(Mark::reduced);
  put(mode == Mode::gradients ? p.publish : p.update);
  return order;
}

std::span<const OrderedLaunch> Session::launches(int batch, Mode mode) {
  Running& r = running(batch, mode);
  record(r);
  return r.order;
}

const Prepared& Session::first_prepared() {
  record(*programs_.front());
  return programs_.front()->prepared;
}

// ---------------------------------------------------------------- steps

// A wrong number would lead a kernel out of its memory.
void Session::check_batch(const HostBatch& batch, Mode mode) const {
  require(!batch.mixes || (options_.mixing && mode != Mode::evaluate), Failure::internal,
          "mixes in a session or a mode without mixing");
  require(!(options_.loss.task == Task::labels ? batch.labels.classes != nullptr
                                               : batch.labels.labels != nullptr),
          Failure::internal, "targets of another task than the session's");
  const int channels = graph_.image.channels();
  for (int i = 0; i < batch.count; ++i) {
    if (batch.mixes)
      require(batch.mixes[i].partner >= 0 && batch.mixes[i].partner < batch.count,
              Failure::internal, "image {} of {} is mixed with image {}", i, batch.count,
              batch.mixes[i].partner);
    if (!batch.records) continue;
    const ImageRecord& r = batch.records[i];
    const size_t bytes = size_t(r.width) * size_t(r.height) * size_t(channels);
    require(r.width > 0 && r.height > 0 && r.offset <= options_.pack_bytes &&
                bytes <= options_.pack_bytes - r.offset,
            Failure::internal, "image {}: {} bytes from {} on are not in a pack of {}", i, bytes,
            r.offset, options_.pack_bytes);
  }
}

uint64_t Session::run(const HostBatch& batch, const StepInput& input, Mode mode) {
  begin(batch, input, mode).launch();
  return end(batch, mode);
}

Inspection Session::inspect(const HostBatch& batch, const StepInput& input, Mode mode) {
  const Running& r = begin(batch, input, mode);
  AnomalySearch search(*r.program, backend_, result_entry(step_));
  for (const OrderedLaunch& ordered : r.order) {
    ordered.launch->enqueue();
    if (ordered.step == kNone) continue;
    const StepExec& exec = r.prepared.steps[ordered.step];
    if (!exec.forward.empty() && ordered.launch == &exec.forward.back())
      search.after_forward(ordered.step);
    if (!exec.backward.empty() && ordered.launch == &exec.backward.back())
      search.after_backward(ordered.step);
  }
  const uint64_t step = end(batch, mode);
  backend_.synchronize();
  return {step, search.first()};
}

StepResult& Session::result_entry(uint64_t step) const {
  return arenas().results[step % kResults];
}

Session::Running& Session::begin(const HostBatch& batch, const StepInput& input, Mode mode) {
  assert(mode != Mode::accumulate || options_.accumulates);
  assert(mode == Mode::evaluate || !exchanged_);
  Running& r = running(batch.count, mode);
  record(r);
  const uint64_t step = ++step_;
  constexpr uint64_t kInFlight = kResults / 2;  // steps that may be under way
  if (step > kInFlight) result(step - kInFlight);
  result_entry(step) = {};
  const int slot = static_cast<int>(step % kSlots);
  if (batch.count > 0 && (batch.images || batch.records)) {
    check_batch(batch, mode);
    slots_[slot] = {.packed = batch.records != nullptr, .mixed = batch.mixes != nullptr};
    backend_.upload_batch(*r.program, slot, batch);
  }
  backend_.set_params(*r.program,
                      {.seed = options_.seed,
                       .epoch = input.epoch,
                       .position = input.position,
                       .slot = static_cast<uint32_t>(slot),
                       .result = static_cast<uint32_t>(step % kResults),
                       .step = step,
                       .learning_rate = input.learning_rate,
                       .divisor = input.divisor > 0 ? input.divisor : double(batch.count),
                       .packed = slots_[slot].packed,
                       .mixed = slots_[slot].mixed,
                       .total = static_cast<uint32_t>(
                           input.total > 0 ? input.total : batch.count * backend_.info().ranks)});
  return r;
}

uint64_t Session::end(const HostBatch& batch, Mode mode) {
  backend_.wait_uploaded(static_cast<int>(step_ % kSlots));
  if (mode != Mode::evaluate) ++batches_tracked_;
  last_batch_ = batch.count;
  last_mode_ = mode;
  return step_;
}

std::vector<float> Session::evaluate(const HostBatch& batch, const StepInput& input,
                                     StepResult* result) {
  const uint64_t step = run(batch, input, Mode::evaluate);
  const std::vector<double> z = logits(batch.count);
  if (result) *result = this->result(step);
  return {z.begin(), z.end()};
}

std::optional<StepResult> Session::poll(uint64_t step) const {
  assert(step > 0 && step <= step_ && step + kResults > step_);
  StepResult& entry = result_entry(step);
  if (std::atomic_ref(entry.step).load(std::memory_order_acquire) != step) return std::nullopt;
  return entry;
}

StepResult Session::result(uint64_t step) {
  if (const auto there = poll(step)) return *there;
  backend_.synchronize();
  const auto there = poll(step);
  require(there.has_value(), Failure::internal, "step {} left no result", step);
  return *there;
}

std::span<const CollectiveMark> Session::collectives() const {
  return memory_.collectives();
}

void Session::write_pack(size_t offset, std::span<const uint8_t> bytes) {
  require(offset <= options_.pack_bytes && bytes.size() <= options_.pack_bytes - offset,
          Failure::internal, "{} bytes from {} on do not fit a pack of {}", bytes.size(), offset,
          options_.pack_bytes);
  backend_.upload(arenas().pack + offset, bytes.data(), bytes.size());
  backend_.synchronize();
}

void Session::set_input(std::span<const double> nhwc) {
  const Buffer& b = graph_.buffers[graph_.image.buffer];
  const int count = static_cast<int>(nhwc.size() / (int64_t{b.height} * b.width * b.channels));
  for (const auto& r : programs_) {
    if (r->spec.batch != count) continue;
    Tensor wide(DType::f64, {static_cast<int64_t>(nhwc.size())});
    std::copy(nhwc.begin(), nhwc.end(), wide.as<double>().begin());
    const Tensor image = convert(wide, storage_type(options_.precision));
    backend_.upload(arenas().activations.at + r->plan.data[graph_.image.buffer].offset,
                    image.bytes.data(), image.bytes.size());
    backend_.synchronize();
  }
}

// ---------------------------------------------------------------- reading back

std::vector<double> Session::read_slice(const std::byte* at, const Slice& slice, int count) const {
  const Buffer& b = graph_.buffers[slice.buffer];
  Tensor raw(storage_type(options_.precision), {int64_t{count} * b.height * b.width, b.channels});
  backend_.download(raw.bytes.data(), at, raw.bytes.size());
  const Tensor wide = convert(raw, DType::f64);
  const auto values = wide.as<double>();
  std::vector<double> result;
  for (int64_t row = 0; row < raw.shape[0]; ++row)
    result.insert(result.end(), values.begin() + row * b.channels + slice.c0,
                  values.begin() + row * b.channels + slice.c1);
  return result;
}

std::vector<double> Session::logits(int count) const {
  const Running& r = const_cast<Session*>(this)->running(last_batch_, last_mode_);
  return read_slice(arenas().activations.at + r.plan.data[graph_.logits.buffer].offset,
                    graph_.logits, count);
}

std::vector<double> Session::input_gradient(int count) const {
  const Running& r = const_cast<Session*>(this)->running(last_batch_, last_mode_);
  return read_slice(arenas().activations.at + r.plan.grad[graph_.image.buffer].offset, graph_.image,
                    count);
}

ScaleState Session::scale() const {
  ScaleState scale;
  backend_.download(&scale, arenas().scale, sizeof scale);
  return scale;
}

}  // namespace engine
