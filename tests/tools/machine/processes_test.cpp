// What processes of one host have to share.
#include "tools/machine/processes.h"

#include <doctest/doctest.h>

#include "engine/error.h"

using namespace engine;

TEST_CASE("processes divide the cores that they may both use") {
  const std::vector<int> all = {0, 1, 2, 3, 4, 5, 6, 7}, low = {0, 1, 2, 3}, high = {4, 5, 6, 7};
  const auto share = [](const std::vector<std::vector<int>>& cores, int mine) {
    return share_of_cores(cores, mine);
  };
  CHECK(share({all}, 0) == 8);
  CHECK(share({all, all}, 0) == 4);
  CHECK(share({all, all, all}, 2) == 2);  // two are left over
  CHECK(share({low, high}, 0) == 4);      // bound by the launcher: each has its own
  CHECK(share({low, high}, 1) == 4);
  CHECK(share({low, low, high}, 1) == 2);
  CHECK(share({all, low}, 0) == 6);
  CHECK(share({{0}, {0}, {0}}, 1) == 1);  // at least one
}

TEST_CASE("ranks of CPUs: those of the process, or one where each has a process") {
  DeviceOptions o;
  o.device = Device::cpu;
  o.ranks = 3;
  CHECK(plan_ranks(o, {}).count() == 3);
  const Place second{.launcher = Launcher::torchrun,
                     .process = 1,
                     .processes = 3,
                     .local_process = 1,
                     .local_processes = 3};
  CHECK(plan_ranks(o, second).count() == 3);
  o.launch = RankLaunch::process;
  CHECK(plan_ranks(o, second).count() == 1);
  o.ranks = 2;
  CHECK_THROWS_AS(plan_ranks(o, second), Error);
}

TEST_CASE("threads and loading threads are divided among the ranks") {
  DeviceOptions o;
  o.device = Device::cpu;
  o.ranks = 2;
  Ranks ranks = plan_ranks(o, {});
  complete_ranks(ranks, o, {.threads = 7, .cores = 8});
  CHECK(ranks.world() == 2);
  CHECK(ranks.leads());
  for (int i = 0; i < 2; ++i) {
    CHECK(ranks.options[i].threads == 3);
    CHECK(ranks.options[i].communicator.rank == i);
  }
  CHECK(ranks.workers == 2);  // half of the cores load
  o.workers = 8;
  complete_ranks(ranks, o, {.threads = 1, .cores = 8});
  CHECK(ranks.options[0].threads == 1);
  CHECK(ranks.workers == 4);
  complete_ranks(ranks, o, {.threads = 1, .cores = 8, .processes = 4});
  CHECK(ranks.workers == 1);
}
