#include "engine/parallel.h"

#include <doctest/doctest.h>

#include <atomic>
#include <vector>

#include "engine/error.h"
#include "tests/support.h"

using namespace engine;

TEST_CASE("every item is done once, by any number of threads") {
  for (const int threads : {-1, 0, 1, 3, 100}) {
    std::vector<std::atomic<int>> done(50);
    parallel_for(done.size(), {.threads = threads}, [&](size_t i) { ++done[i]; });
    for (const std::atomic<int>& times : done) CHECK(times == 1);
  }
  parallel_for(0, {.threads = 4}, [](size_t) { FAIL("there is no item"); });
}

TEST_CASE(
    "the exception of the first item that throws is the one that is seen, and ends the loop") {
  for (const int threads : {1, 4}) {
    std::atomic<int> begun = 0;
    const auto throwing = [&](size_t i) {
      ++begun;
      if (i >= 5) fail(Failure::data, "item {}", i);
    };
    CHECK(test::message_of([&] { parallel_for(1000, {.threads = threads}, throwing); },
                           Failure::data) == "item 5");
    CHECK(begun <= 5 + 2 * threads);
  }
}

TEST_CASE("a loop that is stopped says how far it came, and progress is told one call at a time") {
  size_t told = 0;
  int asked = 0;
  const ParallelOptions options{.stop = [&] { return ++asked > 3; },
                                .progress =
                                    [&](size_t done, size_t all) {
                                      CHECK(done == ++told);
                                      CHECK(all == 10);
                                    }};
  CHECK(test::mentions(
      test::message_of([&] { parallel_for(10, options, [](size_t) {}); }, Failure::preempted),
      "stopped after 3 of 10"));
  CHECK(told == 3);
}
