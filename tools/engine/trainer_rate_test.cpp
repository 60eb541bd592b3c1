// The learning rate range test: L. N. Smith, Cyclical learning rates for training neural networks, 2015.
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <vector>

#include "engine/error.h"
#include "io/atomic_file.h"
#include "tools/engine/signals.h"
#include "tools/engine/trainer.h"

namespace engine {

namespace {

constexpr double kFirstRate = 1e-7, kLastRate = 10;
constexpr double kSmoothing = 0.98;  // of the exponential mean, as in fastai
constexpr double kBlownUp = 4;       // times the least smoothed loss: the test is over
constexpr double kLeastFall = 0.02;  // of the smoothed loss after a tenth of the steps: else noise

struct Point {
  double rate, loss, smoothed;
};

}  // namespace

// False where the loss is not finite any more.
bool Trainer::try_drain() {
  try {
    drain(true);
  } catch (const Error& error) {
    if (error.kind != Failure::diverged) throw;
    return false;
  }
  return true;
}

void Trainer::find_rate(int steps) {
  communicator_.group->barrier();
  begin_progress("range test", steps);
  at_.loss_sums.assign(communicator_.ranks(), 0.);
  train_loader_->start(0);
  std::vector<Point> points;
  double mean = 0, least = 0;
  for (int i = 0; i < steps; ++i) {
    const double rate = kFirstRate * std::pow(kLastRate / kFirstRate, double(i) / (steps - 1));
    std::fill(at_.loss_sums.begin(), at_.loss_sums.end(), 0.);
    at_.weight = 0;
    if (!train_step(rate)) {
      train_loader_->start(++at_.epoch);
      if (!train_step(rate)) break;
    }
    overflows_ = 0;
    const bool finite = try_drain();
    if (!finite) at_.loss_sums[communicator_.rank] = NAN;
    gather_losses();
    double loss = 0;
    for (double sum : at_.loss_sums) loss += sum / at_.weight;
    if (!std::isfinite(loss)) break;
    mean = kSmoothing * mean + (1 - kSmoothing) * loss;
    const double smoothed = mean / (1 - std::pow(kSmoothing, i + 1));
    points.push_back({rate, loss, smoothed});
    least = i == 0 ? smoothed : std::min(least, smoothed);
    if (smoothed > kBlownUp * least) break;
    if (wish() == Wish::leave) stop_if_requested("testing rates");
  }
  if (progress_) progress_->finish();
  progress_.reset();
  require(points.size() > 2, Failure::usage, "--lr-find: only {} steps", points.size());
  if (!leads()) return;
  std::string csv = "step,lr,loss,smoothed_loss\n";
  for (size_t i = 0; i < points.size(); ++i)
    csv += fmt::format("{},{:.9g},{:.9g},{:.9g}\n", i, points[i].rate, points[i].loss,
                       points[i].smoothed);
  write_file_atomically(shared_.run.path() / "lr_find.csv", csv);
  // The first few are means of few losses.
  const auto settled = points.begin() + static_cast<int64_t>(points.size()) / 10;
  const auto least_at = std::min_element(settled, points.end(),
                                         [](auto& a, auto& b) { return a.smoothed < b.smoothed; });
  const double fall = 1 - least_at->smoothed / settled->smoothed;
  say(fmt::format(
      "{}; {}",
      fall < kLeastFall
          ? fmt::format("the loss fell by {:.1f}% only, too little to tell a rate: more "
                        "--lr-find-steps or a larger batch may",
                        100 * fall)
          : fmt::format("least loss at a rate of {:.1e}; a tenth of that, {:.1e}, is a "
                        "rate to try",
                        least_at->rate, least_at->rate / 10),
      (shared_.run.path() / "lr_find.csv").string()));
}

}  // namespace engine
