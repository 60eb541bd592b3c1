// A program outside a session: the same arenas and launches, run one step of the graph at a time,
// so that what lies between two steps can be read.
#pragma once

#include <span>
#include <vector>

#include "engine/backend.h"
#include "engine/program.h"

namespace engine {

class Rig {
 public:
  // Training with batch statistics; initial parameters, rounded to the storage type, and a batch of
  // random bytes. Graph and backend outlive the rig.
  Rig(const Graph& graph, Backend& backend, const PlanOptions& options);
  Rig(const Rig&) = delete;
  Rig& operator=(const Rig&) = delete;

  void begin();  // the batch in place, all sums zero: ready for forward(0)
  void forward(int step) { enqueue(prepared_.steps[step].forward); }
  void backward(int step) { enqueue(prepared_.steps[step].backward); }

  const Program& program() const { return program_; }
  Backend& backend() const { return backend_; }

  // ---- reading: values as float, whatever the storage type

  std::vector<float> data(const Slice& slice) const { return slice_of(plan_.data, slice); }
  std::vector<float> gradient(const Slice& slice) const { return slice_of(plan_.grad, slice); }
  std::vector<float> vector(const float* at, int64_t count) const;  // a vector of the program

  // ---- copying from another rig of the same graph and batch

  void copy_data(const Rig& from, int buffer) { copy(from, from.plan_.data, plan_.data, buffer); }
  void copy_gradient(const Rig& from, int buffer) {
    copy(from, from.plan_.grad, plan_.grad, buffer);
  }
  void copy_channels(const Rig& from);  // k0, k1, mean, var of every buffer
  void copy_gate(const Rig& from, int gate);
  void copy_parameter_gradient(const Rig& from, int parameter);

 private:
  const Arenas& arenas() const { return memory_.arenas(); }
  void fill_parameters();
  size_t element() const { return storage_size(plan_.options.precision); }
  std::vector<float> read(const Range& range) const;
  std::vector<float> slice_of(const std::vector<Range>& ranges, const Slice& slice) const;
  void copy(const Rig& from, const std::vector<Range>& theirs, const std::vector<Range>& ours,
            int buffer);
  void put(void* to, std::span<const float> values);

  const Graph& graph_;
  Backend& backend_;
  Plan plan_;
  ArenaMemory memory_;
  Program program_;
  Prepared prepared_;
};

}  // namespace engine
