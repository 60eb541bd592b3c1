// Training steps of a learning rate range test.
#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "engine/error.h"
#include "io/files/atomic_file.h"
#include "tools/cli/signals.h"
#include "tools/train/lr_find.h"
#include "tools/train/trainer.h"

namespace engine {

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
  RangeTest test(steps);
  while (!test.over()) {
    std::fill(at_.loss_sums.begin(), at_.loss_sums.end(), 0.);
    at_.weight = 0;
    if (!train_step(test.rate())) {
      train_loader_->start(++at_.epoch);
      if (!train_step(test.rate())) break;
    }
    overflows_ = 0;
    const bool finite = try_drain();
    if (!finite) at_.loss_sums[communicator_.rank] = NAN;
    gather_losses();
    double loss = 0;
    for (double sum : at_.loss_sums) loss += sum / at_.weight;
    test.add(loss);
    if (wish() == Wish::leave) stop_if_requested("testing rates");
  }
  if (progress_) progress_->finish();
  progress_.reset();
  require(test.done() > 2, Failure::usage, "--lr-find: only {} steps", test.done());
  if (!leads()) return;
  const std::filesystem::path file = shared_.run.path() / "lr_find.csv";
  write_file_atomically(file, test.csv());
  if (const std::optional<double> rate = test.best_rate())
    say(fmt::format("least loss at a rate of {:.1e}; a tenth of that, {:.1e}, is a rate to try; {}",
                    *rate, *rate / 10, file.string()));
  else
    say(
        fmt::format("the loss fell by {:.1f}% only, too little to tell a rate: more "
                    "--lr-find-steps or a larger batch may; {}",
                    100 * test.fall(), file.string()));
}

}  // namespace engine
