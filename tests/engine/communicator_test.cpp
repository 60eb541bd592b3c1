// Ranks in threads: they meet, sum, broadcast, give up together, and train as one.
#include "engine/communicator.h"

#include <atomic>
#include <thread>
#include <tuple>

#include "engine/error.h"
#include "engine/rng.h"
#include "tests/engine/ranks.h"
#include "tests/support.h"

using namespace engine;
using namespace engine::test;

TEST_CASE("a barrier holds everybody until all are there") {
  for (int ranks : {1, 2, 5}) {
    std::atomic<int> arrived{0};
    std::atomic<bool> early{false};
    run_ranks(ranks, [&](const Communicator& c) {
      for (int round = 1; round <= 200; ++round) {
        ++arrived;
        c.group->barrier(c.rank);
        if (arrived < round * ranks) early = true;
        c.group->barrier(c.rank);
      }
    });
    CHECK_FALSE(early);
    CHECK(arrived == 200 * ranks);
  }
}

TEST_CASE("sums are taken in rank order, with the same bits on every rank") {
  constexpr int kRanks = 3;
  for (size_t size : {size_t{1}, size_t{2}, size_t{1000}, size_t{4097}, size_t{64}}) {
    std::vector<std::vector<float>> values(kRanks);
    for (int r = 0; r < kRanks; ++r) {
      Rng rng({.seed = static_cast<uint64_t>(r), .purpose = static_cast<uint32_t>(size)});
      for (size_t i = 0; i < size; ++i) values[r].push_back(rng.normal());
    }
    std::vector<float> expected = values[0];
    for (int r = 1; r < kRanks; ++r)
      for (size_t i = 0; i < size; ++i) expected[i] += values[r][i];
    run_ranks(kRanks, [&](const Communicator& c) { c.group->sum<float>(c.rank, values[c.rank]); });
    for (const auto& mine : values) CHECK(mine == expected);
  }
}

TEST_CASE("many sums of changing sizes and types in a row") {
  run_ranks(4, [](const Communicator& c) {
    for (int round = 1; round < 300; ++round) {
      std::vector<float> ones(round % 37 + 1, 1.f);
      c.group->sum<float>(c.rank, ones);
      std::vector<double> ranks(round % 11, c.rank);
      c.group->sum<double>(c.rank, ranks);
      for (float v : ones) require(v == 4, Failure::internal, "sum of ones: {}", v);
      for (double v : ranks) require(v == 6, Failure::internal, "sum of ranks: {}", v);
    }
  });
}

TEST_CASE("a broadcast brings rank 0's bytes") {
  std::atomic<int> right{0};
  run_ranks(3, [&](const Communicator& c) {
    for (int round = 0; round < 100; ++round) {
      int value = c.rank == 0 ? 1000 + round : -1;
      c.group->broadcast(c.rank, std::as_writable_bytes(std::span(&value, 1)));
      right += value == 1000 + round;
    }
  });
  CHECK(right == 300);
}

TEST_CASE("a rank that gives up wakes the others, with its reason") {
  const auto group = std::make_shared<Group>(3);
  std::atomic<int> told{0};
  std::vector<std::thread> waiting;
  for (int i = 0; i < 2; ++i)
    waiting.emplace_back([&, i] {
      try {
        group->barrier(i);
      } catch (const Error& error) {
        told += error.kind == Failure::collective &&
                std::string(error.what()) == "another rank stopped: no more data";
      }
    });
  group->abort("no more data");
  group->abort("a second reason");  // the first is what is told
  for (std::thread& thread : waiting) thread.join();
  CHECK(told == 2);
  std::vector<double> values(4);
  CHECK_THROWS_WITH_AS(group->sum<double>(2, values), "another rank stopped: no more data", Error);
}

TEST_CASE("ranks on the reference backend train as one") {
  for (int ranks : {2, 4})
    check_data_parallel(ranks, [](const Communicator& communicator) {
      return make_reference_backend({.communicator = communicator});
    });
}

TEST_CASE("ranks that come to different operations are all told, and the odd one is named") {
  for (const auto& [ranks, odd, usual] : {std::tuple{4, 2, 0}, {4, 0, 1}, {2, 1, 0}}) {
    CAPTURE(ranks);
    CAPTURE(odd);
    std::atomic<int> told{0};
    const std::string message = message_of(
        [&, ranks = ranks, odd = odd] {
          run_ranks(ranks, [&](const Communicator& c) {
            std::vector<float> values(10, 1.f);
            c.group->sum<float>(c.rank, values);
            ++told;
            if (c.rank != odd) c.group->sum<float>(c.rank, values);
            c.group->broadcast(c.rank, std::as_writable_bytes(std::span(values).first(2)));
          });
        },
        Failure::collective);
    CHECK(told == ranks);
    if (ranks > 2)
      CHECK(mentions(message, fmt::format("rank {} came to a broadcast of 8 bytes where rank {} "
                                          "came to a sum of 40 bytes: one has left",
                                          odd, usual)));
    for (const char* part : {"a broadcast of 8 bytes", "a sum of 40 bytes"})
      CHECK(mentions(message, part));
  }
}

TEST_CASE("a group tells how far each rank is") {
  const auto group = std::make_shared<Group>(2);
  std::thread other([&] { group->barrier(1); });
  while (group->reached(1).begun == 0) std::this_thread::yield();
  CHECK(group->reached(1) == Reached{1, 0});
  CHECK(group->reached(0) == Reached{});
  group->barrier(0);
  other.join();
  for (int rank : {0, 1}) CHECK(group->reached(rank) == Reached{1, 1});
  group->check();
  CHECK(!group->aborted());
  group->abort("no more data");
  CHECK(group->aborted() == "no more data");
  CHECK_THROWS_WITH_AS(group->check(), "another rank stopped: no more data", Error);
}
