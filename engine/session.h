// One model on one device: its memory, its programs (one per batch size and mode) and the step.
#pragma once

#include <array>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "engine/anomaly.h"
#include "engine/backend.h"
#include "engine/graph.h"
#include "engine/loss.h"
#include "engine/plan.h"
#include "engine/program.h"

namespace engine {

enum class Mode {
  train,       // forward, backward, all-reduce, optimizer
  gradients,   // all but the optimizer
  accumulate,  // forward, backward; the gradients are added up until the next train
  evaluate,    // forward with running statistics, no random gates
};

struct ProgramSpec {
  int batch = 1;
  Mode mode = Mode::train;
};

struct SessionOptions {
  std::vector<ProgramSpec> programs;  // what will be run: the arena is sized for them
  Precision precision = Precision::fp32;
  ConvForm conv = ConvForm::automatic;
  MemoryUse memory = MemoryUse::fast;  // of training
  bool deterministic = false;
  bool frozen_norms = false;
  bool input_gradient = false;
  bool float_input = false;  // the image buffer is filled by set_input, not from staged bytes
  bool features = false;     // evaluations keep what features() and feature_maps() read
  size_t workspace = size_t{256} << 20;
  OptimizerConfig optimizer;
  // The rule of each trained parameter; empty: the defaults.
  std::function<ParameterRule(const Parameter&)> rule;
  // The decay of the averages of parameters and running statistics, as in timm's ModelEmaV2: a copy
  // where training starts, then decay·average + (1 − decay)·value after every update. 0: none.
  double ema_decay = 0;
  bool accumulates = false;  // accumulate() will be called
  LossConfig loss;
  bool mixing = false;    // training batches may come with mixes
  size_t pack_bytes = 0;  // of uint8 images to keep in device memory, for HostBatch::records
  Normalisation normalisation;
  float loss_scale = 65536;  // fp16: the initial scale; fixed_loss_scale keeps it
  bool fixed_loss_scale = false;
  uint64_t seed = 0;   // of the random gates
  bool marks = false;  // StepResult::times are noted in training steps
  // Ranks share batch statistics, as torch.nn.SyncBatchNorm does.
  bool sync_norms = false;
  Precision buckets = Precision::fp32;  // in which gradients travel: fp32, fp16 or bf16
  int64_t bucket_elements = PlanOptions{}.bucket_elements;  // gradients that travel together
};

// What looking at every result of a step found.
struct Inspection {
  uint64_t step = 0;             // its number, as run() would return it
  std::optional<Anomaly> first;  // nothing: all are finite
};

struct StepInput {
  uint32_t epoch = 0, position = 0;  // of this rank's first sample; they key the random gates
  double learning_rate = 0;
  double divisor = 0;  // of the loss: target_weight() of the global batch; 0: count
  int total = 0;       // images of the step over all ranks; 0: as many as here on each
};

class Session {
 public:
  // Plans and allocates everything. Throws Error(memory), with the numbers, when it does not fit.
  Session(Graph graph, Backend& backend, const SessionOptions& options);
  Session(const Session&) = delete;
  Session& operator=(const Session&) = delete;

  const Graph& graph() const { return graph_; }
  Backend& backend() { return backend_; }
  const SessionOptions& options() const { return options_; }
  const Plan& plan() const;  // of the largest program
  size_t allocated_bytes() const { return memory_.bytes(); }

  // Chooses algorithms and records every program that the options name; otherwise the first use
  // does.
  void prepare();
  // Other rules from the next step on, of which none may be under way: what was frozen learns, or
  // the reverse. Programs are recorded again, their algorithms stay.
  void set_rule(std::function<ParameterRule(const Parameter&)> rule);
  // Every launch of a step, in the order in which it runs them; they live as long as the session.
  std::span<const OrderedLaunch> launches(int batch, Mode mode);

  // ---- steps; all but result() and evaluate() only enqueue

  // Returns the number of the step. The batch's memory may be reused on return.
  uint64_t train(const HostBatch& batch, const StepInput& input) {
    return run(batch, input, Mode::train);
  }
  uint64_t gradients(const HostBatch& batch, const StepInput& input) {
    return run(batch, input, Mode::gradients);
  }
  // A share of a batch that is too large for one step: its gradients are kept and the next train(),
  // of the last share, adds them before the all-reduce. input.divisor is of the whole, every time.
  uint64_t accumulate(const HostBatch& batch, const StepInput& input) {
    return run(batch, input, Mode::accumulate);
  }
  // Logits (count, classes); the result's loss is the plain one over `input.divisor`.
  std::vector<float> evaluate(const HostBatch& batch, const StepInput& input,
                              StepResult* result = nullptr);
  // Takes the same step launch by launch and looks at every output and gradient; waits for it.
  Inspection inspect(const HostBatch& batch, const StepInput& input, Mode mode);
  std::vector<double> logits(int count) const;  // of the last step
  // After an evaluation with SessionOptions::features: what the last layer reads, (count, features)
  // with H·W·C features of each image, and what the global average before it reads, (count, H, W,
  // C), normalised and activated. Error(usage) where a network does not end in such an average.
  std::vector<float> features(int count) const;
  std::vector<float> feature_maps(int count) const;
  // Results are kept for the last kResults steps. poll() returns nothing where the device is not
  // there yet.
  std::optional<StepResult> poll(uint64_t step) const;
  StepResult result(uint64_t step);           // waits
  uint64_t started() const { return step_; }  // the number of the last step
  // How far the device is with the sums over the ranks, by bucket; any thread may ask.
  std::span<const CollectiveMark> collectives() const;
  // Writes bytes of the pack from `offset` on; returns when they are there. The pack may be written
  // in pieces, and must be whole before a batch of records.
  void write_pack(size_t offset, std::span<const uint8_t> bytes);
  // Fills the input of the program of that many images; with float_input only.
  void set_input(std::span<const double> nhwc);

  // ---- state, by the reference's names and in its layouts

  void initialise(uint64_t seed);  // every parameter
  void initialise(std::span<const std::string> names, uint64_t seed);
  // Every parameter must be there; counters (num_batches_tracked) may be missing.
  void load(const std::map<std::string, Tensor>& tensors);
  std::map<std::string, Tensor> state() const;  // parameters, running statistics, counters
  std::map<std::string, Tensor> gradients() const;
  std::vector<double> input_gradient(int count) const;
  // The moments by "<array>.<parameter>", the scaler and the step counters. They are complete
  // between updates: what accumulate() has gathered is not part of them.
  std::map<std::string, Tensor> optimizer_state() const;
  void load_optimizer_state(const std::map<std::string, Tensor>& tensors);

  // The averages, with ema_decay only; initialise() and load() start them as a copy.
  std::map<std::string, Tensor> ema_state() const;                    // named and shaped as state()
  void load_ema_state(const std::map<std::string, Tensor>& tensors);  // after load()
  // Swaps parameters and running statistics with their averages: evaluate() and state() then see
  // the averages, ema_state() the rest. A second call swaps back; no training in between.
  void exchange_ema();

  // The running statistics as bytes for another session of the same graph and precision. Ranks
  // train on different images, so theirs differ.
  std::vector<std::byte> running_statistics() const;
  void set_running_statistics(std::span<const std::byte> values);

  ScaleState scale() const;

 private:
  // One program; it is recorded once `launch` is there.
  struct Running {
    ProgramSpec spec;
    Plan plan;
    std::unique_ptr<Program> program;
    Prepared prepared;
    std::vector<OrderedLaunch> order;
    std::function<void()> launch;
  };
  struct SlotContent {
    bool packed = false, mixed = false;
  };
  void check_batch(const HostBatch& batch, Mode mode) const;
  uint64_t run(const HostBatch& batch, const StepInput& input, Mode mode);
  // The two halves of run(), before and after its launches.
  Running& begin(const HostBatch& batch, const StepInput& input, Mode mode);
  uint64_t end(const HostBatch& batch, Mode mode);
  StepResult& result_entry(uint64_t step) const;
  Running& running(int batch, Mode mode);
  void record(Running& running);
  void capture(Running& running);  // its launches, as one
  std::vector<OrderedLaunch> order_of(const Running& running) const;
  const Prepared& first_prepared();  // of the first program, recorded
  void make_groups();
  UpdateMemory update_memory() const;
  PlanOptions plan_options(const ProgramSpec& spec) const;
  Tensor read(int parameter, Untyped arena) const;
  std::map<std::string, Tensor> read_model(Untyped parameters, Untyped state) const;
  void write(int parameter, Untyped arena, const Tensor& tensor);
  void write_model(const std::map<std::string, Tensor>& tensors);
  const Arenas& arenas() const { return memory_.arenas(); }
  bool averages() const { return static_cast<bool>(arenas().ema_parameters); }
  std::vector<double> read_slice(const std::byte* at, const Slice& slice, int count) const;
  std::vector<float> read_operand(const Operand& operand, int count) const;

  Graph graph_;
  Backend& backend_;
  SessionOptions options_;
  ParameterLayout layout_;
  int capacity_ = 0;        // images per staging slot
  int first_backward_ = 0;  // of the steps: those before it have only frozen parameters
  ArenaMemory memory_;
  size_t activations_ = 0;  // bytes of the arena
  std::vector<std::unique_ptr<Running>> programs_;
  std::array<SlotContent, kSlots> slots_{};
  uint64_t step_ = 0;
  int64_t batches_tracked_ = 0;                    // training steps since load
  std::map<std::string, int64_t> tracked_before_;  // per norm, as loaded
  bool exchanged_ = false;                         // the averages are in the model's place
  int last_batch_ = 0;
  Mode last_mode_ = Mode::train;
};

}  // namespace engine
