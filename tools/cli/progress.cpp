#include "tools/cli/progress.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <limits>
#include <numeric>

#include "tools/cli/clock.h"
#include "tools/cli/terminal.h"

namespace engine {
namespace {

constexpr double kWindow = 10;   // seconds over which the rate is taken
constexpr double kRedraw = 0.1;  // seconds between redrawings of a live line
constexpr size_t kRecentLosses = 20;
constexpr double kNoLoss = std::numeric_limits<double>::quiet_NaN();

// 3:10, 1:02:03
std::string duration(double seconds) {
  const auto total = static_cast<int64_t>(std::llround(seconds));
  const int64_t hours = total / 3600, minutes = total / 60 % 60;
  if (hours > 0) return fmt::format("{}:{:02}:{:02}", hours, minutes, total % 60);
  return fmt::format("{}:{:02}", minutes, total % 60);
}

std::string rate_text(double per_second) {
  return per_second < 99.5 ? fmt::format("{:.1f} img/s", per_second)
                           : fmt::format("{:.0f} img/s", per_second);
}

double ratio(double part, double whole) {
  return whole > 0 ? part / whole : 0;
}

}  // namespace

ProgressOutput progress_to_stderr() {
  return {.live = can_rewrite(stderr),
          .width = [] { return terminal_width(stderr); },
          .write =
              [](std::string_view text) {
                if (!is_silent()) write_to_stderr(text);
              },
          .seconds = steady_seconds};
}

double ProgressLine::interval() const {
  return output_.live ? kRedraw : output_.interval;
}

void ProgressLine::show(std::string text) {
  if (!output_.live) return output_.write(text + '\n');
  text.resize(std::min(text.size(), static_cast<size_t>(std::max(output_.width() - 1, 1))));
  output_.write("\r\x1b[K" + text);
  open_ = true;
}

void ProgressLine::clear() {
  if (open_) output_.write("\r\x1b[K");
  open_ = false;
}

void ProgressLine::end() {
  if (open_) output_.write("\n");
  open_ = false;
}

Progress::Progress(std::string title, int64_t steps, int64_t first_step, ProgressOutput output,
                   int64_t later_steps)
    : title_(std::move(title)), steps_(steps), later_steps_(later_steps), line_(std::move(output)) {
  start_ = now_ = {.seconds = line_.seconds(), .step = first_step};
  marks_ = {start_};
  shown_at_ = start_.seconds;
}

void Progress::step(int64_t images, double waited_seconds) {
  now_.seconds = line_.seconds();
  now_.waited += waited_seconds;
  now_.images += images;
  ++now_.step;
  marks_.push_back(now_);
  while (marks_.size() > 2 && now_.seconds - marks_[1].seconds >= kWindow) marks_.pop_front();
  if (now_.seconds - shown_at_ < line_.interval()) return;
  shown_at_ = now_.seconds;
  const double recent = std::accumulate(recent_losses_.begin(), recent_losses_.end(), 0.0);
  line_.show(text(marks_.front(), recent_losses_.empty() ? kNoLoss : recent / recent_losses_.size(),
                  time_left()));
}

std::string Progress::time_left() const {
  const double each = ratio(now_.seconds - marks_.front().seconds, now_.step - marks_.front().step);
  const auto left = static_cast<double>(steps_ - now_.step);
  std::string text = "eta " + duration(each * left);
  if (later_steps_ > 0)
    text += ", run " + duration(each * (left + static_cast<double>(later_steps_)));
  return text;
}

void Progress::loss(double value) {
  recent_losses_.push_back(value);
  if (recent_losses_.size() > kRecentLosses) recent_losses_.pop_front();
  loss_sum_ += value;
  ++losses_;
}

void Progress::finish() {
  if (finished_) return;
  finished_ = true;
  now_.seconds = line_.seconds();
  line_.show(text(start_, losses_ ? loss_sum_ / losses_ : kNoLoss,
                  "took " + duration(now_.seconds - start_.seconds)));
  line_.end();
}

double Progress::images_per_second() const {
  return ratio(now_.images, now_.seconds - start_.seconds);
}
double Progress::wait_share() const {
  return ratio(now_.waited, now_.seconds - start_.seconds);
}

std::string Progress::text(const Mark& since, double loss, std::string_view ending) const {
  const double elapsed = now_.seconds - since.seconds;
  std::string said = fmt::format("{} step {}/{}", title_, now_.step, steps_);
  if (losses_ > 0) said += fmt::format("  loss {:.4f}", loss);
  return said + fmt::format("  {}  wait {:.1f}%  {}",
                            rate_text(ratio(now_.images - since.images, elapsed)),
                            100 * ratio(now_.waited - since.waited, elapsed), ending);
}

}  // namespace engine
