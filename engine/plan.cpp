#include "engine/plan.h"

#include <algorithm>
#include <limits>
#include <numeric>

#include "engine/arenas.h"
#include "engine/error.h"

namespace engine {

namespace {

constexpr size_t kAlignment = 256;  // bytes; what cudaMalloc gives and what vector loads want
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

// ---------------------------------------------------------------- lifetimes and offsets

// A piece of the arena and when it is in use: the forward of step i is time i, its backward is time
// 2·steps − 1 − i.
struct Tenant {
  Range* range;
  int from = std::numeric_limits<int>::max(), to = -1;  // both inclusive
  void use(int time) { from = std::min(from, time), to = std::max(to, time); }
};

// Places the largest first, each at the lowest offset that is free for its whole life.
size_t assign_offsets(std::vector<Tenant>& tenants) {
  std::erase_if(tenants, [](const Tenant& t) { return t.range->bytes == 0 || t.to < 0; });
  std::stable_sort(tenants.begin(), tenants.end(), [](const Tenant& a, const Tenant& b) {
    return a.range->bytes > b.range->bytes;
  });
  size_t peak = 0;
  std::vector<const Tenant*> neighbours;
  for (size_t i = 0; i < tenants.size(); ++i) {
    Tenant& t = tenants[i];
    neighbours.clear();
    for (size_t j = 0; j < i; ++j)
      if (tenants[j].from <= t.to && t.from <= tenants[j].to) neighbours.push_back(&tenants[j]);
    std::sort(neighbours.begin(), neighbours.end(),
              [](const Tenant* a, const Tenant* b) { return a->range->offset < b->range->offset; });
    size_t offset = 0;
    for (const Tenant* n : neighbours) {
      if (offset + t.range->bytes <= n->range->offset) break;
      offset = std::max(offset, round_up(n->range->offset + n->range->bytes, kAlignment));
    }
    t.range->offset = offset;
    peak = std::max(peak, offset + t.range->bytes);
  }
  return round_up(peak, kAlignment);
}

// ---------------------------------------------------------------- the plan, part by part

class Planner {
 public:
  Planner(const Graph& graph, const PlanOptions& options)
      : graph_(graph), options_(options), steps_(static_cast<int>(graph.steps.size())) {
    plan_.options = options;
    plan_.layout = lay_out_parameters(graph);
    plan_.buckets = make_buckets(graph, plan_.layout, options.bucket_elements);
    plan_.data.resize(graph.buffers.size());
    plan_.grad.resize(graph.buffers.size());
    plan_.gated_by.resize(graph.buffers.size(), nullptr);
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
  int backward_of(int step) const { return 2 * steps_ - 1 - step; }
  int last_time() const { return 2 * steps_; }
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
        if (same) shared_gradient_[o.at.buffer] = shared_gradient_[out->buffer];
        same_taken = same_taken || same;
        plan_.steps[i].write[k] = same         ? GradientWrite::same
                                  : count == 0 ? GradientWrite::assign
                                               : GradientWrite::add;
        std::fill(first, last, true);
      }
    }
  }

  void place() {
    std::vector<Tenant> tenants;
    place_buffers(tenants);
    place_gates(tenants);
    place_scratch(tenants);
    plan_.activations = assign_offsets(tenants);
    for (size_t b = 0; b < plan_.grad.size(); ++b) plan_.grad[b] = plan_.grad[shared_gradient_[b]];
  }

  size_t bytes_of(const Buffer& b) const {
    return size_t(options_.batch) * b.height * b.width * b.channels *
           storage_size(options_.precision);
  }

  void place_buffers(std::vector<Tenant>& tenants) {
    std::vector<Tenant> data, grad;
    for (size_t b = 0; b < graph_.buffers.size(); ++b) {
      plan_.data[b].bytes = bytes_of(graph_.buffers[b]);
      data.push_back({&plan_.data[b]});
      grad.push_back({&plan_.grad[b]});
      const int producer = std::max(0, first_producer_[b]);
      data[b].use(producer);
      if (training() && (graph_.buffers[b].normed || plan_.gated_by[b]))
        data[b].use(backward_of(producer));
    }
    for (int i = 0; i < steps_; ++i) {
      const bool add = std::holds_alternative<Add>(graph_.steps[i]);
      for (const Operand& o : operands_of(graph_.steps[i])) {
        data[o.at.buffer].use(i);
        if (!training()) continue;
        if (!add || !o.plain()) data[o.at.buffer].use(backward_of(i));
        if (!wants_gradient(o.at.buffer)) continue;
        const int shared = shared_gradient_[o.at.buffer], producer = first_producer_[o.at.buffer];
        plan_.grad[shared].bytes = bytes_of(graph_.buffers[shared]);
        grad[shared].use(std::holds_alternative<Loss>(graph_.steps[i]) ? i : backward_of(i));
        grad[shared].use(producer < 0 ? last_time() : backward_of(producer));
      }
    }
    data[graph_.logits.buffer].use(last_time());  // read after the step
    tenants.insert(tenants.end(), data.begin(), data.end());
    tenants.insert(tenants.end(), grad.begin(), grad.end());
  }

  void place_gates(std::vector<Tenant>& tenants) {
    for (int i = 0; i < steps_; ++i) {
      const auto* se = std::get_if<SqueezeExcite>(&graph_.steps[i]);
      if (!se) continue;
      Range& range = plan_.gate[se->gate];
      range.bytes =
          gate_elements(graph_.gates[se->gate], options_.batch) * real_size(options_.precision);
      Tenant tenant{&range};
      tenant.use(i);
      tenant.use(training() ? backward_of(first_producer_[se->in.at.buffer])
                            : last_reader(se->gate));
      tenants.push_back(tenant);
    }
  }

  int last_reader(int gate) const {
    int last = 0;
    for (int i = 0; i < steps_; ++i)
      for (const Operand& o : operands_of(graph_.steps[i]))
        if (o.gate == gate) last = i;
    return last;
  }

  void place_scratch(std::vector<Tenant>& tenants) {
    const FormOptions options{.batch = options_.batch,
                              .precision = options_.precision,
                              .backend = options_.backend,
                              .conv = options_.conv,
                              .limits = options_.limits};
    const auto place = [&](ScratchPlan& plan, const Scratch& scratch, int time) {
      plan = {.operand = {0, scratch.operand},
              .output = {0, scratch.output},
              .weight = {0, scratch.weight},
              .partials = {0, scratch.partials}};
      for (Range* range : {&plan.operand, &plan.output, &plan.weight, &plan.partials})
        tenants.push_back({range, time, time});
    };
    for (int i = 0; i < steps_; ++i) {
      const StepNeeds n = needs(graph_, graph_.steps[i], options);
      place(plan_.steps[i].forward, n.forward, i);
      if (training()) place(plan_.steps[i].backward, n.backward, backward_of(i));
    }
  }

  const Graph& graph_;
  PlanOptions options_;
  int steps_;
  Plan plan_;
  std::vector<int> shared_gradient_;  // per buffer: the buffer whose gradient memory it uses
  std::vector<int> first_producer_;   // per buffer: -1 for the image
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

int largest_batch(const Graph& graph, PlanOptions options, const UpdateMemory& update,
                  size_t bytes) {
  // cuDNN and oneDNN index a tensor by 32 bits.
  int64_t largest = 1;
  for (const Buffer& b : graph.buffers)
    largest = std::max(largest, int64_t{b.height} * b.width * b.channels);
  const int64_t indexed = std::numeric_limits<int32_t>::max() / largest;
  int fits = 0, too_large = static_cast<int>(std::min<int64_t>(options.batch, indexed + 1));
  while (too_large - fits > 1) {
    options.batch = fits + (too_large - fits) / 2;
    const bool fit = make_plan(graph, options).totals(graph, update).sum() <= bytes;
    (fit ? fits : too_large) = options.batch;
  }
  return fits;
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
