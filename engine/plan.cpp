#include "engine/plan.h"

#include <fmt/format.h>

#include <algorithm>
#include <limits>
#include <numeric>

#include "engine/arenas.h"
#include "engine/error.h"
#include "engine/features.h"

namespace engine {

namespace {

constexpr int64_t kParameterAlignment = kUpdateBlock;  // Reals

template <class I>
I round_up(I n, I multiple) {
  return (n + multiple - 1) / multiple * multiple;
}

// ---------------------------------------------------------------- the flat parameters

// Per parameter, the step whose backward completes its gradient: for a norm the first of its
// readers.
std::vector<int> completing_steps(const Graph& graph) {
  std::vector<int> ready(graph.parameters.size(), -1);
  const auto complete = [&](int parameter, int step) {
    if (parameter != kNone) ready[parameter] = step;
  };
  for (int i = static_cast<int>(graph.steps.size()) - 1; i >= 0; --i) {
    for (const Operand& o : operands_of(graph.steps[i])) {
      if (o.norm == kNone) continue;
      complete(graph.norms[o.norm].gamma, i);
      complete(graph.norms[o.norm].beta, i);
    }
    if (const auto* conv = std::get_if<Conv>(&graph.steps[i])) {
      complete(conv->weight, i);
      complete(conv->bias, i);
    } else if (const auto* se = std::get_if<SqueezeExcite>(&graph.steps[i])) {
      for (int p : {se->reduce_weight, se->reduce_bias, se->expand_weight, se->expand_bias})
        complete(p, i);
    }
  }
  return ready;
}

std::vector<int> trained_in_backward_order(const Graph& graph, const std::vector<int>& ready) {
  std::vector<int> order;
  for (int p = 0; p < static_cast<int>(graph.parameters.size()); ++p)
    if (graph.parameters[p].trained()) order.push_back(p);
  std::stable_sort(order.begin(), order.end(), [&](int a, int b) { return ready[a] > ready[b]; });
  return order;
}

std::vector<Bucket> make_buckets(const Graph& graph, const ParameterLayout& layout,
                                 int64_t bucket_elements) {
  const std::vector<int>& ready = layout.completed_by;
  std::vector<Bucket> buckets;
  Bucket bucket;
  for (int p : trained_in_backward_order(graph, ready)) {
    const int64_t end =
        layout.at[p] + round_up(elements(graph.parameters[p].shape), kParameterAlignment);
    bucket.elements = end - bucket.first;
    bucket.after_step = ready[p];
    if (bucket.elements < bucket_elements) continue;
    buckets.push_back(bucket);
    bucket = {.first = end};
  }
  if (bucket.elements > 0) buckets.push_back(bucket);
  return buckets;
}

// ---------------------------------------------------------------- the plan, part by part

class Planner {
 public:
  Planner(const Graph& graph, const PlanOptions& options)
      : graph_(graph),
        options_(options),
        steps_(static_cast<int>(graph.steps.size())),
        clock_{steps_} {
    plan_.options = options;
    plan_.layout = lay_out_parameters(graph);
    plan_.buckets = make_buckets(graph, plan_.layout, options.bucket_elements);
    plan_.data.resize(graph.buffers.size());
    plan_.grad.resize(graph.buffers.size());
    plan_.gated_by.resize(graph.buffers.size(), nullptr);
    for (int b = 0; b < static_cast<int>(graph.buffers.size()); ++b)
      plan_.scaled.push_back(scaled_operand(graph, b));
    plan_.gate.resize(graph.gates.size());
    plan_.steps.resize(graph.steps.size());
    shared_gradient_.resize(graph.buffers.size());
    std::iota(shared_gradient_.begin(), shared_gradient_.end(), 0);
    first_producer_.assign(graph.buffers.size(), -1);
    for (int i = steps_ - 1; i >= 0; --i)
      if (const Slice* out = output_of(graph.steps[i])) first_producer_[out->buffer] = i;
  }

  Plan make() {
    find_gated_buffers();
    decide_gradient_writes();
    place();
    return std::move(plan_);
  }

 private:
  using StepScratch = std::array<Tenant, 4>;

  bool training() const { return options_.training; }
  bool wants_gradient(int buffer) const {
    return buffer != graph_.image.buffer || options_.input_gradient;
  }

  void find_gated_buffers() {
    for (const Step& step : graph_.steps) {
      const Operand* o = nullptr;
      if (const auto* conv = std::get_if<Conv>(&step)) o = &conv->in;
      if (const auto* pool = std::get_if<Pool>(&step)) o = &pool->in;
      if (!o || o->gate == kNone || !graph_.gates[o->gate].learned) continue;
      plan_.gated_by[o->at.buffer] = o;
    }
    std::vector<int> readers(graph_.buffers.size());
    for (const Step& step : graph_.steps)
      for (const Operand& o : operands_of(step)) {
        ++readers[o.at.buffer];
        require(o.gate == kNone || !graph_.gates[o.gate].learned || plan_.gated_by[o.at.buffer],
                Failure::internal, "{}: only a convolution or a pool reads a learned gate",
                name_of(step));
      }
    for (size_t b = 0; b < readers.size(); ++b)
      require(!plan_.gated_by[b] || readers[b] == 2, Failure::internal,
              "{}: only the squeeze-excite and one step may read a gated buffer; {} do",
              graph_.buffers[b].name, readers[b]);
  }

  void decide_gradient_writes() {
    std::vector<std::vector<bool>> written;  // channels whose first writer is known
    for (const Buffer& b : graph_.buffers) written.emplace_back(b.channels);
    for (int i = steps_ - 1; i >= 0; --i) {
      const Step& step = graph_.steps[i];
      if (std::holds_alternative<SqueezeExcite>(step)) continue;  // it leaves q instead
      bool same_taken = false;
      const std::vector<Operand> operands = operands_of(step);
      for (size_t k = 0; k < operands.size(); ++k) {
        const Operand& o = operands[k];
        if (!wants_gradient(o.at.buffer)) continue;
        std::vector<bool>& done = written[o.at.buffer];
        const auto first = done.begin() + o.at.c0, last = done.begin() + o.at.c1;
        const auto count = std::count(first, last, true);
        require(count == 0 || count == o.at.channels(), Failure::internal,
                "{}: first writer of only some channels", name_of(step));
        const Slice* out = output_of(step);
        const bool same = std::holds_alternative<Add>(step) && o.plain() && count == 0 &&
                          !same_taken && !graph_.buffers[out->buffer].normed &&
                          o.at.channels() == graph_.buffers[o.at.buffer].channels;
        const bool scaled = plan_.scaled[o.at.buffer] != nullptr;
        if (same || scaled) shared_gradient_[o.at.buffer] = shared_gradient_[out->buffer];
        same_taken = same_taken || same;
        plan_.steps[i].write[k] = same         ? GradientWrite::same
                                  : scaled     ? GradientWrite::scaled
                                  : count == 0 ? GradientWrite::assign
                                               : GradientWrite::add;
        std::fill(first, last, true);
      }
    }
  }

  void place() {
    live_buffers();
    live_gates();
    live_scratch();
    if (training() && options_.memory == MemoryUse::lean)
      plan_.recomputed = recompute(recomputable(), bytes_in_use(tenants(), clock_), clock_);
    std::vector<Tenant> all = tenants();
    plan_.activations = assign_offsets(all);
    for (size_t b = 0; b < plan_.grad.size(); ++b) plan_.grad[b] = plan_.grad[shared_gradient_[b]];
  }

  size_t bytes_of(const Buffer& b) const {
    return size_t(options_.batch) * b.height * b.width * b.channels *
           storage_size(options_.precision);
  }

  // The data have a life in the forward and another one in the backward.
  void live_buffers() {
    for (size_t b = 0; b < graph_.buffers.size(); ++b) {
      plan_.data[b].bytes = bytes_of(graph_.buffers[b]);
      data_.push_back({&plan_.data[b]});
      grad_.push_back({&plan_.grad[b]});
      const int producer = std::max(0, first_producer_[b]);
      data_[b].life.use(clock_.forward(producer));
      if (training() && (graph_.buffers[b].normed || plan_.gated_by[b]))
        data_[b].again.use(clock_.backward(producer));
    }
    for (int i = 0; i < steps_; ++i) {
      const auto* add = std::get_if<Add>(&graph_.steps[i]);
      if (add && add->act != Activation::none && training())
        data_[add->out.buffer].again.use(clock_.backward(i));
      for (const Operand& o : operands_of(graph_.steps[i])) {
        data_[o.at.buffer].life.use(clock_.forward(i));
        if (!training()) continue;
        if (!add || !o.plain()) data_[o.at.buffer].again.use(clock_.backward(i));
        if (!wants_gradient(o.at.buffer)) continue;
        const int shared = shared_gradient_[o.at.buffer], producer = first_producer_[o.at.buffer];
        plan_.grad[shared].bytes = bytes_of(graph_.buffers[shared]);
        const bool loss = std::holds_alternative<Loss>(graph_.steps[i]);
        grad_[shared].life.use(loss ? clock_.forward(i) : clock_.backward(i));
        grad_[shared].life.use(producer < 0 ? clock_.end() : clock_.backward(producer));
      }
    }
    data_[graph_.logits.buffer].again.use(clock_.end());  // read after the step
    if (training() || !options_.features) return;
    const Head head = head_of(graph_);
    data_[head.linear->in.at.buffer].life.use(clock_.end());
    if (head.pool) data_[head.pool->in.at.buffer].life.use(clock_.end());
  }

  void live_gates() {
    for (int i = 0; i < steps_; ++i) {
      const auto* se = std::get_if<SqueezeExcite>(&graph_.steps[i]);
      if (!se) continue;
      Range& range = plan_.gate[se->gate];
      range.bytes =
          gate_elements(graph_.gates[se->gate], options_.batch) * real_size(options_.precision);
      Tenant tenant{&range};
      tenant.life.use(clock_.forward(i));
      tenant.life.use(training() ? clock_.backward(first_producer_[se->in.at.buffer])
                                 : clock_.forward(last_reader(se->gate)));
      gates_.push_back(tenant);
    }
  }

  int last_reader(int gate) const {
    int last = 0;
    for (int i = 0; i < steps_; ++i)
      for (const Operand& o : operands_of(graph_.steps[i]))
        if (o.gate == gate) last = i;
    return last;
  }

  void live_scratch() {
    const auto live = [](ScratchPlan& plan, const Scratch& scratch, int time) {
      plan = {.operand = {0, scratch.operand},
              .output = {0, scratch.output},
              .weight = {0, scratch.weight},
              .partials = {0, scratch.partials}};
      const Life life{time, time};
      return StepScratch{{{&plan.operand, life},
                          {&plan.output, life},
                          {&plan.weight, life},
                          {&plan.partials, life}}};
    };
    const FormOptions options = options_.forms();
    for (int i = 0; i < steps_; ++i) {
      const StepNeeds n = needs(graph_, graph_.steps[i], options);
      StepPlan& step = plan_.steps[i];
      forward_scratch_.push_back(live(step.forward, n.forward, clock_.forward(i)));
      const Scratch backward = training() ? n.backward : Scratch{};
      backward_scratch_.push_back(live(step.backward, backward, clock_.backward(i)));
      step.kept.bytes = training() ? n.kept : 0;
      kept_.push_back({&step.kept, {clock_.forward(i), clock_.backward(i)}, {}});
    }
  }

  // The operand is there when an output is computed again: the backward of the same convolution
  // reads it later.
  std::vector<Recomputable> recomputable() {
    std::vector<Recomputable> outputs;
    for (int i = 0; i < steps_; ++i) {
      const auto* conv = std::get_if<Conv>(&graph_.steps[i]);
      if (!conv || conv->out.buffer == graph_.logits.buffer) continue;
      const int buffer = conv->out.buffer;
      const bool whole = conv->out.channels() == graph_.buffers[buffer].channels;
      if (!whole || plan_.data[buffer].bytes == 0 || data_[buffer].again.empty()) continue;
      const Candidate first =
          candidates(graph_, *conv, Direction::forward, options_.forms()).front();
      Recomputable output{.step = i,
                          .buffer = buffer,
                          .operand = conv->in.at.buffer,
                          .moved = first.cost.bytes,
                          .data = &data_[buffer]};
      for (size_t k = 0; k < output.scratch.size(); ++k)
        output.scratch[k] = &forward_scratch_[i][k];
      outputs.push_back(output);
    }
    return outputs;
  }

  // All, with one life for data that are kept.
  std::vector<Tenant> tenants() const {
    std::vector<Tenant> all;
    for (const Tenant& data : data_) all.push_back(data.joined());
    for (const Recomputation& again : plan_.recomputed) {
      const int buffer = output_of(graph_.steps[again.step])->buffer;
      all[buffer] = data_[buffer];
    }
    all.insert(all.end(), grad_.begin(), grad_.end());
    all.insert(all.end(), gates_.begin(), gates_.end());
    all.insert(all.end(), kept_.begin(), kept_.end());
    for (int i = 0; i < steps_; ++i) {
      all.insert(all.end(), forward_scratch_[i].begin(), forward_scratch_[i].end());
      all.insert(all.end(), backward_scratch_[i].begin(), backward_scratch_[i].end());
    }
    return all;
  }

  const Graph& graph_;
  PlanOptions options_;
  int steps_;
  StepClock clock_;
  Plan plan_;
  std::vector<int> shared_gradient_;  // per buffer: the buffer whose gradient memory it uses
  std::vector<int> first_producer_;   // per buffer: -1 for the image
  std::vector<Tenant> data_, grad_;   // per buffer
  std::vector<Tenant> gates_, kept_;
  std::vector<StepScratch> forward_scratch_, backward_scratch_;  // per step
};

}  // namespace

ParameterLayout lay_out_parameters(const Graph& graph) {
  ParameterLayout layout;
  layout.at.resize(graph.parameters.size());
  const auto take = [&](int p, int64_t& next) {
    layout.at[p] = next;
    next += round_up(elements(graph.parameters[p].shape), kParameterAlignment);
  };
  layout.completed_by = completing_steps(graph);
  for (int p : trained_in_backward_order(graph, layout.completed_by)) take(p, layout.trained);
  for (int p = 0; p < static_cast<int>(graph.parameters.size()); ++p)
    if (!graph.parameters[p].trained()) take(p, layout.state);
  for (const Buffer& b : graph.buffers) {
    layout.channel_at.push_back(layout.channels);
    layout.channels += round_up<int64_t>(b.channels, kParameterAlignment);
  }
  return layout;
}

Plan make_plan(const Graph& graph, const PlanOptions& options) {
  return Planner(graph, options).make();
}

int indexed_batch(const Graph& graph) {
  int64_t largest = 1;
  for (const Buffer& b : graph.buffers)
    largest = std::max(largest, int64_t{b.height} * b.width * b.channels);
  return static_cast<int>(std::numeric_limits<int32_t>::max() / largest);
}

bool indexes(const Graph& graph, const PlanOptions& options) {
  return options.backend == BackendKind::reference || options.batch <= indexed_batch(graph);
}

void check_indexed(const Graph& graph, const PlanOptions& options) {
  const Buffer& image = graph.buffers[graph.image.buffer];
  require(indexes(graph, options), Failure::memory,
          "a batch of {} images of {} by {} pixels: 32 bits can index the tensors of {} at most",
          options.batch, image.width, image.height, indexed_batch(graph));
}

int largest_batch(const Graph& graph, PlanOptions options, const UpdateMemory& update,
                  size_t bytes) {
  int fits = 0;
  int too_large =
      static_cast<int>(std::min<int64_t>(options.batch, int64_t{indexed_batch(graph)} + 1));
  while (too_large - fits > 1) {
    options.batch = fits + (too_large - fits) / 2;
    const bool fit = make_plan(graph, options).totals(graph, update).sum() <= bytes;
    (fit ? fits : too_large) = options.batch;
  }
  return fits;
}

std::string what_fits(const Graph& graph, PlanOptions options, const UpdateMemory& update,
                      size_t bytes, size_t beside) {
  const size_t room = bytes > beside ? bytes - beside : 0;
  const auto largest = [&] { return largest_batch(graph, options, update, room); };
  std::string text = fmt::format("the largest batch that fits is {}", largest());
  if (options.memory == MemoryUse::lean || !options.training) return text;
  options.memory = MemoryUse::lean;
  const size_t needed = make_plan(graph, options).totals(graph, update).sum();
  text +=
      fmt::format("; with --memory lean it needs {:.0f} MiB, ", double(needed + beside) / 1048576);
  return text + (needed <= room && indexes(graph, options)
                     ? "which fits"
                     : fmt::format("and the largest batch that fits is {}", largest()));
}

Plan::Totals Plan::totals(const Graph& graph, const UpdateMemory& update) const {
  const size_t real = real_size(options.precision);
  const Buffer& image = graph.buffers[graph.image.buffer];
  const size_t image_bytes = size_t(image.height) * image.width * image.channels;
  Totals t{};
  t.parameters = layout.trained * real;
  t.weight_copies =
      weights_are_masters(options.precision) ? 0 : layout.trained * storage_size(options.precision);
  t.state = layout.state * real;
  t.channels = 4 * layout.channels * real;
  t.activations = activations;
  t.workspace = options.backend == BackendKind::reference ? 0 : options.workspace;
  t.staging =
      kSlots * options.batch * (image_bytes + sizeof(int32_t) + sizeof(ImageRecord) + sizeof(Mix)) +
      options.batch * sizeof(int32_t) + sizeof(StepParams) + sizeof(ScaleState);
  if (options.training) {
    t.gradients = t.parameters;
    t.optimizer = update.moments * t.parameters;
    t.accumulated = update.accumulates ? t.parameters : 0;
    t.averages = update.averages ? t.parameters + t.state : 0;
    t.groups = layout.trained / kUpdateBlock + kMaxParameterGroups * sizeof(ParameterGroup) +
               sizeof(NormPartials);
  }
  return t;
}

}  // namespace engine
