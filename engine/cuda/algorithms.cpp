#include "engine/cuda/algorithms.h"

#include <algorithm>
#include <array>
#include <limits>

namespace engine::cuda {

namespace {

// Of preparing, over all programs of a backend; then the heuristics' first candidate is taken.
// The promise is 20 s for a model: what follows the last timing needs some of them.
constexpr std::chrono::seconds kBudget{15};

}  // namespace

Algorithms::Algorithms(cudaStream_t stream) : stream_(stream) {
  for (Event& mark : marks_) mark = make_event(cudaEventDefault);
}

const std::string* Algorithms::find(const std::string& key) const {
  for (const auto* choices : {&chosen_, &known_})
    if (const auto found = choices->find(key); found != choices->end()) return &found->second;
  return nullptr;
}

void Algorithms::begin(bool timed) {
  timed_ = timed;
  began_ = Clock::now();
}

void Algorithms::end() {
  spent_ += Clock::now() - began_;
}

size_t Algorithms::choose(const std::string& key, const std::vector<std::string>& names,
                          const std::function<bool(size_t)>& run) {
  if (const std::string* name = find(key)) {
    const auto at = std::find(names.begin(), names.end(), *name);
    const size_t known = at - names.begin();
    if (at != names.end() && (loaded_.contains(key) || works(known, run))) {
      chosen_[key] = names[known];
      loaded_.insert(key);
      return known;
    }
  }
  const bool timed = timed_ && names.size() > 1 && in_budget();
  size_t best = names.size();
  float least = std::numeric_limits<float>::infinity();
  for (size_t i = 0; i < names.size(); ++i) {
    if (!works(i, run)) continue;
    const float ms = timed ? milliseconds(i, run) : 0;
    if (ms >= least) continue;
    least = ms;
    best = i;
    if (!timed) break;
  }
  if (best == names.size()) return best;
  chosen_[key] = names[best];
  loaded_.insert(key);
  return best;
}

bool Algorithms::in_budget() const {
  return spent_ + (Clock::now() - began_) < kBudget;
}

bool Algorithms::works(size_t candidate, const std::function<bool(size_t)>& run) const {
  if (!run(candidate)) {
    (void)cudaGetLastError();  // a refused launch must not be blamed on the next one
    return false;
  }
  check(cudaStreamSynchronize(stream_));
  return true;
}

// The median of three. They follow a run that is not measured, so that the device is busy while the
// launches are enqueued: a step's are in a graph, and wait for nobody.
float Algorithms::milliseconds(size_t candidate, const std::function<bool(size_t)>& run) const {
  for (const Event& mark : marks_) {
    run(candidate);
    check(cudaEventRecord(mark.get(), stream_));
  }
  check(cudaEventSynchronize(marks_.back().get()));
  std::array<float, kTimes> times{};
  for (size_t i = 0; i < kTimes; ++i)
    check(cudaEventElapsedTime(&times[i], marks_[i].get(), marks_[i + 1].get()));
  std::sort(times.begin(), times.end());
  return times[kTimes / 2];
}

}  // namespace engine::cuda
