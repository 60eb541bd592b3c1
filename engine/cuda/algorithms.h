// Which algorithm each library call uses: chosen before, or timed once per key within a budget.
#pragma once

#include <array>
#include <chrono>
#include <functional>
#include <map>
#include <set>
#include <string>
#include <vector>

#include "engine/cuda/handles.h"

namespace engine::cuda {

class Algorithms {
 public:
  explicit Algorithms(cudaStream_t stream);

  // What this process uses.
  const std::map<std::string, std::string>& chosen() const { return chosen_; }
  // What was chosen elsewhere, for keys to come.
  void set(const std::map<std::string, std::string>& known) { known_ = known; }
  const std::string* find(const std::string& key) const;  // null: not chosen yet

  // Frame one prepare of a program. Not `timed`: the first candidate is taken.
  void begin(bool timed);
  void end();
  bool timed() const { return timed_; }

  // Index into `names` of the candidate to use for `key`; names.size() if none runs. run(i)
  // enqueues candidate i; false: it cannot. What is chosen has run once, so that its code is
  // loaded when a capture or a collective begins.
  size_t choose(const std::string& key, const std::vector<std::string>& names,
                const std::function<bool(size_t)>& run);

 private:
  using Clock = std::chrono::steady_clock;
  static constexpr size_t kTimes = 3;  // that a candidate is measured

  bool in_budget() const;
  bool works(size_t candidate, const std::function<bool(size_t)>& run) const;
  float milliseconds(size_t candidate, const std::function<bool(size_t)>& run) const;

  cudaStream_t stream_;
  std::array<Event, kTimes + 1> marks_;  // around measurements
  std::map<std::string, std::string> chosen_, known_;
  std::set<std::string> loaded_;  // keys whose choice has run in this process
  bool timed_ = true;
  Clock::time_point began_;
  Clock::duration spent_{};  // in earlier prepares of this backend
};

}  // namespace engine::cuda
