// Training steps at rising learning rates, for --lr-find.
#include <algorithm>
#include <cmath>

#include "engine/error.h"
#include "tools/train/lr_find.h"
#include "tools/train/trainer.h"

namespace engine {

void Trainer::lr_find(int steps) {
  reporter_.begin("--lr-find", steps);
  runner_.loader().start(0);
  LrFind find(steps);
  while (!find.over()) {
    at_.loss_sums.assign(communicator_.ranks(), 0.);
    at_.weight = 0;
    if (!train_step(find.rate())) {
      runner_.loader().start(++at_.epoch);
      if (!train_step(find.rate())) break;
    }
    runner_.drain(true);
    runner_.forgive_overflows();
    if (runner_.divergence() || runner_.uncounted() > 0) at_.loss_sums[communicator_.rank] = NAN;
    runner_.gather_losses();
    double loss = 0;
    for (double sum : at_.loss_sums) loss += sum / at_.weight;
    find.add(loss);
    if (wish() == Wish::leave) fail(Failure::preempted, "stopped while looking for a rate");
  }
  reporter_.finish();
  name_bad_images("train", runner_.loader(), shared_.data.train);
  require(find.done() > 2, Failure::usage, "--lr-find: only {} steps", find.done());
  reporter_.write_lr_find(find);
}

}  // namespace engine
