// What decisions make of a part, as lines of its table.
#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "tools/score/decided.h"
#include "tools/score/text_table.h"

namespace engine {
namespace {

// What an answer is called.
struct Words {
  const char *surest, *answers, *all, *right;
};
constexpr Words kOfClasses = {"top-1 of the surest", "answers", "images", "top-1"},
                kOfLabels = {"right of the surest", "decisions", "known labels", "right"};

}  // namespace

std::string number_of_sets(
    const ScoreOptions& options,
    const std::function<std::optional<double>(const Decisions& decisions)>& of) {
  std::vector<double> numbers;
  for (const Decisions* set : sets_of(options))
    if (const std::optional<double> number = of(*set)) numbers.push_back(*number);
  if (numbers.empty()) return "-";
  const auto [low, high] = std::ranges::minmax(numbers);
  return low == high ? fmt::format("{:.4g}", low) : fmt::format("{:.3g}-{:.3g}", low, high);
}

std::string calibration_lines(const Decided& d, const ScoreOptions& options, int64_t n) {
  if (!d.calibrated) return "";
  return fmt::format(
      "  temperature {}{}: calibration error {} to {},\n    loss {} to {}, Brier {} to {}\n",
      number_of_sets(options, [](const Decisions& of) { return of.temperature; }),
      options.cross_fitted.empty() ? "" : " of the other folds",
      number_text(d.as_given->calibration.error, n),
      number_text(d.calibrated->calibration.error, n), number_text(d.as_given->loss, n),
      number_text(d.calibrated->loss, n), number_text(d.as_given->brier, n),
      number_text(d.calibrated->brier, n));
}

// Where the least confident answers are withheld.
std::string rejection_lines(const Decided& d, const ScoreOptions& options, int64_t n, Task task) {
  const Words& words = task == Task::labels ? kOfLabels : kOfClasses;
  std::string shares, figures;
  for (const double coverage : {0.9, 0.8, 0.5}) {
    const auto at = std::ranges::find_if(
        d.reject, [&](const RejectPoint& p) { return p.coverage <= coverage; });
    if (at == d.reject.end()) continue;
    const char* const comma = shares.empty() ? "" : ", ";
    shares += fmt::format("{}{:.0f}%", comma, 100 * at->coverage);
    figures += comma + number_text(at->accuracy, n);
  }
  std::string text =
      shares.empty() ? "" : fmt::format("  {} {}: {}\n", words.surest, shares, figures);
  if (!d.answered) return text;
  const int64_t answered = std::llround(d.answered->coverage * double(n));
  return text +
         fmt::format("  {} of at least {}, which {} {} right {}:\n    {:.1f}% of the {}, {} {}\n",
                     words.answers,
                     number_of_sets(options,
                                    [&](const Decisions& of) {
                                      return of.reject ? of.reject->of(options.calibrated)
                                                       : std::nullopt;
                                    }),
                     task == Task::labels ? "are" : "is", sets_of(options)[0]->reject->accuracy,
                     options.cross_fitted.empty() ? "in validation" : "on the other folds",
                     100 * d.answered->coverage, words.all, words.right,
                     number_text(share_if_any(answered, d.answered->accuracy), answered));
}

}  // namespace engine
