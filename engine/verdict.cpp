#include "engine/verdict.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <vector>

namespace engine {

namespace {

using Views = std::vector<const RankView*>;

constexpr double kFresh = 5;  // seconds that a status may be old without a word about it

// ---------------------------------------------------------------- words

// "rank 3 (host x, GPU 3)"
std::string name_of(const RankView& view) {
  std::vector<std::string> where;
  if (!view.host.empty()) where.push_back("host " + view.host);
  if (view.status.device >= 0) where.push_back(fmt::format("GPU {}", view.status.device));
  const std::string place = where.empty() ? "" : fmt::format(" ({})", fmt::join(where, ", "));
  return fmt::format("rank {}{}", view.status.rank, place);
}

// "rank 0", "ranks 0, 1, 2"
std::string numbers_of(const Views& views) {
  std::vector<int> ranks;
  for (const RankView* view : views) ranks.push_back(view->status.rank);
  return fmt::format("rank{} {}", ranks.size() == 1 ? "" : "s", fmt::join(ranks, ", "));
}

std::string text_of(Doing doing) {
  switch (doing) {
    case Doing::starting: return "getting ready";
    case Doing::loading: return "waiting for data";
    case Doing::computing: return "computing";
    case Doing::validating: return "validating";
    case Doing::saving: return "saving";
    case Doing::ended: return "done";
  }
  return "";
}

// "it has been waiting for data for 300 s at step 640: images/a.jpg"
std::string story_of(const RankView& view) {
  const RankStatus& s = view.status;
  std::string text =
      fmt::format("it has been {} for {:.0f} s", text_of(s.doing), s.doing_for + view.age);
  if (s.update > 0 && s.doing != Doing::ended) text += fmt::format(" at step {}", s.update);
  if (s.detail[0]) text += fmt::format(": {}", s.detail.data());
  if (view.age > kFresh) text += fmt::format(", as far as known {:.0f} s ago", view.age);
  return text;
}

// `number` counts from the start of the run, the step from that of the training.
std::string name_of_sum(uint64_t number, const RankStatus& rank) {
  const uint64_t before = number - 1, per_update = static_cast<uint64_t>(std::max(1, rank.buckets));
  return fmt::format("all-reduce #{} (step {}, bucket {})", number,
                     before / per_update + 1 + std::max<int64_t>(0, rank.updates_before),
                     before % per_update);
}

// The same of a rank that is out of reach, with the last sum that it is known to have begun.
std::string last_story_of(const RankView& view) {
  const RankStatus& s = view.status;
  if (s.sums.begun == 0) return story_of(view);
  return fmt::format("{}; the last that it began is {}", story_of(view),
                     name_of_sum(s.sums.begun, s));
}

// Each view in a text of its own.
template <class Text>
std::string list(const Views& views, Text text) {
  std::vector<std::string> texts;
  for (const RankView* view : views) texts.push_back(text(*view));
  return fmt::format("{}", fmt::join(texts, "; "));
}

template <class Condition>
Views those(std::span<const RankView> ranks, Condition condition) {
  Views views;
  for (const RankView& view : ranks)
    if (condition(view)) views.push_back(&view);
  return views;
}

// ---------------------------------------------------------------- processes

bool ended(const RankView& view) {
  return view.status.doing == Doing::ended;
}

std::optional<std::string> find_lost(std::span<const RankView> ranks) {
  const Views lost = those(ranks, [](const RankView& v) { return v.lost && !ended(v); });
  if (lost.empty()) return std::nullopt;
  return list(lost, [](const RankView& v) {
    return fmt::format("{} is lost, its process is gone: {}", name_of(v), last_story_of(v));
  });
}

std::optional<std::string> find_silent(std::span<const RankView> ranks, double timeout) {
  const auto is_silent = [&](const RankView& v) {
    return !v.local && !ended(v) && v.age >= timeout;
  };
  Views silent = those(ranks, is_silent);
  if (silent.empty()) return std::nullopt;
  if (std::ranges::any_of(silent, [](const RankView* v) { return v->process == 0; }))
    std::erase_if(silent, [](const RankView* v) { return v->process != 0; });
  return list(silent, [](const RankView& v) {
    return fmt::format(
        "{} has given no sign of life for {:.0f} s, its process is stopped or cut "
        "off: {}",
        name_of(v), v.age, last_story_of(v));
  });
}

// ---------------------------------------------------------------- sums and operations

// What a rank leaves out, the others sum with what it comes to next.
std::optional<std::string> find_skipped(std::span<const RankView> ranks) {
  const auto before = [](const RankView* v) { return v->status.updates_before; };
  const Views updated =
      those(ranks, [](const RankView& v) { return v.status.updates_before >= 0; });
  if (updated.empty()) return std::nullopt;
  const int64_t right = before(*std::ranges::min_element(updated, {}, before));
  Views ahead = updated;
  std::erase_if(ahead, [&](const RankView* v) { return before(v) == right; });
  if (ahead.empty()) return std::nullopt;
  return list(ahead, [&](const RankView& v) {
    return fmt::format(
        "{} has left the sums of gradients of {} of its updates out, up to step {} at the latest",
        name_of(v), v.status.updates_before - right, v.status.update);
  });
}

// One of the two kinds of things that ranks do together.
struct JointWork {
  Reached RankStatus::*reached;
  double RankStatus::*since;
  std::string (*name)(uint64_t number, const RankStatus& rank);

  bool inside(const RankView& v) const {
    const Reached& r = v.status.*reached;
    return r.begun > r.ended;
  }
  uint64_t begun(const RankView& v) const { return (v.status.*reached).begun; }
};

const JointWork kSums{&RankStatus::sums, &RankStatus::sums_for, name_of_sum};
const JointWork kOperations{
    &RankStatus::operations, &RankStatus::operations_for,
    [](uint64_t number, const RankStatus&) { return fmt::format("meeting #{}", number); }};

bool waits(const RankView& v) {
  return kSums.inside(v) || kOperations.inside(v);
}

// Ranks that have not come to what others have waited in for the timeout.
std::optional<std::string> find_late(std::span<const RankView> ranks, double timeout,
                                     const JointWork& kind) {
  const Views waiting = those(
      ranks, [&](const RankView& v) { return kind.inside(v) && v.status.*kind.since >= timeout; });
  if (waiting.empty()) return std::nullopt;
  const RankView& first =
      **std::ranges::max_element(waiting, {}, [&](const RankView* v) { return kind.begun(*v); });
  const uint64_t number = kind.begun(first);
  const Views there =  // some of them came later
      those(ranks, [&](const RankView& v) { return kind.inside(v) && kind.begun(v) == number; });
  const std::string what = kind.name(number, first.status), who = numbers_of(there);
  const char* wait = there.size() == 1 ? "waits" : "wait";
  const Views absent = those(ranks, [&](const RankView& v) { return kind.begun(v) < number; });
  const Views at_fault =
      those(ranks, [&](const RankView& v) { return kind.begun(v) < number && !waits(v); });
  if (!at_fault.empty())
    return fmt::format("{}; {} {} in it",
                       list(at_fault,
                            [&](const RankView& v) {
                              return fmt::format("{} never entered {}: {}", name_of(v), what,
                                                 story_of(v));
                            }),
                       who, wait);
  if (!absent.empty())
    return fmt::format("{}; {} {} in it",
                       list(absent,
                            [&](const RankView& v) {
                              return fmt::format(
                                  "{} waits elsewhere and never entered {}, which it has "
                                  "left out or its device does not come to",
                                  name_of(v), what);
                            }),
                       who, wait);
  return fmt::format("{} does not end, though every rank has entered it: {} {} in it for {:.0f} s",
                     what, who, wait, first.status.*kind.since);
}

}  // namespace

std::optional<std::string> judge(std::span<const RankView> ranks, double timeout) {
  if (auto verdict = find_lost(ranks)) return verdict;
  if (auto verdict = find_silent(ranks, timeout)) return verdict;
  if (auto verdict = find_skipped(ranks)) return verdict;
  if (auto verdict = find_late(ranks, timeout, kSums)) return verdict;
  return find_late(ranks, timeout, kOperations);
}

}  // namespace engine
