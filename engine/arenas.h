// The memory of a session: a few large ranges, allocated once, whose layout the plan decides.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <vector>

#include "engine/plan.h"
#include "kernels/image.h"
#include "kernels/loss.h"
#include "kernels/operand.h"
#include "kernels/update.h"

namespace engine {

class Backend;

// Freed by the backend that made it; the backend must outlive it.
using Memory = std::unique_ptr<std::byte, std::function<void(std::byte*)>>;

constexpr int kSlots = 2;     // staging slots: one is filled while the other is read
constexpr int kResults = 64;  // entries of the result ring

// Memory whose type follows from the precision: who reads it says what it holds.
struct Untyped {
  std::byte* at = nullptr;

  template <class T>
  T* as() const {
    return reinterpret_cast<T*>(at);
  }
  explicit operator bool() const { return at != nullptr; }
};

struct Arenas {
  // Reals of the trained parameters, in backward order.
  Untyped parameters, gradients;
  // The optimizer's state: one or two arrays like the parameters, or none.
  Untyped moments;
  // The gradients that Mode::accumulate has added up, or null.
  Untyped accumulated;
  // The averages of parameters and state, or null.
  Untyped ema_parameters, ema_state;
  // The parameters in the storage type; may be `parameters`.
  Untyped weights;
  // The running statistics.
  Untyped state;
  // The vectors k0, k1, mean and variance of all buffers, one after the other.
  Untyped channels;
  Untyped activations, workspace;

  uint8_t* group_of = nullptr;       // (trained / kUpdateBlock,): index of the parameters' group
  ParameterGroup* groups = nullptr;  // (kMaxParameterGroups,)
  NormPartials* norm_partials = nullptr;
  uint8_t* images = nullptr;        // (kSlots, capacity, H, W, C)
  int32_t* labels = nullptr;        // (kSlots, capacity), or
  Presence* presence = nullptr;     // (kSlots, capacity, classes) of Task::labels, else null
  ImageRecord* records = nullptr;   // (kSlots, capacity)
  Mix* mixes = nullptr;             // (kSlots, capacity)
  int32_t* mean_levels = nullptr;   // (capacity,)
  uint8_t* pack = nullptr;          // null: the session keeps none
  double* class_weights = nullptr;  // (classes,) of LossConfig; null: all 1
  StepParams* params = nullptr;
  ScaleState* scale = nullptr;
  StepResult* results = nullptr;          // (kResults,), visible to the host
  CollectiveMark* collectives = nullptr;  // (buckets,), visible to the host
};

// What the arenas hold beside a plan's totals.
struct ArenaOptions {
  int capacity = 1;       // images per staging slot
  size_t buckets = 0;     // of the gradients
  size_t pack_bytes = 0;  // of the pack in device memory
  std::vector<double> class_weights;
  Task task = Task::classes;
};

// Owns the arenas. All but activations, workspace and pack begin as zero, so the padding between
// tensors stays zero.
class ArenaMemory {
 public:
  ArenaMemory() = default;
  ArenaMemory(Backend& backend, const Graph& graph, const ParameterLayout& layout,
              const Plan::Totals& totals, const ArenaOptions& options);

  const Arenas& arenas() const { return arenas_; }
  size_t bytes() const { return bytes_; }  // on the device
  std::span<const CollectiveMark> collectives() const { return {arenas_.collectives, buckets_}; }

 private:
  template <class T>
  T* take(size_t count);
  template <class T>
  T* take_zeroed(size_t count);
  template <class T>
  T* take_visible(size_t count);  // to the host; value-initialised

  Backend* backend_ = nullptr;
  std::vector<Memory> memory_;
  Arenas arenas_;
  size_t bytes_ = 0, buckets_ = 0;
};

}  // namespace engine
