// Rows of an evaluation that several processes have filled.
#include "tools/score/evaluation.h"

#include <doctest/doctest.h>

#include <thread>

#include "engine/wire/rendezvous.h"

using namespace engine;

namespace {

constexpr int kProcesses = 3, kLocal = 2, kRanks = kProcesses * kLocal, kClasses = 4, kSamples = 23,
              kBatch = 3;

// Each rank evaluates its share of each step, as a loader gives it.
std::vector<EvaluatedRows> rows_of(int rank) {
  std::vector<EvaluatedRows> rows;
  const Share share{rank, kRanks};
  for (int64_t step = 0; step < steps_per_epoch(kSamples, kBatch, share); ++step)
    if (const StepShare s = share_of_step(kSamples, kBatch, share, step); s.count > 0)
      rows.push_back({s.first, s.count});
  return rows;
}

void fill(EvaluationResult& result, const std::vector<EvaluatedRows>& rows) {
  for (const EvaluatedRows& r : rows)
    for (int64_t i = r.first; i < r.first + r.count; ++i) {
      for (int k = 0; k < kClasses; ++k) result.logits[i * kClasses + k] = float(10 * i + k);
      result.counted[i] = i % 5 != 0;  // some stand in for bad images
    }
}

EvaluationResult empty_result() {
  return {std::vector<float>(kSamples * kClasses), std::vector<uint8_t>(kSamples)};
}

}  // namespace

TEST_CASE("every process has the rows of all ranks, each sample once") {
  EvaluationResult expected = empty_result();
  for (int rank = 0; rank < kRanks; ++rank) fill(expected, rows_of(rank));
  REQUIRE(expected.logits.back() != 0);  // the shares are the whole

  Handle listener = listen_at("127.0.0.1", 0, false);
  const int port = port_of(listener);
  std::vector<EvaluationResult> results(kProcesses, empty_result());
  {
    std::vector<std::jthread> processes;
    for (int p = 0; p < kProcesses; ++p)
      processes.emplace_back([&, p] {
        const Connection connection =
            connect_processes({.process = p, .processes = kProcesses, .port = port, .timeout = 60},
                              p == 0 ? std::move(listener) : Handle());
        const auto group = std::make_shared<Group>(kLocal, connection.wire);
        std::vector<std::jthread> ranks;
        for (int i = 0; i < kLocal; ++i)
          ranks.emplace_back([&, rank = group->first() + i] {
            fill(results[p], rows_of(rank));
            group->barrier(rank);
            share_rows({rank, group}, kClasses, rows_of(rank), results[p]);
          });
      });
  }
  for (const EvaluationResult& result : results) {
    CHECK(result.logits == expected.logits);
    CHECK(result.counted == expected.counted);
  }
}
