#include "engine/recompute.h"

#include <algorithm>
#include <cstdint>

namespace engine {

namespace {

// Bytes that are not kept for each byte that is moved: less is not worth the time.
constexpr double kLeastWorth = 0.25;

class Choice {
 public:
  Choice(const std::vector<Recomputable>& outputs, const std::vector<size_t>& in_use,
         const StepClock& clock)
      : outputs_(outputs),
        kept_(in_use),
        clock_(clock),
        chosen_(outputs.size()),
        refused_(outputs.size()) {
    for (const Recomputable& output : outputs) {
      const auto source = std::ranges::find(outputs, output.operand, &Recomputable::buffer);
      source_.push_back(source == outputs.end() ? kNobody
                                                : static_cast<int>(source - outputs.begin()));
    }
  }

  void make() {
    for (;;) {
      const std::vector<int64_t> now = bytes();
      const auto most = std::max_element(now.begin(), now.end());
      const int next = worthiest(static_cast<int>(most - now.begin()));
      if (next == kNobody) break;
      chosen_[next] = true;
      if (peak() > *most) {
        chosen_[next] = false;
        refused_[next] = true;
      }
    }
    keep_what_is_not_in_the_way();
  }

  std::vector<Recomputation> apply() const {
    const std::vector<int> at = instants();
    std::vector<Recomputation> order;
    for (size_t i = 0; i < outputs_.size(); ++i) {
      const Recomputable& output = outputs_[i];
      if (!chosen_[i]) continue;
      order.push_back({output.step, clock_.before(at[i]), output.moved});
      output.data->again.use(at[i]);
      for (Tenant* scratch : output.scratch) scratch->again.use(at[i]);
    }
    std::stable_sort(order.begin(), order.end(),
                     [](const auto& a, const auto& b) { return a.before > b.before; });
    return order;
  }

 private:
  static constexpr int kNobody = -1;

  static double worth(const Recomputable& output) {
    return double(output.data->range->bytes) / output.moved;
  }

  // When each is there again, if it is chosen: ahead of the first backward that reads it, or where
  // another chosen one is computed from it.
  std::vector<int> instants() const {
    std::vector<int> at;
    for (const Recomputable& output : outputs_) at.push_back(output.data->again.from - 1);
    for (size_t i = outputs_.size(); i-- > 0;)
      if (chosen_[i] && source_[i] != kNobody) at[source_[i]] = std::min(at[source_[i]], at[i]);
    return at;
  }

  // In use at every instant.
  std::vector<int64_t> bytes() const {
    const std::vector<int> at = instants();
    std::vector<int64_t> change(kept_.size() + 1), sum(kept_.size());
    const auto add = [&](int from, int to, int64_t more) {
      change[from] += more;
      change[to + 1] -= more;
    };
    for (size_t i = 0; i < outputs_.size(); ++i) {
      if (!chosen_[i]) continue;
      const Tenant& data = *outputs_[i].data;
      add(data.life.to + 1, at[i] - 1, -static_cast<int64_t>(data.range->bytes));
      for (const Tenant* scratch : outputs_[i].scratch)
        add(at[i], at[i], static_cast<int64_t>(scratch->range->bytes));
    }
    int64_t changed = 0;
    for (size_t t = 0; t < kept_.size(); ++t) {
      changed += change[t];
      sum[t] = static_cast<int64_t>(kept_[t]) + changed;
    }
    return sum;
  }

  int64_t peak() const {
    const std::vector<int64_t> all = bytes();
    return *std::max_element(all.begin(), all.end());
  }

  // Of those that are kept through that instant without being read.
  int worthiest(int time) const {
    const std::vector<int> at = instants();
    int best = kNobody;
    for (int i = 0; i < static_cast<int>(outputs_.size()); ++i) {
      const Recomputable& output = outputs_[i];
      if (chosen_[i] || refused_[i] || worth(output) < kLeastWorth) continue;
      if (time <= output.data->life.to || time >= at[i]) continue;
      if (best == kNobody || worth(output) > worth(outputs_[best])) best = i;
    }
    return best;
  }

  // A later choice may have made an earlier one needless.
  void keep_what_is_not_in_the_way() {
    const int64_t reached = peak();
    std::vector<int> order;
    for (int i = 0; i < static_cast<int>(outputs_.size()); ++i)
      if (chosen_[i]) order.push_back(i);
    std::stable_sort(order.begin(), order.end(),
                     [&](int a, int b) { return worth(outputs_[a]) < worth(outputs_[b]); });
    for (const int i : order) {
      chosen_[i] = false;
      if (peak() > reached) chosen_[i] = true;
    }
  }

  const std::vector<Recomputable>& outputs_;
  const std::vector<size_t>& kept_;
  StepClock clock_;
  std::vector<int> source_;  // whose output it is computed from
  std::vector<bool> chosen_, refused_;
};

}  // namespace

std::vector<Recomputation> recompute(const std::vector<Recomputable>& outputs,
                                     const std::vector<size_t>& in_use, const StepClock& clock) {
  Choice choice(outputs, in_use, clock);
  choice.make();
  return choice.apply();
}

}  // namespace engine
