#include "engine/session.h"

#include <algorithm>
#include <atomic>
#include <cassert>
#include <cstring>
#include <functional>
#include <thread>

#include "engine/error.h"
#include "engine/initialise.h"

namespace engine {

struct Session::Running {
  ProgramSpec spec;
  Plan plan;
  std::unique_ptr<Program> program;
  std::vector<StepExec> steps;
  std::function<void()> launch;  // empty until recorded
};

namespace {

std::string counter_of(const Norm& norm) {
  return norm.name + ".num_batches_tracked";
}

// (O, KH, KW, I) in memory ↔ (O, I, KH, KW) in files; a linear layer's (O, C·H·W) is the same. Others stay.
template <class R>
void permute(R* to, const R* from, const Shape& memory, bool to_memory) {
  if (memory.size() != 4) {
    std::copy_n(from, elements(memory), to);
    return;
  }
  const int64_t outs = memory[0], taps = memory[1] * memory[2], ins = memory[3];
  for (int64_t o = 0; o < outs; ++o)
    for (int64_t t = 0; t < taps; ++t)
      for (int64_t i = 0; i < ins; ++i) {
        const int64_t ours = (o * taps + t) * ins + i, theirs = (o * ins + i) * taps + t;
        to_memory ? to[ours] = from[theirs] : to[theirs] = from[ours];
      }
}

}  // namespace

// ---------------------------------------------------------------- planning and memory

Session::Session(Graph graph, Backend& backend, const SessionOptions& options)
    : graph_(std::move(graph)),
      backend_(backend),
      options_(options),
      layout_(lay_out_parameters(graph_)) {
  assert(!options_.programs.empty());
  Plan::Totals largest{};
  size_t staging = 0;
  for (const ProgramSpec& spec : options_.programs) {
    auto running = std::make_unique<Running>();
    running->spec = spec;
    running->plan = make_plan(graph_, plan_options(spec));
    const Plan::Totals t = running->plan.totals(graph_, update_memory());
    if (spec.mode != Mode::evaluate || programs_.empty()) largest = t;
    activations_ = std::max(activations_, t.activations);
    staging = std::max(staging, t.staging);
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
  const size_t inputs = options_.pack_bytes + loss.class_weights.size() * sizeof(double);
  const size_t needed = largest.sum() + inputs, free = backend_.free_bytes();
  if (needed > free) {
    const auto biggest = std::max_element(
        programs_.begin(), programs_.end(),
        [](const auto& a, const auto& b) { return a->plan.activations < b->plan.activations; });
    fail(Failure::memory,
         "batch {} at {} needs {:.0f} MiB, {:.0f} MiB are free; the largest batch that fits is {}",
         capacity_, name_of(options_.precision), double(needed) / 1048576, double(free) / 1048576,
         largest_batch(graph_, (*biggest)->plan.options, update_memory(),
                       free > inputs ? free - inputs : 0));
  }
  allocate_arenas(largest);
  if (arenas_.groups) make_groups();
}

Session::~Session() = default;

PlanOptions Session::plan_options(const ProgramSpec& spec) const {
  return {.batch = spec.batch,
          .training = spec.mode != Mode::evaluate,
          .frozen_norms = options_.frozen_norms,
          .input_gradient = options_.input_gradient,
          .precision = options_.precision,
          .backend = backend_.kind(),
          .conv = options_.conv,
          .workspace = options_.workspace};
}

UpdateMemory Session::update_memory() const {
  return {.moments = options_.optimizer.moments(),
          .accumulates = options_.accumulates,
          .averages = options_.ema_decay > 0};
}

// Parameters with the same rule form a group. Below the first that is not frozen no update needs a backward.
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
  backend_.upload(arenas_.groups, groups.data(), groups.size() * sizeof(ParameterGroup));
  backend_.upload(arenas_.group_of, group_of.data(), group_of.size());
  backend_.synchronize();
}

std::byte* Session::allocate(size_t bytes) {
  if (bytes == 0) return nullptr;
  memory_.push_back(backend_.allocate(bytes));
  allocated_ += bytes;
  return memory_.back().get();
}

void Session::allocate_arenas(const Plan::Totals& t) {
  const auto zeroed = [&](size_t bytes) {
    std::byte* at = allocate(bytes);
    if (at) backend_.clear(at, bytes);
    return at;
  };
  arenas_.parameters = zeroed(t.parameters);  // the padding between tensors stays zero
  arenas_.gradients = zeroed(t.gradients);
  arenas_.accumulated = zeroed(t.accumulated);
  arenas_.moments = zeroed(t.optimizer);
  if (t.averages > 0) {
    arenas_.ema_parameters = zeroed(t.parameters);
    arenas_.ema_state = zeroed(t.state);
  }
  if (t.groups > 0) {
    arenas_.groups =
        reinterpret_cast<ParameterGroup*>(zeroed(kMaxParameterGroups * sizeof(ParameterGroup)));
    arenas_.group_of = reinterpret_cast<uint8_t*>(zeroed(layout_.trained / kUpdateBlock));
    arenas_.norm_partials = reinterpret_cast<NormPartials*>(zeroed(sizeof(NormPartials)));
  }
  arenas_.weights = t.weight_copies ? zeroed(t.weight_copies) : arenas_.parameters;
  arenas_.state = zeroed(t.state);
  arenas_.channels = zeroed(t.channels);
  arenas_.activations = allocate(t.activations);
  arenas_.workspace = allocate(t.workspace);
  const Buffer& image = graph_.buffers[graph_.image.buffer];
  const size_t slots = size_t{kSlots} * capacity_;
  arenas_.images =
      reinterpret_cast<uint8_t*>(zeroed(slots * image.height * image.width * image.channels));
  arenas_.labels = reinterpret_cast<int32_t*>(zeroed(slots * sizeof(int32_t)));
  arenas_.records = reinterpret_cast<ImageRecord*>(zeroed(slots * sizeof(ImageRecord)));
  arenas_.mixes = reinterpret_cast<Mix*>(zeroed(slots * sizeof(Mix)));
  arenas_.mean_levels = reinterpret_cast<int32_t*>(zeroed(capacity_ * sizeof(int32_t)));
  arenas_.pack = reinterpret_cast<uint8_t*>(allocate(options_.pack_bytes));
  const std::vector<double>& weights = options_.loss.class_weights;
  arenas_.class_weights = reinterpret_cast<double*>(allocate(weights.size() * sizeof(double)));
  if (!weights.empty())
    backend_.upload(arenas_.class_weights, weights.data(), weights.size() * sizeof(double));
  arenas_.params = reinterpret_cast<StepParams*>(zeroed(sizeof(StepParams)));
  arenas_.scale = reinterpret_cast<ScaleState*>(allocate(sizeof(ScaleState)));
  results_ = backend_.allocate_host(sizeof(StepResult) * kResults);
  arenas_.results = reinterpret_cast<StepResult*>(results_.get());
  std::fill_n(arenas_.results, kResults, StepResult{});
  const bool scaled = options_.precision == Precision::fp16;
  const ScaleState scale{.scale = scaled ? options_.loss_scale : 1.f,
                         .dynamic = scaled && !options_.fixed_loss_scale};
  backend_.upload(arenas_.scale, &scale, sizeof scale);
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
      graph_, r.plan, arenas_, options_.normalisation, capacity_,
      ProgramInput{.mixing = options_.mixing, .smoothing = options_.loss.smoothing});
  // Timing takes seconds; the odd batch at an epoch's end comes too rarely to repay them.
  const bool timed = !options_.deterministic && r.spec.batch == capacity_;
  if (r.spec.batch > 0) r.steps = backend_.prepare(*r.program, timed);
  r.launch = backend_.record([this, &r] { enqueue(r); });
}

// A rank without samples takes the step all the same: its zeros join the all-reduce.
void Session::enqueue(const Running& r) {
  const Program& program = *r.program;
  const bool any = r.spec.batch > 0, training = r.spec.mode != Mode::evaluate;
  if (any && !options_.float_input) backend_.load_images(program);
  if (training) {
    backend_.clear(arenas_.channels, 4 * layout_.channels * real_size(options_.precision));
    backend_.clear(arenas_.gradients, layout_.trained * real_size(options_.precision));
  }
  for (const StepExec& step : r.steps) step.forward();
  if (!training) return backend_.publish(program);
  if (any && !options_.frozen_norms) backend_.update_running(program);
  auto bucket = r.plan.buckets.begin();
  for (int i = static_cast<int>(graph_.steps.size()) - 1; i >= 0; --i) {
    if (any && (i >= first_backward_ || r.spec.mode == Mode::gradients)) r.steps[i].backward();
    for (; bucket != r.plan.buckets.end() && bucket->after_step == i; ++bucket) {
      if (r.spec.mode == Mode::accumulate) continue;
      if (r.spec.mode == Mode::train && options_.accumulates)
        backend_.add_accumulated(program, *bucket);
      backend_.all_reduce(program, *bucket);
    }
  }
  if (r.spec.mode == Mode::accumulate) {
    backend_.accumulate(program);
    return backend_.publish(program);
  }
  backend_.finish_all_reduce();
  if (r.spec.mode == Mode::gradients) return backend_.publish(program);
  backend_.optimizer_step(program, options_.optimizer, options_.ema_decay);
}

// ---------------------------------------------------------------- steps

// A kernel would follow a wrong number out of its memory.
void Session::check_batch(const HostBatch& batch, Mode mode) const {
  require(!batch.mixes || (options_.mixing && mode != Mode::evaluate), Failure::internal,
          "mixes in a session or a mode without mixing");
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
  assert(mode != Mode::accumulate || options_.accumulates);
  assert(mode == Mode::evaluate || !exchanged_);
  Running& r = running(batch.count, mode);
  record(r);
  const uint64_t step = ++step_;
  constexpr uint64_t kInFlight = kResults / 2;  // steps that may be under way
  if (step > kInFlight) result(step - kInFlight);
  arenas_.results[step % kResults] = {};
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
                       .mixed = slots_[slot].mixed});
  r.launch();
  backend_.wait_uploaded(slot);
  if (mode != Mode::evaluate) ++batches_tracked_;
  last_batch_ = batch.count;
  last_mode_ = mode;
  return step;
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
  StepResult& entry = arenas_.results[step % kResults];
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

void Session::write_pack(size_t offset, std::span<const uint8_t> bytes) {
  require(offset <= options_.pack_bytes && bytes.size() <= options_.pack_bytes - offset,
          Failure::internal, "{} bytes from {} on do not fit a pack of {}", bytes.size(), offset,
          options_.pack_bytes);
  backend_.upload(arenas_.pack + offset, bytes.data(), bytes.size());
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
    backend_.upload(arenas_.activations + r->plan.data[graph_.image.buffer].offset,
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
  return read_slice(arenas_.activations + r.plan.data[graph_.logits.buffer].offset, graph_.logits,
                    count);
}

std::vector<double> Session::input_gradient(int count) const {
  const Running& r = const_cast<Session*>(this)->running(last_batch_, last_mode_);
  return read_slice(arenas_.activations + r.plan.grad[graph_.image.buffer].offset, graph_.image,
                    count);
}

ScaleState Session::scale() const {
  ScaleState scale;
  backend_.download(&scale, arenas_.scale, sizeof scale);
  return scale;
}

// ---------------------------------------------------------------- state

Tensor Session::read(int parameter, const std::byte* arena) const {
  const Parameter& p = graph_.parameters[parameter];
  Tensor memory(options_.precision == Precision::fp64 ? DType::f64 : DType::f32, p.memory),
      file(memory.dtype, p.shape);
  backend_.download(memory.bytes.data(), arena + layout_.at[parameter] * size_of(memory.dtype),
                    memory.bytes.size());
  if (memory.dtype == DType::f64)
    permute(file.as<double>().data(), memory.as<double>().data(), p.memory, false);
  else
    permute(file.as<float>().data(), memory.as<float>().data(), p.memory, false);
  return file;
}

void Session::write(int parameter, std::byte* arena, const Tensor& tensor) {
  const Parameter& p = graph_.parameters[parameter];
  require(tensor.shape == p.shape, Failure::weights, "{}: the model has {}, the file {}", p.name,
          to_string(p.shape), to_string(tensor.shape));
  const Tensor file =
      convert(tensor, options_.precision == Precision::fp64 ? DType::f64 : DType::f32);
  Tensor memory(file.dtype, p.memory);
  if (memory.dtype == DType::f64)
    permute(memory.as<double>().data(), file.as<double>().data(), p.memory, true);
  else
    permute(memory.as<float>().data(), file.as<float>().data(), p.memory, true);
  backend_.upload(arena + layout_.at[parameter] * size_of(memory.dtype), memory.bytes.data(),
                  memory.bytes.size());
  backend_.synchronize();
}

void Session::initialise(uint64_t seed) {
  std::vector<std::string> names;
  for (const Parameter& p : graph_.parameters) names.push_back(p.name);
  initialise(names, seed);
}

void Session::initialise(std::span<const std::string> names, uint64_t seed) {
  assert(!exchanged_);
  std::map<std::string, Tensor> values;
  for (int p = 0; p < static_cast<int>(graph_.parameters.size()); ++p)
    if (std::find(names.begin(), names.end(), graph_.parameters[p].name) != names.end())
      values[graph_.parameters[p].name] = initial_value(graph_, p, seed);
  write_model(values);
}

void Session::load(const std::map<std::string, Tensor>& tensors) {
  for (const Parameter& parameter : graph_.parameters)
    require(tensors.contains(parameter.name), Failure::weights, "no tensor {}", parameter.name);
  write_model(tensors);
  exchanged_ = false;
  batches_tracked_ = 0;
  tracked_before_.clear();
  for (const Norm& norm : graph_.norms)
    if (const auto it = tensors.find(counter_of(norm)); it != tensors.end())
      tracked_before_[norm.name] =
          static_cast<int64_t>(convert(it->second, DType::f64).as<double>()[0]);
}

// Those parameters that are among the tensors, their averages too.
void Session::write_model(const std::map<std::string, Tensor>& tensors) {
  for (int p = 0; p < static_cast<int>(graph_.parameters.size()); ++p) {
    const auto it = tensors.find(graph_.parameters[p].name);
    if (it == tensors.end()) continue;
    const bool trained = graph_.parameters[p].trained();
    write(p, trained ? arenas_.parameters : arenas_.state, it->second);
    if (averages()) write(p, trained ? arenas_.ema_parameters : arenas_.ema_state, it->second);
  }
  backend_.copy_weights(first_program());
}

const Program& Session::first_program() {
  record(*programs_.front());
  return *programs_.front()->program;
}

std::map<std::string, Tensor> Session::read_model(const std::byte* parameters,
                                                  const std::byte* state) const {
  std::map<std::string, Tensor> tensors;
  for (int p = 0; p < static_cast<int>(graph_.parameters.size()); ++p)
    tensors[graph_.parameters[p].name] =
        read(p, graph_.parameters[p].trained() ? parameters : state);
  for (const Norm& norm : graph_.norms) {
    Tensor counter(DType::i64, {});
    const auto before = tracked_before_.find(norm.name);
    counter.as<int64_t>()[0] = (before == tracked_before_.end() ? 0 : before->second) +
                               (options_.frozen_norms ? 0 : batches_tracked_);
    tensors[counter_of(norm)] = std::move(counter);
  }
  return tensors;
}

std::map<std::string, Tensor> Session::state() const {
  return read_model(arenas_.parameters, arenas_.state);
}

std::map<std::string, Tensor> Session::ema_state() const {
  assert(averages());
  return read_model(arenas_.ema_parameters, arenas_.ema_state);
}

void Session::load_ema_state(const std::map<std::string, Tensor>& tensors) {
  assert(averages() && !exchanged_);
  for (int p = 0; p < static_cast<int>(graph_.parameters.size()); ++p) {
    const Parameter& parameter = graph_.parameters[p];
    const auto it = tensors.find(parameter.name);
    require(it != tensors.end(), Failure::weights, "no average of {}", parameter.name);
    write(p, parameter.trained() ? arenas_.ema_parameters : arenas_.ema_state, it->second);
  }
}

void Session::exchange_ema() {
  assert(averages());
  const Program& program = first_program();
  backend_.exchange_averages(program);
  backend_.copy_weights(program);
  exchanged_ = !exchanged_;
}

std::vector<std::byte> Session::running_statistics() const {
  std::vector<std::byte> values(layout_.state * real_size(options_.precision));
  if (!values.empty()) backend_.download(values.data(), arenas_.state, values.size());
  return values;
}

void Session::set_running_statistics(std::span<const std::byte> values) {
  assert(values.size() == layout_.state * real_size(options_.precision));
  if (values.empty()) return;
  backend_.upload(arenas_.state, values.data(), values.size());
  backend_.synchronize();
}

std::map<std::string, Tensor> Session::gradients() const {
  std::map<std::string, Tensor> tensors;
  for (int p = 0; p < static_cast<int>(graph_.parameters.size()); ++p)
    if (graph_.parameters[p].trained())
      tensors[graph_.parameters[p].name] = read(p, arenas_.gradients);
  return tensors;
}

std::map<std::string, Tensor> Session::optimizer_state() const {
  std::map<std::string, Tensor> tensors;
  const size_t bytes = layout_.trained * real_size(options_.precision);
  for (int m = 0; m < options_.optimizer.moments(); ++m)
    for (int p = 0; p < static_cast<int>(graph_.parameters.size()); ++p)
      if (graph_.parameters[p].trained())
        tensors["moment" + std::to_string(m + 1) + "." + graph_.parameters[p].name] =
            read(p, arenas_.moments + m * bytes);
  const ScaleState now = scale();
  Tensor counters(DType::i64, {2}), factor(DType::f32, {1});
  counters.as<int64_t>()[0] = now.optimizer_steps;
  counters.as<int64_t>()[1] = now.good_steps;
  factor.as<float>()[0] = now.scale;
  tensors["scaler.counters"] = std::move(counters);
  tensors["scaler.scale"] = std::move(factor);
  return tensors;
}

void Session::load_optimizer_state(const std::map<std::string, Tensor>& tensors) {
  const auto find = [&](const std::string& name) -> const Tensor& {
    const auto it = tensors.find(name);
    require(it != tensors.end(), Failure::weights, "the checkpoint has no {}", name);
    return it->second;
  };
  const size_t bytes = layout_.trained * real_size(options_.precision);
  for (int m = 0; m < options_.optimizer.moments(); ++m)
    for (int p = 0; p < static_cast<int>(graph_.parameters.size()); ++p)
      if (graph_.parameters[p].trained())
        write(p, arenas_.moments + m * bytes,
              find("moment" + std::to_string(m + 1) + "." + graph_.parameters[p].name));
  ScaleState now = scale();
  now.optimizer_steps = find("scaler.counters").as<int64_t>()[0];
  now.good_steps = static_cast<int32_t>(find("scaler.counters").as<int64_t>()[1]);
  now.scale = find("scaler.scale").as<float>()[0];
  backend_.upload(arenas_.scale, &now, sizeof now);
  backend_.synchronize();
}

}  // namespace engine
