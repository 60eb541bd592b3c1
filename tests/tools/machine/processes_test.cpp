// Ranks of processes, and what those of one host have to share.
#include "tools/machine/processes.h"

#include <doctest/doctest.h>

#include <algorithm>

#include "engine/error.h"
#include "tests/support.h"
#include "tools/machine/cores.h"

using namespace engine;
using namespace engine::test;

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

TEST_CASE("ranks of the processes that may run on the same cores have cores of their own") {
  const std::vector<int> here = {allowed_cores().front()};  // one core
  DeviceOptions o;
  o.device = Device::cpu;
  Ranks ranks = plan_ranks(o, {});
  complete_ranks(ranks, o, {.allowed = allowed_cores()});
  CHECK(ranks.cores == std::vector<std::vector<int>>{{}});  // alone, it runs where it likes
  complete_ranks(ranks, o, {.allowed = here, .sharing = 2, .before = 1});
  CHECK(ranks.cores.front().empty());  // there are not enough
  if (available_cores() < 2) return note_skipped("two ranks want two cores");
  o.ranks = 2;
  ranks = plan_ranks(o, {});
  complete_ranks(ranks, o, {.allowed = allowed_cores()});
  std::vector<std::vector<int>> seen(2);
  on_every_rank(ranks, [&](int i) { seen[i] = allowed_cores(); });
  CHECK(seen == ranks.cores);
  std::vector<int> both = seen[0];
  both.insert(both.end(), seen[1].begin(), seen[1].end());
  std::ranges::sort(both);
  CHECK(both == allowed_cores());
}
