// Ranks that have drifted apart are noticed, and named.
#include "tools/train/equal_ranks.h"

#include <doctest/doctest.h>

#include <thread>
#include <vector>

#include "engine/error.h"
#include "models/models.h"
#include "tests/support.h"

using namespace engine;
using namespace engine::test;

namespace {

// Zeros for everything that a session gives.
std::map<std::string, Tensor> state_of(const Graph& graph) {
  std::map<std::string, Tensor> state;
  for (const Parameter& p : graph.parameters) state.emplace(p.name, Tensor(DType::f32, p.shape));
  return state;
}

// What each rank is told; "" for nothing.
std::vector<std::string> compare(const Graph& graph,
                                 const std::vector<std::map<std::string, Tensor>>& states) {
  const int ranks = static_cast<int>(states.size());
  const auto group = std::make_shared<Group>(ranks);
  std::vector<std::string> told(states.size());
  {
    std::vector<std::jthread> threads;
    for (int rank = 0; rank < ranks; ++rank)
      threads.emplace_back([&, rank] {
        try {
          check_equal_weights({rank, group}, graph, states[rank], 640);
        } catch (const Error& error) {
          told[rank] = error.what();
        }
      });
  }
  return told;
}

}  // namespace

TEST_CASE("ranks with other weights than rank 0's are named on every rank") {
  const Graph graph = make_model("efficientnet_b0", {.classes = 3, .height = 32, .width = 32});
  std::vector<std::map<std::string, Tensor>> states(4, state_of(graph));
  for (const std::string& told : compare(graph, states)) CHECK(told == "");
  states[1].at("classifier.1.bias").bytes[5] ^= std::byte{1};
  states[3].at("features.0.0.weight").bytes.back() ^= std::byte{128};
  for (const std::string& told : compare(graph, states))
    CHECK(told == "step 640: these ranks have other weights than rank 0: 1 3");
  CHECK_NOTHROW(check_equal_weights({}, graph, {}, 0));  // one rank
}

TEST_CASE("running statistics are each rank's own") {
  const Graph graph = make_model("efficientnet_b0", {.classes = 3, .height = 32, .width = 32});
  std::vector<std::map<std::string, Tensor>> states(2, state_of(graph));
  states[1].at("features.0.1.running_mean").bytes[0] ^= std::byte{1};
  for (const std::string& told : compare(graph, states)) CHECK(told == "");
}
