// Where everything lives: who writes and who accumulates each gradient, lifetimes, arena offsets,
// parameter offsets in backward order, all-reduce buckets. A pure function of the graph: no device.
#pragma once

#include <array>
#include <cstddef>
#include <string>
#include <string_view>
#include <vector>

#include "engine/graph.h"
#include "engine/lifetimes.h"
#include "engine/needs.h"
#include "engine/recompute.h"

namespace engine {

// What a step's backward does to the gradient of one operand.
enum class GradientWrite {
  none,    // nobody wants it (the image)
  assign,  // G = …: the last consumer in forward order; it writes the whole slice
  add,     // G += …
  same,    // the plain operand of an Add: its gradient is the sum's memory; nothing to do
  scaled,  // scaled_operand(): the sum's memory too; sums are taken, and whoever reads it scales
};

struct ScratchPlan {
  Range operand, output, weight, partials;  // in the activation arena; see Scratch
};

struct StepPlan {
  std::array<GradientWrite, 2> write{};  // per operand
  ScratchPlan forward, backward;
  Range kept;  // what the forward leaves for the backward beside its output
};

// A byte range of the flat gradients that is complete after the backward of `after_step`.
struct Bucket {
  int64_t first = 0, elements = 0;  // in Reals
  int after_step = 0;               // index in Graph::steps
};

// What stays in memory from the forward to the backward: all that the backward reads or, lean, less
// than that; the outputs of some convolutions are then computed again, which leaves the same bits.
enum class MemoryUse { fast, lean };

// As --memory spells it.
constexpr std::string_view name_of(MemoryUse memory) {
  return memory == MemoryUse::lean ? "lean" : "fast";
}

struct PlanOptions {
  int batch = 1;
  bool training = true;
  MemoryUse memory = MemoryUse::fast;
  bool frozen_norms = false;    // train on the running statistics, which then stand still
  bool input_gradient = false;  // tests only
  // Evaluation keeps what the last layer and the global average before it read.
  bool features = false;
  Precision precision = Precision::fp32;
  BackendKind backend = BackendKind::cpu;
  ConvForm conv = ConvForm::automatic;
  DeviceLimits limits;
  size_t workspace = size_t{256} << 20;  // cap for library workspace
  int64_t bucket_elements = int64_t{4} << 20;

  FormOptions forms() const { return {batch, precision, backend, conv, limits, input_gradient}; }
};

// Parameters do not depend on the batch: every plan of a graph has the same layout.
struct ParameterLayout {
  std::vector<int64_t> at;         // per parameter: first Real in the trained or the state arena
  int64_t trained = 0, state = 0;  // Reals in each, padded: every tensor starts at a multiple of 64
  // Per parameter: the last step whose backward adds to its gradient, which is the first in forward
  // order; -1: not trained.
  std::vector<int> completed_by;
  std::vector<int64_t> channel_at;  // per buffer: first channel in each of k0, k1, mean, var
  int64_t channels = 0;             // of all buffers
};

ParameterLayout lay_out_parameters(const Graph& graph);

// What the update keeps beside parameters and gradients.
struct UpdateMemory {
  int moments = 2;           // arrays like the parameters
  bool accumulates = false;  // a second arena of gradients
  bool averages = false;     // of parameters and running statistics
};

struct Plan {
  PlanOptions options;
  ParameterLayout layout;
  std::vector<Range> data, grad;         // per buffer, in the activation arena
  std::vector<Range> gate;               // per gate; learned ones only
  std::vector<const Operand*> gated_by;  // per buffer: its learned-gated operand, or null
  std::vector<const Operand*> scaled;    // per buffer: its scaled_operand(), or null
  std::vector<StepPlan> steps;
  std::vector<Recomputation> recomputed;  // in the order in which they run; lean memory only
  std::vector<Bucket> buckets;            // in the order in which they become ready
  size_t activations = 0;                 // bytes of the arena

  // Bytes of the whole session: what the arenas allocate.
  struct Totals {
    size_t parameters, gradients, accumulated, optimizer, averages, groups, weight_copies, state,
        channels, activations, workspace, staging;
    size_t sum() const {
      return parameters + gradients + accumulated + optimizer + averages + groups + weight_copies +
             state + channels + activations + workspace + staging;
    }
  };
  Totals totals(const Graph& graph, const UpdateMemory& update) const;
};

// Throws Error(internal) where the graph breaks a rule: a third reader of a gated buffer, a slice
// only partly written.
Plan make_plan(const Graph& graph, const PlanOptions& options);

// The largest batch whose tensors 32 bits can index, as cuDNN and oneDNN do.
int indexed_batch(const Graph& graph);

// Whether a backend can index the tensors of such a batch; the reference can index any.
bool indexes(const Graph& graph, const PlanOptions& options);

// Throws Error(memory) where it cannot.
void check_indexed(const Graph& graph, const PlanOptions& options);

// The largest batch below options.batch, and at most indexed_batch(), whose totals fit into
// `bytes`; 0: none does.
int largest_batch(const Graph& graph, PlanOptions options, const UpdateMemory& update,
                  size_t bytes);

// What to say where a training does not fit into `bytes`, of which `beside` are for something else:
// the largest batch that does, and what lean memory would make of it.
std::string what_fits(const Graph& graph, PlanOptions options, const UpdateMemory& update,
                      size_t bytes, size_t beside = 0);

}  // namespace engine
