// The state of a session, in and out, by the reference's names and in its layouts.
#include <algorithm>
#include <cassert>
#include <thread>
#include <utility>

#include "engine/error.h"
#include "engine/initialise.h"
#include "engine/parallel.h"
#include "engine/session.h"

namespace engine {

namespace {

std::string counter_of(const Norm& norm) {
  return norm.name + ".num_batches_tracked";
}

// Permutes (O, KH, KW, I) of memory to (O, I, KH, KW) of files, or back; other shapes stay. A
// linear layer, whose kernel is the image, is (O, C·H·W) in files.
template <class R>
void permute(R* to, const R* from, const Shape& memory, bool to_memory) {
  if (memory.size() != 4) {
    std::copy_n(from, elements(memory), to);
    return;
  }
  const int64_t outs = memory[0], taps = memory[1] * memory[2], ins = memory[3];
  for (int64_t o = 0; o < outs; ++o)
    for (int64_t t = 0; t < taps; ++t)
      for (int64_t i = 0; i < ins; ++i) {
        const int64_t ours = (o * taps + t) * ins + i, theirs = (o * ins + i) * taps + t;
        to_memory ? to[ours] = from[theirs] : to[theirs] = from[ours];
      }
}

}  // namespace

Tensor Session::read(int parameter, Untyped arena) const {
  const Parameter& p = graph_.parameters[parameter];
  Tensor memory(options_.precision == Precision::fp64 ? DType::f64 : DType::f32, p.memory),
      file(memory.dtype, p.shape);
  backend_.download(memory.bytes.data(), arena.at + layout_.at[parameter] * size_of(memory.dtype),
                    memory.bytes.size());
  if (memory.dtype == DType::f64)
    permute(file.as<double>().data(), memory.as<double>().data(), p.memory, false);
  else
    permute(file.as<float>().data(), memory.as<float>().data(), p.memory, false);
  return file;
}

void Session::write(int parameter, Untyped arena, const Tensor& tensor) {
  const Parameter& p = graph_.parameters[parameter];
  require(tensor.shape == p.shape, Failure::weights, "{}: the model has {}, the file {}", p.name,
          to_string(p.shape), to_string(tensor.shape));
  const Tensor file =
      convert(tensor, options_.precision == Precision::fp64 ? DType::f64 : DType::f32);
  Tensor memory(file.dtype, p.memory);
  if (memory.dtype == DType::f64)
    permute(memory.as<double>().data(), file.as<double>().data(), p.memory, true);
  else
    permute(memory.as<float>().data(), file.as<float>().data(), p.memory, true);
  backend_.upload(arena.at + layout_.at[parameter] * size_of(memory.dtype), memory.bytes.data(),
                  memory.bytes.size());
  backend_.synchronize();
}

void Session::initialise(uint64_t seed) {
  std::vector<std::string> names;
  for (const Parameter& p : graph_.parameters) names.push_back(p.name);
  initialise(names, seed);
}

void Session::initialise(std::span<const std::string> names, uint64_t seed) {
  assert(!exchanged_);
  std::map<std::string, Tensor> values;
  std::vector<std::pair<int, Tensor*>> wanted;
  for (int p = 0; p < static_cast<int>(graph_.parameters.size()); ++p)
    if (const std::string& name = graph_.parameters[p].name;
        std::find(names.begin(), names.end(), name) != names.end())
      wanted.emplace_back(p, &values[name]);
  // Each is drawn from a stream of its own, so some threads take half a second less than one.
  const auto threads = static_cast<int>(std::min(8u, std::thread::hardware_concurrency()));
  parallel_for(wanted.size(), {.threads = threads},
               [&](size_t i) { *wanted[i].second = initial_value(graph_, wanted[i].first, seed); });
  write_model(values);
}

void Session::load(const std::map<std::string, Tensor>& tensors) {
  for (const Parameter& parameter : graph_.parameters)
    require(tensors.contains(parameter.name), Failure::weights, "no tensor {}", parameter.name);
  write_model(tensors);
  exchanged_ = false;
  batches_tracked_ = 0;
  tracked_before_.clear();
  for (const Norm& norm : graph_.norms)
    if (const auto it = tensors.find(counter_of(norm)); it != tensors.end())
      tracked_before_[norm.name] =
          static_cast<int64_t>(convert(it->second, DType::f64).as<double>()[0]);
}

// Writes the parameters that are among the tensors, and their averages. Updates go on where
// gradients that are not finite have ended them.
void Session::write_model(const std::map<std::string, Tensor>& tensors) {
  for (int p = 0; p < static_cast<int>(graph_.parameters.size()); ++p) {
    const auto it = tensors.find(graph_.parameters[p].name);
    if (it == tensors.end()) continue;
    const bool trained = graph_.parameters[p].trained();
    write(p, trained ? arenas().parameters : arenas().state, it->second);
    if (averages()) write(p, trained ? arenas().ema_parameters : arenas().ema_state, it->second);
  }
  enqueue(first_prepared().copy_weights);
  ScaleState now = scale();
  now.found_inf = 0;
  backend_.upload(arenas().scale, &now, sizeof now);
  backend_.synchronize();
}

std::map<std::string, Tensor> Session::read_model(Untyped parameters, Untyped state) const {
  std::map<std::string, Tensor> tensors;
  for (int p = 0; p < static_cast<int>(graph_.parameters.size()); ++p)
    tensors[graph_.parameters[p].name] =
        read(p, graph_.parameters[p].trained() ? parameters : state);
  for (const Norm& norm : graph_.norms) {
    Tensor counter(DType::i64, {});
    const auto before = tracked_before_.find(norm.name);
    counter.as<int64_t>()[0] = (before == tracked_before_.end() ? 0 : before->second) +
                               (options_.frozen_norms ? 0 : batches_tracked_);
    tensors[counter_of(norm)] = std::move(counter);
  }
  return tensors;
}

std::map<std::string, Tensor> Session::state() const {
  return read_model(arenas().parameters, arenas().state);
}

std::map<std::string, Tensor> Session::ema_state() const {
  assert(averages());
  return read_model(arenas().ema_parameters, arenas().ema_state);
}

void Session::load_ema_state(const std::map<std::string, Tensor>& tensors) {
  assert(averages() && !exchanged_);
  for (int p = 0; p < static_cast<int>(graph_.parameters.size()); ++p) {
    const Parameter& parameter = graph_.parameters[p];
    const auto it = tensors.find(parameter.name);
    require(it != tensors.end(), Failure::weights, "no average of {}", parameter.name);
    write(p, parameter.trained() ? arenas().ema_parameters : arenas().ema_state, it->second);
  }
}

void Session::exchange_ema() {
  assert(averages());
  enqueue(first_prepared().exchange_averages);
  enqueue(first_prepared().copy_weights);
  exchanged_ = !exchanged_;
}

std::vector<std::byte> Session::running_statistics() const {
  std::vector<std::byte> values(layout_.state * real_size(options_.precision));
  if (!values.empty()) backend_.download(values.data(), arenas().state.at, values.size());
  return values;
}

void Session::set_running_statistics(std::span<const std::byte> values) {
  assert(values.size() == layout_.state * real_size(options_.precision));
  if (values.empty()) return;
  backend_.upload(arenas().state.at, values.data(), values.size());
  backend_.synchronize();
}

std::map<std::string, Tensor> Session::gradients() const {
  std::map<std::string, Tensor> tensors;
  for (int p = 0; p < static_cast<int>(graph_.parameters.size()); ++p)
    if (graph_.parameters[p].trained())
      tensors[graph_.parameters[p].name] = read(p, arenas().gradients);
  return tensors;
}

std::map<std::string, Tensor> Session::optimizer_state() const {
  std::map<std::string, Tensor> tensors;
  const size_t bytes = layout_.trained * real_size(options_.precision);
  for (int m = 0; m < options_.optimizer.moments(); ++m)
    for (int p = 0; p < static_cast<int>(graph_.parameters.size()); ++p)
      if (graph_.parameters[p].trained())
        tensors["moment" + std::to_string(m + 1) + "." + graph_.parameters[p].name] =
            read(p, Untyped{arenas().moments.at + m * bytes});
  const ScaleState now = scale();
  Tensor counters(DType::i64, {2}), factor(DType::f32, {1});
  counters.as<int64_t>()[0] = now.optimizer_steps;
  counters.as<int64_t>()[1] = now.good_steps;
  factor.as<float>()[0] = now.scale;
  tensors["scaler.counters"] = std::move(counters);
  tensors["scaler.scale"] = std::move(factor);
  return tensors;
}

void Session::load_optimizer_state(const std::map<std::string, Tensor>& tensors) {
  const auto find = [&](const std::string& name) -> const Tensor& {
    const auto it = tensors.find(name);
    require(it != tensors.end(), Failure::weights, "the checkpoint has no {}", name);
    return it->second;
  };
  const size_t bytes = layout_.trained * real_size(options_.precision);
  for (int m = 0; m < options_.optimizer.moments(); ++m)
    for (int p = 0; p < static_cast<int>(graph_.parameters.size()); ++p)
      if (graph_.parameters[p].trained())
        write(p, Untyped{arenas().moments.at + m * bytes},
              find("moment" + std::to_string(m + 1) + "." + graph_.parameters[p].name));
  ScaleState now = scale();
  now.optimizer_steps = find("scaler.counters").as<int64_t>()[0];
  now.good_steps = static_cast<int32_t>(find("scaler.counters").as<int64_t>()[1]);
  now.scale = find("scaler.scale").as<float>()[0];
  backend_.upload(arenas().scale, &now, sizeof now);
  backend_.synchronize();
}

}  // namespace engine
