// How a run begins, is saved, and goes on.
#include <fmt/format.h>
#include <sys/resource.h>
#include <unistd.h>

#include <chrono>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <utility>

#include "engine/error.h"
#include "tools/cli/clock.h"
#include "tools/cli/shell.h"
#include "tools/cli/signals.h"
#include "tools/train/equal_ranks.h"
#include "tools/train/trainer.h"

namespace engine {

namespace {

namespace fs = std::filesystem;

// Lets this thread, and those it starts, run where loading and computing leave room.
void give_way() {
  constexpr int kNice = 10;
  setpriority(PRIO_PROCESS, static_cast<id_t>(gettid()), kNice);
}

// Enough of a digest to tell two runs apart on the screen; metrics.jsonl has all of it.
std::string short_digest(const std::string& digest) {
  return digest.substr(0, 12);
}

}  // namespace

void Trainer::load_state() {
  if (shared_.checkpoint) {
    restore(*shared_.checkpoint);
  } else if (shared_.weights) {
    const std::string head =
        start_from(session(), *shared_.weights, shared_.data.train.classes, config_.seed);
    if (!head.empty()) reporter_.say(head);
  } else {
    session().initialise(config_.seed);
  }
  prepare(backend_->info().description, began_);
  reporter_.write_algorithms(backend_->algorithms());
  if (const auto cache = algorithm_cache(); cache && leads()) cache->add(backend_->algorithms());
}

// Nobody steps before all are ready: where one rank launches a sum, no other may still allocate or
// load code.
void Trainer::prepare(const std::string& what, double since) {
  session().prepare();
  reporter_.say(fmt::format("{}: ready in {:.1f} s, {:.0f} MiB", what, steady_seconds() - since,
                            session().allocated_bytes() / 1048576.));
  communicator_.group->barrier(communicator_.rank);
}

void Trainer::restore(const Checkpoint& checkpoint) {
  session().load(checkpoint.model);
  session().load_optimizer_state(checkpoint.optimizer);
  if (config_.ema_decay > 0 && !checkpoint.ema.empty()) session().load_ema_state(checkpoint.ema);
  const int ranks = communicator_.ranks();
  if (static_cast<int>(at_.loss_sums.size()) != ranks) {  // the run had more or fewer ranks
    double sum = 0;
    for (double part : at_.loss_sums) sum += part;
    at_.loss_sums.assign(ranks, 0.);
    at_.loss_sums[0] = sum;
  }
  if (checkpoint.identity.batches != shared_.identity.batches)
    at_.scheduled =
        at_.epoch * updates_per_epoch() + at_.position / (batch_of_all() * config_.accumulate);
  reporter_.log_resume(at_);
  reporter_.say(fmt::format("resumed after epoch {}, step {}, state sha256 {}", at_.epoch, at_.step,
                            short_digest(checkpoint.digest)));
  if (!config_.deterministic && backend_->info().kind == BackendKind::cuda)
    reporter_.say("without --deterministic the last bits may differ from an undisturbed run's");
  if (leads() && at_.validated == at_.step)  // the interruption may have come before that
    weight_writer(checkpoint.model)();
}

std::map<std::string, Tensor> Trainer::averages() const {
  return config_.ema_decay > 0 ? session().ema_state() : std::map<std::string, Tensor>();
}

void Trainer::save(bool weights) {
  std::map<std::string, Tensor> model;
  if (leads() || communicator_.ranks() > 1) model = session().state();
  check_equal_weights(communicator_, session().graph(), model, at_.step);
  if (!leads()) return;
  activity_.set(Doing::saving);
  require_finite(model);
  Checkpoint c{.at = at_,
               .model = std::move(model),
               .optimizer = session().optimizer_state(),
               .ema = averages(),
               .identity = shared_.identity,
               .algorithms = backend_->algorithms()};
  require_finite(c.optimizer);
  require_finite(c.ema);
  c.at.schedule = schedule_.state();
  c.at.seconds = seconds();
  std::function<void()> write_weights;
  if (weights) write_weights = weight_writer(c.model);
  finish_saving();
  const CheckpointFolder folder(shared_.run.path(), config_.keep);
  saving_ = std::async(std::launch::async,
                       [run = &shared_.run, folder, write_weights, c = std::move(c)]() mutable {
                         give_way();
                         const Saved saved{c.at.epoch, c.at.step, state_digest(c)};
                         const std::string path = folder.write(std::move(c), saved.digest).string();
                         run->log("checkpoint", {{"epoch", saved.epoch},
                                                 {"step", saved.step},
                                                 {"file", path},
                                                 {"state_sha256", saved.digest}});
                         if (!write_weights) return saved;
                         write_weights();
                         run->log("weights", {{"epoch", saved.epoch}, {"step", saved.step}});
                         return saved;
                       });
}

void Trainer::finish_saving() {
  if (!saving_.valid()) return;
  const Saved saved = saving_.get();
  reporter_.say(fmt::format("step {}: state sha256 {}", saved.step, short_digest(saved.digest)));
}

void Trainer::report_saved() {
  if (saving_.valid() && saving_.wait_for(std::chrono::seconds(0)) == std::future_status::ready)
    finish_saving();
}

// Ends the run; everything is saved, or on its way.
void Trainer::leave(const std::string& when) {
  finish_saving();
  // A launcher may end all processes with the first: none goes before everything is saved.
  communicator_.group->barrier(communicator_.rank);
  fail(Failure::preempted, "stopped by {} {}; to go on: engine train --resume {}",
       stop_requested() ? stop_signal_name() : "another process", when,
       shell_word(fs::absolute(shared_.run.path()).lexically_normal().string()));
}

// Moves the state over to a session of another image size.
void Trainer::change_size() {
  activity_.set(Doing::starting);
  const double began = steady_seconds();
  const auto model = session().state(), optimizer = session().optimizer_state(), ema = averages();
  validation_loader_.reset();
  runner_.release();
  build();
  session().load(model);
  session().load_optimizer_state(optimizer);
  if (!ema.empty()) session().load_ema_state(ema);
  prepare(fmt::format("epoch {}: images of {} pixels", at_.epoch + 1, preprocess_.crop), began);
}

void Trainer::change_rule() {
  activity_.set(Doing::starting);
  head_alone_ = config_.rules.head_alone(at_.epoch);
  session().set_rule(parameter_rule(config_.rules, session().graph(), at_.epoch));
  reporter_.say(fmt::format("epoch {}: all layers learn", at_.epoch + 1));
  communicator_.group->barrier(communicator_.rank);
}

}  // namespace engine
