#include "tests/engine/ranks.h"

#include <cmath>
#include <exception>
#include <thread>

#include "models/models.h"
#include "tests/engine/step_cases.h"
#include "tests/support.h"

namespace engine::test {

void run_ranks(int ranks, const std::function<void(const Communicator&)>& body) {
  const auto group = std::make_shared<Group>(ranks);
  std::mutex mutex;
  std::exception_ptr first;
  std::vector<std::thread> threads;
  for (int rank = 0; rank < ranks; ++rank)
    threads.emplace_back([&, rank] {
      try {
        body({rank, group});
      } catch (const std::exception& error) {
        {
          const std::lock_guard lock(mutex);
          if (!first) first = std::current_exception();
        }
        group->abort(error.what());
      }
    });
  for (std::thread& thread : threads) thread.join();
  if (first) std::rethrow_exception(first);
}

std::map<std::string, Tensor> train_in_parallel(const Graph& graph, int ranks, int global_batch,
                                                int steps, const MakeBackend& make_backend) {
  const int batch = global_batch / ranks;
  const Buffer& image = graph.buffers[graph.image.buffer];
  const size_t pixels = size_t(image.height) * image.width * image.channels;
  std::vector<std::map<std::string, Tensor>> states(ranks);
  run_ranks(ranks, [&](const Communicator& communicator) {
    const int first = communicator.rank * batch;  // of the global batch
    const auto backend = make_backend(communicator);
    Session session(graph, *backend,
                    {.programs = {{batch, Mode::train}},
                     .deterministic = true,
                     .frozen_norms = true,
                     .optimizer = {.kind = OptimizerConfig::Kind::sgd, .momentum = 0.9},
                     .normalisation = {{0.5f, 0.5f, 0.5f}, {0.25f, 0.25f, 0.25f}},
                     .seed = 5});
    session.load(random_state(graph, 1));
    for (int step = 0; step < steps; ++step) {
      const auto images = random_bytes(global_batch * pixels, 100 + step);
      const auto labels = random_labels(global_batch, graph.classes(), 200 + step);
      session.train({images.data() + first * pixels, labels.data() + first, batch},
                    {.epoch = 2,
                     .position = static_cast<uint32_t>(step * global_batch + first),
                     .learning_rate = 0.02,
                     .divisor = double(global_batch)});
    }
    states[communicator.rank] = session.state();
  });
  for (int rank = 1; rank < ranks; ++rank)
    for (const auto& [name, tensor] : states[0])
      CHECK_MESSAGE(states[rank].at(name).bytes == tensor.bytes,
                    "rank " << rank << " holds another " << name);
  return states[0];
}

namespace {

// ‖a − b‖ / ‖b‖ over all trained parameters together.
double distance(const Graph& graph, const std::map<std::string, Tensor>& a,
                const std::map<std::string, Tensor>& b) {
  std::vector<float> all_a, all_b;
  for (const Parameter& p : graph.parameters) {
    if (!p.trained()) continue;
    const auto va = a.at(p.name).as<float>(), vb = b.at(p.name).as<float>();
    all_a.insert(all_a.end(), va.begin(), va.end());
    all_b.insert(all_b.end(), vb.begin(), vb.end());
  }
  return relative_error(all_a, all_b);
}

}  // namespace

void check_data_parallel(int ranks, const MakeBackend& make_backend) {
  const Graph graph = make_model("efficientnet_b0", {.classes = 7, .height = 32, .width = 32});
  constexpr int kSteps = 5;
  const int global_batch = 2 * ranks;
  const auto one = train_in_parallel(graph, 1, global_batch, kSteps, make_backend);
  const auto many = train_in_parallel(graph, ranks, global_batch, kSteps, make_backend);
  const double difference = distance(graph, many, one),
               movement = distance(graph, one, random_state(graph, 1));
  MESSAGE(ranks << " ranks: weights " << difference << " from one rank's, which moved by "
                << movement);
  CHECK(difference <= 1e-5);
  CHECK(movement >= 1e-3);
}

}  // namespace engine::test
