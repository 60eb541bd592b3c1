// The learning rate range test of L. N. Smith, Cyclical learning rates for training neural
// networks, 2015. The rate rises from step to step by one factor; the loss, smoothed as fastai
// does, falls and then blows up.
#pragma once

#include <optional>
#include <string>
#include <vector>

namespace engine {

class LrFind {
 public:
  explicit LrFind(int steps) : steps_(steps) {}  // at least 2

  bool over() const { return over_ || points_.size() == static_cast<size_t>(steps_); }
  double rate() const;  // of the next step: 1e-7 first, 10 last
  // Takes the loss of that step. The search is over when the loss is not finite or when the
  // smoothed one has blown up.
  void add(double loss);

  int done() const { return static_cast<int>(points_.size()); }
  // The share by which the smoothed loss fell to its least, from where its mean had settled: after
  // a tenth of the steps.
  double fall() const;
  // The rate of the least smoothed loss; nothing where it fell by less than 2%, which is noise.
  std::optional<double> best_rate() const;
  std::string csv() const;  // step,lr,loss,smoothed_loss

 private:
  struct Point {
    double rate, loss, smoothed;
  };
  size_t settled() const { return points_.size() / 10; }
  size_t least() const;

  int steps_;
  std::vector<Point> points_;
  double mean_ = 0;
  bool over_ = false;
};

}  // namespace engine
