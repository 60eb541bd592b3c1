// The progress line of a long loop:
//   epoch 3/10 step 120/415  loss 0.8123  412 img/s  wait 0.4%  eta 3:10, run 52:30
// One live line on a terminal, a line every few seconds elsewhere, a last line always.
#pragma once

#include <cstdint>
#include <deque>
#include <functional>
#include <string>
#include <string_view>
#include <utility>

namespace engine {

// Where progress is written, and a clock for it.
struct ProgressOutput {
  bool live = false;           // rewrites its line
  double interval = 5;         // seconds between lines
  std::function<int()> width;  // columns of a live line, which may change
  std::function<void(std::string_view)> write;
  std::function<double()> seconds;  // of a steady clock
};

ProgressOutput progress_to_stderr();

// The line itself, whatever it says.
class ProgressLine {
 public:
  explicit ProgressLine(ProgressOutput output) : output_(std::move(output)) {}
  ~ProgressLine() { end(); }
  ProgressLine(const ProgressLine&) = delete;
  ProgressLine& operator=(const ProgressLine&) = delete;

  double seconds() const { return output_.seconds(); }
  double interval() const;  // seconds that should pass before it is shown again
  void show(std::string text);
  void clear();  // makes room for other lines
  void end();    // leaves it as it is; what is shown next begins another one

 private:
  ProgressOutput output_;
  bool open_ = false;
};

class Progress {
 public:
  // `title` is "epoch 3/10" or "validation"; counting may begin in the middle of an epoch. Where
  // `later_steps` follow in other loops, the line says how long all of them take at this rate.
  Progress(std::string title, int64_t steps, int64_t first_step = 0,
           ProgressOutput output = progress_to_stderr(), int64_t later_steps = 0);
  // Counts a step: its images, of all ranks here, and the seconds spent waiting for data.
  void step(int64_t images, double waited_seconds);
  // Counts the loss of a step, whenever it arrives. The line shows the mean of the last 20, the
  // last line the mean of all.
  void loss(double value);
  // Makes room for other lines.
  void clear() { line_.clear(); }
  // Prints the last line, with figures over the whole loop, and ends it.
  void finish();

  double images_per_second() const;  // over the whole loop so far
  double wait_share() const;         // of the whole loop so far

 private:
  struct Mark {
    double seconds = 0, waited = 0;
    int64_t step = 0, images = 0;
  };

  std::string time_left() const;
  std::string text(const Mark& since, double loss, std::string_view ending) const;

  std::string title_;
  int64_t steps_, later_steps_;
  ProgressLine line_;       // ends with the loop, also if an exception leaves it
  std::deque<Mark> marks_;  // the sliding window; at least where it began
  Mark start_, now_;
  std::deque<double> recent_losses_;
  double loss_sum_ = 0;
  int64_t losses_ = 0;
  double shown_at_;
  bool finished_ = false;
};

}  // namespace engine
