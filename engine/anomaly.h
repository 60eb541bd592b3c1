// The first result of a step that is not finite: what a layer computes and the gradients that it
// leaves are looked at launch after launch, which takes much longer than the step.
#pragma once

#include <optional>
#include <string>

#include "engine/backend.h"
#include "engine/graph.h"
#include "engine/program.h"

namespace engine {

struct Anomaly {
  std::string layer;         // a step of the graph
  std::string what;          // "its output", "the gradient of features.0.0.weight"
  double value = 0;          // the first that is NaN or infinite
  bool backward = false;     // it is a gradient
  DType dtype = DType::f32;  // in which it is stored
};

// "features.0.0: its output holds nan"; where that is fp16's end, also what has another.
std::string to_string(const Anomaly& anomaly);

class AnomalySearch {
 public:
  // `result` is the entry of the result ring that the step fills. All must outlive the search.
  AnomalySearch(const Program& program, Backend& backend, const StepResult& result)
      : program_(program), graph_(program.graph), backend_(backend), result_(result) {}

  // Look at what the last launch of a step's forward or backward left; they wait for it. After the
  // first find they do nothing.
  void after_forward(int step);
  void after_backward(int step);

  const std::optional<Anomaly>& first() const { return first_; }

 private:
  void look_at_output(const std::string& layer, const Slice& slice);
  void look_at_gate(const std::string& layer, int gate);
  void look_at_loss(const std::string& layer, const Slice& logits);
  void look_at_gradient(const std::string& layer, int parameter);
  void look_at_slice(const std::string& layer, const std::string& what, const Range& buffer,
                     const Slice& slice, bool backward);
  void look_at_reals(const std::string& layer, const std::string& what, const void* at,
                     int64_t count, bool backward);
  void note(const std::string& layer, const std::string& what, const Tensor& values, int64_t at,
            bool backward);
  DType real() const;

  const Program& program_;
  const Graph& graph_;
  Backend& backend_;
  const StepResult& result_;
  std::optional<Anomaly> first_;
};

}  // namespace engine
