#include "tools/train/lr_find.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

namespace engine {
namespace {

constexpr double kFirstRate = 1e-7, kLastRate = 10;
constexpr double kSmoothing = 0.98;  // of the exponential mean
constexpr double kBlownUp = 4;       // times the least smoothed loss
constexpr double kLeastFall = 0.02;

}  // namespace

double LrFind::rate() const {
  return kFirstRate * std::pow(kLastRate / kFirstRate, double(done()) / (steps_ - 1));
}

void LrFind::add(double loss) {
  over_ = !std::isfinite(loss);
  if (over_) return;
  mean_ = kSmoothing * mean_ + (1 - kSmoothing) * loss;
  const double smoothed = mean_ / (1 - std::pow(kSmoothing, done() + 1));
  points_.push_back({rate(), loss, smoothed});
  const auto lower = [](const Point& a, const Point& b) { return a.smoothed < b.smoothed; };
  over_ = smoothed > kBlownUp * std::ranges::min(points_, lower).smoothed;
}

size_t LrFind::least() const {
  size_t least = settled();
  for (size_t i = least; i < points_.size(); ++i)
    if (points_[i].smoothed < points_[least].smoothed) least = i;
  return least;
}

double LrFind::fall() const {
  return 1 - points_.at(least()).smoothed / points_.at(settled()).smoothed;
}

std::optional<double> LrFind::best_rate() const {
  return fall() < kLeastFall ? std::nullopt : std::optional(points_.at(least()).rate);
}

std::string LrFind::csv() const {
  std::string text = "step,lr,loss,smoothed_loss\n";
  for (size_t i = 0; i < points_.size(); ++i)
    text += fmt::format("{},{:.9g},{:.9g},{:.9g}\n", i, points_[i].rate, points_[i].loss,
                        points_[i].smoothed);
  return text;
}

}  // namespace engine
