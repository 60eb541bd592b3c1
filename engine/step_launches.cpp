#include "engine/step_launches.h"

#include <fmt/format.h>

#include <utility>

#include "engine/error.h"

namespace engine {

namespace {

double real(const Program& program) {
  return double(real_size(program.precision()));
}

double trained(const Program& program) {
  return double(program.plan.layout.trained);
}

std::string count(int64_t elements) {
  return fmt::format("{}", elements);
}

}  // namespace

Launch mark_launch(Mark mark, Enqueue enqueue) {
  constexpr std::string_view kNames[] = {"begin", "forward", "backward", "reduced", "end"};
  return {"note_time", std::string(kNames[static_cast<int>(mark)]), {8, 0}, std::move(enqueue)};
}

Launch images_launch(const Program& program, Enqueue enqueue) {
  const Buffer& b = program.graph.buffers[program.graph.image.buffer];
  const double elements = double(program.batch()) * b.height * b.width * b.channels;
  return {"load_images",
          fmt::format("{}x{}x{}x{}", program.batch(), b.height, b.width, b.channels),
          {elements * double(1 + storage_size(program.precision())), 0},
          std::move(enqueue)};
}

Launch clear_launch(size_t bytes, Enqueue enqueue) {
  return {"memset", fmt::format("{} bytes", bytes), {double(bytes), 0}, std::move(enqueue)};
}

// Per channel the two statistics are read, and the running ones are read and written.
Launch running_launch(const Program& program, Enqueue enqueue) {
  const double channels = double(program.plan.layout.state) / 2;
  return {"update_running",
          fmt::format("{} norms", program.graph.norms.size()),
          {6 * real(program) * channels, 0},
          std::move(enqueue)};
}

Launch reduce_launch(const Bucket& bucket, int ranks, Enqueue enqueue) {
  return {"all_reduce",
          fmt::format("{} over {} ranks", bucket.elements, ranks),
          {8. * double(bucket.elements), double(bucket.elements) * (ranks - 1)},
          std::move(enqueue)};
}

Launch finish_reduce_launch(Enqueue enqueue) {
  return {"join all_reduce", "", {}, std::move(enqueue)};
}

Launch accumulate_launch(const Program& program, Enqueue enqueue) {
  return {"accumulate",
          count(program.plan.layout.trained),
          {3 * real(program) * trained(program), 0},
          std::move(enqueue)};
}

Launch add_accumulated_launch(const Bucket& bucket, size_t real, Enqueue enqueue) {
  return {"add_accumulated",
          count(bucket.elements),
          {4. * double(real) * double(bucket.elements), 0},
          std::move(enqueue)};
}

Launch gradient_norm_launch(const Program& program, Enqueue enqueue) {
  return {"gradient_norm",
          count(program.plan.layout.trained),
          {real(program) * trained(program), 0},
          std::move(enqueue)};
}

// Weights, moments and averages are read and written, gradients are read, copies are written. Flops
// are not counted: an update waits for memory.
Launch update_launch(const Program& program, const OptimizerConfig& optimizer, Enqueue enqueue) {
  const Precision precision = program.precision();
  const double copy = weights_are_masters(precision) ? 0 : double(storage_size(precision));
  const int reals = 3 + 2 * optimizer.moments() + (program.arenas.ema_parameters ? 2 : 0);
  return {"update",
          count(program.plan.layout.trained),
          {(reals * real(program) + copy) * trained(program), 0},
          std::move(enqueue)};
}

Launch average_launch(const Program& program, Enqueue enqueue) {
  return {"average",
          count(program.plan.layout.state),
          {3 * real(program) * double(program.plan.layout.state), 0},
          std::move(enqueue)};
}

Launch finish_step_launch(Enqueue enqueue) {
  return {"finish_step", "1", {sizeof(ScaleState) + sizeof(StepResult), 0}, std::move(enqueue)};
}

Launch copy_weights_launch(const Program& program, Enqueue enqueue) {
  return {"copy_weights",
          count(program.plan.layout.trained),
          {(real(program) + double(storage_size(program.precision()))) * trained(program), 0},
          std::move(enqueue)};
}

Launch exchange_averages_launch(const Program& program, Enqueue enqueue) {
  const ParameterLayout& layout = program.plan.layout;
  return {"exchange_averages",
          count(layout.trained + layout.state),
          {4 * real(program) * double(layout.trained + layout.state), 0},
          std::move(enqueue)};
}

void check_buckets(Precision buckets, Precision storage, BackendKind kind) {
  if (buckets == Precision::fp32) return;
  const std::string_view name = name_of(buckets);
  require(buckets == Precision::fp16 || buckets == Precision::bf16, Failure::usage,
          "--bucket-precision {}: gradients travel in fp32, fp16 or bf16", name);
  require(kind == BackendKind::cuda, Failure::usage,
          "--bucket-precision {}: only between GPUs do gradients travel in 16 bits", name);
  require(buckets != Precision::fp16 || storage == Precision::fp16, Failure::usage,
          "--bucket-precision fp16 needs the loss scale of --precision fp16, not {}",
          name_of(storage));
}

size_t channel_bytes(const Program& program) {
  return 4 * program.plan.layout.channels * real_size(program.precision());
}

size_t gradient_bytes(const Program& program) {
  return program.plan.layout.trained * real_size(program.precision());
}

}  // namespace engine
