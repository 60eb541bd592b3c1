#include "tools/engine/trainer.h"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <nlohmann/json.hpp>

#include "engine/error.h"
#include "io/safetensors.h"
#include "tools/engine/device.h"
#include "tools/engine/input.h"
#include "tools/engine/progress.h"
#include "tools/engine/score.h"
#include "tools/engine/terminal.h"

namespace engine {

namespace {

constexpr int kTolerableOverflows = 50;  // in a row, before fp16 training counts as diverged

double now() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

Share share_of(const Communicator& c) {
  return {c.rank, c.ranks()};
}

SessionOptions session_options(const TrainShared& shared, const Communicator& communicator) {
  const TrainConfig& c = shared.config;
  const Share share = share_of(communicator);
  SessionOptions o{.precision = c.precision,
                   .conv = c.conv,
                   .deterministic = c.deterministic,
                   .workspace = c.workspace,
                   .optimizer = c.optimizer,
                   .normalisation = normalisation_of(c.preprocess),
                   .loss_scale = c.loss_scale,
                   .seed = c.seed};
  o.programs = programs_for(shared.data.train.samples.size(), c.batch, share, Mode::train);
  for (const Dataset* data :
       {&shared.data.validation, shared.data.test ? &*shared.data.test : nullptr}) {
    if (!data) continue;
    const auto more = programs_for(data->samples.size(), c.batch, share, Mode::evaluate);
    o.programs.insert(o.programs.end(), more.begin(), more.end());
  }
  require(!o.programs.empty() && o.programs.front().mode == Mode::train, Failure::usage,
          "{} training images are fewer than {} ranks", shared.data.train.samples.size(),
          share.ranks);
  return o;
}

Graph make_graph(const TrainShared& shared) {
  const int size = shared.config.preprocess.crop;
  return make_model(shared.config.model,
                    {.classes = static_cast<int>(shared.data.train.classes.size()),
                     .height = size,
                     .width = size});
}

LoaderOptions loader_options(const TrainConfig& c, const Communicator& communicator,
                             Backend& backend, bool training) {
  return {.width = c.preprocess.crop,
          .height = c.preprocess.crop,
          .channels = c.preprocess.channels,
          .batch = c.batch,
          .share = share_of(communicator),
          .threads = c.workers,
          .ahead = 3,
          .seed = c.seed,
          .shuffle = training,
          .on_bad_image = c.on_bad_image,
          .memory = batch_memory(backend)};
}

nlohmann::ordered_json to_json(const TrainPosition& p) {
  return {{"epoch", p.epoch},
          {"epoch_step", p.epoch_step},
          {"step", p.step},
          {"loss_sum", p.loss_sum},
          {"samples", p.samples},
          {"plateau_factor", p.schedule.factor},
          {"plateau_best",
           std::isfinite(p.schedule.best) ? nlohmann::ordered_json(p.schedule.best) : nullptr},
          {"plateau_bad_epochs", p.schedule.bad_epochs},
          {"best_epoch", p.best_epoch},
          {"best_top1", p.best_top1},
          {"best_loss", p.best_loss},
          {"seconds", p.seconds}};
}

TrainPosition position_from(const nlohmann::json& j) {
  TrainPosition p;
  p.epoch = j.at("epoch");
  p.epoch_step = j.at("epoch_step");
  p.step = j.at("step");
  p.loss_sum = j.at("loss_sum");
  p.samples = j.at("samples");
  p.schedule.factor = j.at("plateau_factor");
  if (!j.at("plateau_best").is_null()) p.schedule.best = j.at("plateau_best");
  p.schedule.bad_epochs = j.at("plateau_bad_epochs");
  p.best_epoch = j.at("best_epoch");
  p.best_top1 = j.at("best_top1");
  p.best_loss = j.at("best_loss");
  p.seconds = j.at("seconds");
  return p;
}

}  // namespace

// ---------------------------------------------------------------- beginning

Trainer::Trainer(TrainShared& shared, BackendKind kind, const BackendOptions& options)
    : shared_(shared),
      config_(shared.config),
      communicator_(options.communicator),
      backend_(make_backend(kind, options)),
      session_(make_graph(shared), *backend_, session_options(shared, communicator_)),
      train_loader_(shared.data.train,
                    training_input(shared.data.train, config_.preprocess, config_.augment,
                                   config_.fast_decode),
                    loader_options(config_, communicator_, *backend_, true)),
      validation_loader_(shared.data.validation,
                         evaluation_input(shared.data.validation, config_.preprocess),
                         loader_options(config_, communicator_, *backend_, false)),
      schedule_(config_.schedule, train_loader_.steps(), config_.epochs),
      began_(now()) {
  load_state();
}

void Trainer::say(const std::string& line) const {
  if (!leads()) return;
  engine::say(line);
  shared_.run.note(line);
}

double Trainer::seconds() const {
  return at_.seconds + now() - began_;
}

void Trainer::load_state() {
  if (shared_.checkpoint) {
    restore(*shared_.checkpoint);
  } else if (shared_.weights) {
    const auto fresh = load_model_file(session_, *shared_.weights, true, config_.seed);
    if (!fresh.empty())
      say(fmt::format("{}: its head has {} classes, this data set {}: {} start anew",
                      shared_.weights->path.string(), shared_.weights->class_count,
                      session_.graph().classes(), fmt::join(fresh, ", ")));
  } else {
    session_.initialise(config_.seed);
  }
  const double before = now();
  session_.prepare();
  say(fmt::format("{}: ready in {:.1f} s, {:.0f} MiB", backend_->description(), now() - before,
                  session_.allocated_bytes() / 1048576.));
  if (leads()) shared_.run.write_algorithms(backend_->algorithms());
}

void Trainer::restore(const TensorFile& checkpoint) {
  std::map<std::string, Tensor> model, optimizer;
  constexpr std::string_view kModel = "model/", kOptimizer = "optimizer/";
  for (const auto& [name, tensor] : checkpoint.tensors) {
    if (name.starts_with(kModel)) model[name.substr(kModel.size())] = tensor;
    if (name.starts_with(kOptimizer)) optimizer[name.substr(kOptimizer.size())] = tensor;
  }
  backend_->set_algorithms(nlohmann::json::parse(checkpoint.metadata.at("algorithms")));
  session_.load(model);
  session_.load_optimizer_state(optimizer);
  at_ = position_from(nlohmann::json::parse(checkpoint.metadata.at("position")));
  schedule_ = Schedule(config_.schedule, train_loader_.steps(), config_.epochs, at_.schedule);
  if (leads()) shared_.run.continue_after(at_.epoch, at_.step);
  say(fmt::format("resumed after epoch {}, step {}", at_.epoch, at_.step));
}

// ---------------------------------------------------------------- the loop

void Trainer::run() {
  communicator_.group->barrier();  // nobody steps before all are ready
  while (at_.epoch < config_.epochs && !finished()) train_epoch();
  say(fmt::format("best: epoch {}, top-1 {:.4f}, loss {:.4f}", at_.best_epoch, at_.best_top1,
                  at_.best_loss));
  score_best();
}

void Trainer::train_epoch() {
  std::unique_ptr<Progress> progress;
  if (leads())
    progress = std::make_unique<Progress>(fmt::format("epoch {}/{}", at_.epoch + 1, config_.epochs),
                                          train_loader_.steps(), at_.epoch_step);
  if (leads()) shared_.monitor.take();  // what was used so far is not this epoch's
  train_loader_.start(at_.epoch, at_.epoch_step);
  double waited = train_loader_.wait_seconds();
  while (!finished()) {
    const Batch* batch = train_loader_.next();
    if (!batch) break;
    const uint64_t step = session_.train({batch->images, batch->labels, batch->count},
                                         {.epoch = static_cast<uint32_t>(at_.epoch),
                                          .position = static_cast<uint32_t>(batch->first),
                                          .learning_rate = schedule_.rate(at_.step),
                                          .divisor = double(batch->total)});
    pending_.push_back({step, batch->count, batch->total});
    ++at_.epoch_step;
    ++at_.step;
    drain(false, progress.get());
    if (progress) progress->step(batch->total, train_loader_.wait_seconds() - waited);
    waited = train_loader_.wait_seconds();
    const bool stop = asked_to_stop();
    if (stop || (config_.checkpoint_every > 0 && at_.step % config_.checkpoint_every == 0)) {
      drain(true, progress.get());
      gather_losses();
      save_checkpoint();
    }
    if (stop)
      fail(Failure::preempted, "stopped by signal {} after step {}; saved to {}",
           shared_.signal.load(), at_.step, (shared_.run.path() / kCheckpoint).string());
  }
  drain(true, progress.get());
  if (progress) progress->finish();
  finish_epoch(progress ? progress->images_per_second() : 0, progress ? progress->wait_share() : 0);
}

// Rank 0 decides, so that all ranks stop after the same step.
bool Trainer::asked_to_stop() {
  std::byte stop{static_cast<uint8_t>(shared_.signal != 0)};
  communicator_.group->broadcast(communicator_.rank, {&stop, 1});
  return stop != std::byte{0};
}

void Trainer::drain(bool wait, Progress* progress) {
  while (!pending_.empty() && (wait || session_.poll(pending_.front().step))) {
    count_result(pending_.front(), progress);
    pending_.pop_front();
  }
}

void Trainer::count_result(const Pending& pending, Progress* progress) {
  const StepResult result = session_.result(pending.step);
  overflows_ = result.overflow ? overflows_ + 1 : 0;
  require(overflows_ < kTolerableOverflows, Failure::diverged,
          "epoch {}: {} steps in a row overflowed; the loss scale is down to {}", at_.epoch + 1,
          overflows_, result.scale);
  require(std::isfinite(result.loss) || result.overflow, Failure::diverged,
          "epoch {}, step {}: the loss is {}; a smaller --lr may help", at_.epoch + 1, pending.step,
          result.loss);
  at_.samples += pending.total;
  shared_.started = true;
  if (!std::isfinite(result.loss)) return;  // skipped; it does not count
  own_loss_sum_ += result.loss * pending.total;
  if (progress && pending.count > 0) progress->loss(result.loss * pending.total / pending.count);
}

void Trainer::evaluate_all(const char* title, Loader& loader, const Dataset& data) {
  if (leads()) {
    shared_.evaluation.logits.assign(data.samples.size() * session_.graph().classes(), 0.f);
    shared_.evaluation.counted.assign(data.samples.size(), 0);
  }
  communicator_.group->barrier();
  std::unique_ptr<Progress> progress;
  if (leads()) progress = std::make_unique<Progress>(title, loader.steps());
  evaluate(session_, loader, communicator_, shared_.evaluation, [&](int images, double waited) {
    if (progress) progress->step(images, waited);
  });
  if (progress) progress->finish();
}

// The best weights on the validation images, with everything that is measured, and once on the test images.
void Trainer::score_best() {
  communicator_.group->barrier();  // rank 0 has written them
  if (!std::filesystem::exists(shared_.run.weights("best"))) return;
  load_model_file(session_, read_model_file(shared_.run.weights("best"), config_.model), false, 0);
  const auto score_part = [&](const char* part, const char* prefix, Loader& loader,
                              const Dataset& data) {
    evaluate_all(part, loader, data);
    if (!leads()) return;
    const Score scored = write_score(shared_.run.path(), shared_.evaluation, data,
                                     {.part = part, .prefix = prefix, .seed = config_.seed});
    say(fmt::format("best weights, {}:\n{}", part, table(scored, data.classes)));
  };
  score_part("val", "", validation_loader_, shared_.data.validation);
  if (!shared_.data.test) return;
  const Dataset& test = *shared_.data.test;
  Loader loader(test, evaluation_input(test, config_.preprocess),
                loader_options(config_, communicator_, *backend_, false));
  score_part("test", "test_", loader, test);
}

// The ranks' losses meet.
void Trainer::gather_losses() {
  communicator_.group->sum(communicator_.rank, std::span(&own_loss_sum_, 1));
  at_.loss_sum += std::exchange(own_loss_sum_, 0);
}

// An epoch that --max-steps cut short is validated and reported too, but it is not done: the checkpoint stays in its
// middle, and a run that is resumed goes on from there.
void Trainer::finish_epoch(double rate, double wait_share) {
  gather_losses();
  const bool whole = at_.epoch_step == train_loader_.steps();
  if (!whole) save_checkpoint();
  const double learning_rate = schedule_.rate(std::max<int64_t>(0, at_.step - 1));
  const double train_loss = at_.loss_sum / std::max<int64_t>(1, at_.samples);
  const MachineUse use = leads() ? shared_.monitor.take() : MachineUse{};
  evaluate_all("validation", validation_loader_, shared_.data.validation);
  const Metrics m = leads() ? metrics_of(shared_.evaluation, shared_.data.validation) : Metrics{};
  double validation_loss = m.loss;
  communicator_.group->broadcast(communicator_.rank,
                                 std::as_writable_bytes(std::span(&validation_loss, 1)));
  const int epoch = at_.epoch + 1;
  if (whole) {
    at_.epoch = epoch;
    at_.epoch_step = at_.samples = 0;
    at_.loss_sum = 0;
    if (schedule_.epoch_done(validation_loss))
      say(fmt::format("no improvement: learning rate {:g}", schedule_.rate(at_.step)));
  }
  if (!leads()) return;

  say(
      fmt::format("epoch {}/{}: train loss {:.4f}, val loss {:.4f}, top-1 {:.4f}, top-5 {:.4f}, "
                  "AUC {}, {:.0f} img/s, "
                  "{:.1f}% waiting for data; {}",
                  epoch, config_.epochs, train_loss, m.loss, m.top1, m.top5,
                  m.auc_macro ? fmt::format("{:.4f}", *m.auc_macro) : "-", rate, 100 * wait_share,
                  describe(use)));
  for (const BadImage& bad : train_loader_.bad_images())
    if (named_bad_images_.insert(bad.path).second) say("skipped " + bad.reason);
  shared_.run.log_epoch({.epoch = epoch,
                         .seconds = seconds(),
                         .train_loss = train_loss,
                         .val_loss = m.loss,
                         .top1 = m.top1,
                         .top5 = m.top5,
                         .auc_macro = m.auc_macro,
                         .lr = learning_rate,
                         .step = at_.step,
                         .images_per_second = rate,
                         .wait_share = wait_share,
                         .use = use});
  const bool best = m.top1 > at_.best_top1 || (m.top1 == at_.best_top1 && m.loss < at_.best_loss);
  if (best) {
    at_.best_epoch = epoch;
    at_.best_top1 = m.top1;
    at_.best_loss = m.loss;
  }
  const std::vector<std::string>& classes = shared_.data.train.classes;
  write_model_file(shared_.run.weights("last"), session_, classes, config_.preprocess);
  if (best) write_model_file(shared_.run.weights("best"), session_, classes, config_.preprocess);
  if (whole) save_checkpoint();
}

void Trainer::save_checkpoint() {
  if (!leads()) return;
  TensorFile file;
  for (auto& [name, tensor] : session_.state()) file.tensors["model/" + name] = std::move(tensor);
  for (auto& [name, tensor] : session_.optimizer_state())
    file.tensors["optimizer/" + name] = std::move(tensor);
  TrainPosition now_at = at_;
  now_at.schedule = schedule_.state();
  now_at.seconds = seconds();
  file.metadata = {{"model", config_.model},
                   {"classes", to_json(shared_.data.train.classes)},
                   {"preprocess", to_json(config_.preprocess)},
                   {"position", to_json(now_at).dump()},
                   {"algorithms", nlohmann::json(backend_->algorithms()).dump()}};
  write_safetensors(shared_.run.path() / kCheckpoint, file);
  shared_.run.log("checkpoint", {{"epoch", at_.epoch}, {"step", at_.step}});
}

}  // namespace engine
