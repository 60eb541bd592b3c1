// Who keeps the others waiting, in worlds of every kind; and who does not.
#include "engine/verdict.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <cstring>
#include <vector>

#include "tests/support.h"

using namespace engine;
using namespace engine::test;

namespace {

constexpr double kTimeout = 300, kLong = 301, kShort = 299;
constexpr int kBuckets = 8;
constexpr uint64_t kNumber = 639 * kBuckets + 1;  // the first sum of step 640

using World = std::vector<RankView>;

// Ranks that compute step 640, the sums of step 639 done. As threads of one process, or one process
// each, the first of which judges.
World world_of(int ranks, bool processes) {
  World world(ranks);
  for (int r = 0; r < ranks; ++r) {
    world[r].status = {.rank = r,
                       .device = r,
                       .buckets = kBuckets,
                       .doing = Doing::computing,
                       .doing_for = 0.1,
                       .update = 640,
                       .operations = {639, 639},
                       .operations_for = 0.1,
                       .sums = {639 * kBuckets, 639 * kBuckets},
                       .sums_for = 0.1,
                       .updates_before = 0};
    world[r].host = "x";
    world[r].process = processes ? r : 0;
    world[r].age = processes && r > 0 ? 0.5 : 0;
    world[r].local = !processes || r == 0;
  }
  return world;
}

// The device waits in a sum, whatever the thread does.
void wait_in_sum(RankView& view, double seconds, uint64_t number = kNumber) {
  view.status.sums = {number, number - 1};
  view.status.sums_for = seconds;
}

void wait_in_operation(RankView& view, double seconds, uint64_t number = 640) {
  view.status.operations = {number, number - 1};
  view.status.operations_for = seconds;
}

void do_for(RankView& view, Doing doing, double seconds, const char* detail = "") {
  view.status.doing = doing;
  view.status.doing_for = seconds;
  std::strncpy(view.status.detail.data(), detail, view.status.detail.size() - 1);
}

void check_names(const World& world, const std::vector<std::string>& parts) {
  const auto verdict = judge(world, kTimeout);
  REQUIRE(verdict.has_value());
  for (const std::string& part : parts) CHECK(mentions(*verdict, part));
}

void check_calm(const World& world) {
  const auto verdict = judge(world, kTimeout);
  CHECK_MESSAGE(!verdict, verdict.value_or(""));
}

}  // namespace

TEST_CASE("a rank that waits for data while the others wait for it is named, with the file") {
  World world = world_of(4, false);
  for (int r : {0, 1, 2}) wait_in_sum(world[r], kLong);
  do_for(world[3], Doing::loading, 300.4, "train/3/0002.png");
  CHECK(*judge(world, kTimeout) ==
        "rank 3 (host x, GPU 3) never entered all-reduce #5113 (step 640, bucket 0): it has been "
        "waiting for data for 300 s at step 640: train/3/0002.png; ranks 0, 1, 2 wait in it");
}

TEST_CASE("whoever is late is named, in worlds of one to eight, as threads and as processes") {
  const std::pair<Doing, const char*> doings[] = {
      {Doing::starting, "getting ready"}, {Doing::loading, "waiting for data"},
      {Doing::computing, "computing"},    {Doing::validating, "validating"},
      {Doing::saving, "saving"},          {Doing::ended, "done"}};
  for (const bool processes : {false, true})
    for (int ranks = 1; ranks <= 8; ++ranks)
      for (int late = 0; late < ranks; ++late)
        for (const auto& [doing, text] : doings)
          for (const bool sum : {false, true}) {
            CAPTURE(processes);
            CAPTURE(ranks);
            CAPTURE(late);
            CAPTURE(text);
            World world = world_of(ranks, processes);
            do_for(world[late], doing, kLong);
            const auto wait = [&](double seconds) {
              for (RankView& view : world)
                if (view.status.rank != late)
                  sum ? wait_in_sum(view, seconds) : wait_in_operation(view, seconds);
            };
            wait(kShort);
            check_calm(world);
            wait(kLong);
            if (ranks == 1) {
              check_calm(world);  // nobody waits
              continue;
            }
            const auto verdict = judge(world, kTimeout);
            REQUIRE(verdict);
            CHECK(
                verdict->starts_with(fmt::format("rank {} (host x, GPU {}) never entered {}", late,
                                                 late, sum ? "all-reduce #5113" : "meeting #640")));
            CHECK(mentions(*verdict, fmt::format("it has been {} for 30", text)));
            CHECK(mentions(*verdict, ranks == 2 ? "waits in it" : "wait in it"));
          }
}

TEST_CASE("whoever waits is listed, also who came later") {
  World world = world_of(4, false);
  wait_in_sum(world[0], kShort);
  wait_in_sum(world[1], kLong);
  wait_in_sum(world[2], 0.1);
  check_names(world, {"rank 3 (host x, GPU 3) never entered", "; ranks 0, 1, 2 wait in it"});
}

TEST_CASE("a device that hangs within a step is known by the next sum") {
  World world = world_of(3, true);
  for (int r : {0, 2}) wait_in_sum(world[r], kLong, kNumber + 4);
  world[1].status.sums = {kNumber + 3, kNumber + 3};
  do_for(world[1], Doing::computing, kLong);
  check_names(world, {"rank 1 (host x, GPU 1) never entered all-reduce #5117 (step 640, bucket 4)",
                      "it has been computing for 302 s", "ranks 0, 2 wait in it"});
}

TEST_CASE("several that are late are all named, and only they") {
  World world = world_of(5, false);
  wait_in_sum(world[1], kLong);
  wait_in_sum(world[3], kLong);
  do_for(world[0], Doing::loading, kLong, "a.png");
  do_for(world[2], Doing::loading, 200, "b.png");
  do_for(world[4], Doing::saving, 10);
  check_names(world, {"rank 0 (host x, GPU 0) never", "a.png; rank 2 ", "b.png; rank 4 ",
                      "saving for 10 s", "ranks 1, 3 wait in it"});
}

TEST_CASE("who waits elsewhere for the same rank is no suspect") {
  World world = world_of(4, false);
  wait_in_sum(world[0], kLong);
  wait_in_sum(world[1], kLong);
  wait_in_operation(world[2], kLong, 639);  // it has not come to the sum either
  do_for(world[3], Doing::loading, kLong);
  world[3].status.operations = {638, 638};
  const auto verdict = judge(world, kTimeout);
  REQUIRE(verdict);
  CHECK(verdict->starts_with("rank 3 (host x, GPU 3) never entered all-reduce"));
  CHECK(!verdict->starts_with("rank 2"));
  CHECK(mentions(*verdict, "; ranks 0, 1 wait in it"));
}

TEST_CASE("a device that waits in a sum is seen whatever its thread is at") {
  World world = world_of(2, false);
  wait_in_sum(world[0], kLong);
  do_for(world[0], Doing::loading, kLong);  // the next batch, meanwhile
  do_for(world[1], Doing::computing, kLong);
  const auto verdict = judge(world, kTimeout);
  REQUIRE(verdict);
  CHECK(verdict->starts_with("rank 1 "));
}

TEST_CASE("a rank that is a step behind is named by the sum that it did not come to") {
  World world = world_of(3, false);
  wait_in_sum(world[0], kLong, 640 * kBuckets + 1);
  wait_in_sum(world[1], kLong, 640 * kBuckets + 1);
  world[2].status.sums = {640 * kBuckets, 640 * kBuckets};
  check_names(world, {"rank 2 (host x, GPU 2) never entered all-reduce #5121 (step 641, bucket 0)",
                      "ranks 0, 1 wait"});
}

TEST_CASE("steps in flight, slow ranks and long waits within the timeout are no failure") {
  for (int ranks = 1; ranks <= 8; ++ranks) {
    World world = world_of(ranks, true);
    check_calm(world);
    for (int r = 1; r < ranks; ++r) wait_in_sum(world[r], kShort);
    do_for(world[0], Doing::loading, 10 * kLong);  // nobody waits as long as that
    check_calm(world);
    for (RankView& view : world) do_for(view, Doing::loading, kLong);  // all wait for data
    for (RankView& view : world) view.status.sums = {639 * kBuckets, 639 * kBuckets};
    check_calm(world);
    for (RankView& view : world) do_for(view, Doing::validating, kLong);
    check_calm(world);
  }
  World world = world_of(2, false);  // a rank's device is ahead in the same step
  world[0].status.sums = {kNumber + 2, kNumber + 1};
  world[1].status.sums = {kNumber + 1, kNumber + 1};
  check_calm(world);
}

TEST_CASE("a validation that one rank hangs in") {
  World world = world_of(4, true);
  for (RankView& view : world) do_for(view, Doing::validating, kLong);
  for (int r : {0, 2, 3}) wait_in_operation(world[r], kLong, 700);
  world[1].status.operations = {699, 699};
  check_names(world, {"rank 1 (host x, GPU 1) never entered meeting #700: it has been validating",
                      "ranks 0, 2, 3 wait in it"});
}

TEST_CASE("a sum that every rank has entered and none leaves") {
  World world = world_of(2, true);
  for (RankView& view : world) wait_in_sum(view, kLong);
  check_names(world, {"all-reduce #5113 (step 640, bucket 0) does not end, though every rank",
                      "ranks 0, 1 wait in it for 301 s"});
}

TEST_CASE("ranks that have left sums out are known by the numbers of their updates") {
  for (const bool processes : {false, true}) {
    World world = world_of(4, processes);
    for (RankView& view : world) view.status.updates_before = 100;  // as after a resume
    check_calm(world);
    world[3].status.updates_before = -1;  // it has not made an update yet
    check_calm(world);
    world[1].status.updates_before = 101;
    world[2].status.updates_before = 103;
    world[2].status.update = 643;
    CHECK(*judge(world, kTimeout) ==
          "rank 1 (host x, GPU 1) has left the sums of gradients of 1 of its updates out, up to "
          "step 640 at the latest; rank 2 (host x, GPU 2) has left the sums of gradients of 3 of "
          "its updates out, up to step 643 at the latest");
  }
}

TEST_CASE("a rank whose device leaves a sum out ends up waiting elsewhere") {
  World world = world_of(2, true);
  wait_in_sum(world[0], kLong);
  wait_in_operation(world[1], kLong);
  check_names(world, {"rank 1 (host x, GPU 1) waits elsewhere and never entered all-reduce #5113",
                      "rank 0 waits in it"});
}

TEST_CASE("sums count from the start of the run, steps from that of the training") {
  World world = world_of(2, false);
  for (RankView& view : world) {
    view.status.updates_before = 1000;
    view.status.update = 1640;
  }
  wait_in_sum(world[0], kLong);
  check_names(world,
              {"rank 1 (host x, GPU 1) never entered all-reduce #5113 (step 1640, bucket 0)"});
}

TEST_CASE("a process that is gone is named at once, unless its ranks had ended") {
  for (int ranks = 2; ranks <= 8; ++ranks)
    for (int gone = 1; gone < ranks; ++gone) {
      World world = world_of(ranks, true);
      for (RankView& view : world) wait_in_sum(view, 1);
      do_for(world[gone], Doing::loading, 2, "c.png");
      world[gone].lost = true;
      const auto verdict = judge(world, kTimeout);
      REQUIRE(verdict);
      CHECK(*verdict == fmt::format("rank {0} (host x, GPU {0}) is lost, its process is gone: it "
                                    "has been waiting for data for 2 s at step 640: c.png; the "
                                    "last that it began is all-reduce #5113 (step 640, bucket 0)",
                                    gone));
      do_for(world[gone], Doing::ended, 2);
      check_calm(world);
    }
}

TEST_CASE("a process of several ranks is gone") {
  World world = world_of(4, true);
  for (RankView& view : world) view.process = view.status.rank / 2;
  world[2].lost = world[3].lost = true;
  check_names(world, {"rank 2 (host x, GPU 2) is lost", "rank 3 (host x, GPU 3) is lost"});
}

TEST_CASE("a process that gives no sign of life is named after the timeout") {
  World world = world_of(4, true);
  for (RankView& view : world) wait_in_sum(view, kShort);
  world[2].age = kShort;
  check_calm(world);
  world[2].age = kLong;
  const auto verdict = judge(world, kTimeout);
  REQUIRE(verdict);
  CHECK(verdict->starts_with("rank 2 (host x, GPU 2) has given no sign of life for 301 s"));
  do_for(world[2], Doing::ended, 1);  // it has left
  check_calm(world);
}

TEST_CASE("where process 0 is silent the others' silence says nothing") {
  World world = world_of(4, true);
  for (int r : {0, 1, 3}) world[r].age = kLong;
  world[0].local = false;
  world[2].local = true;
  const auto verdict = judge(world, kTimeout);
  REQUIRE(verdict);
  CHECK(verdict->starts_with("rank 0 (host x, GPU 0) has given no sign of life"));
  for (const char* other : {"rank 1", "rank 2", "rank 3"})
    CHECK(verdict->find(other) == std::string::npos);
}

TEST_CASE("a verdict about old news says how old they are") {
  World world = world_of(2, true);
  wait_in_sum(world[0], kLong);
  do_for(world[1], Doing::loading, 100);
  world[1].age = 200;
  check_names(world, {"waiting for data for 300 s", "as far as known 200 s ago"});
}

TEST_CASE("runs that end, and ranks without host and device") {
  World world = world_of(4, true);
  for (RankView& view : world) do_for(view, Doing::ended, 10 * kLong);
  check_calm(world);
  world = world_of(2, false);
  for (RankView& view : world) view.host = "", view.status.device = -1;
  wait_in_operation(world[0], kLong);
  const auto verdict = judge(world, kTimeout);
  REQUIRE(verdict);
  CHECK(verdict->starts_with("rank 1 never entered meeting #640"));
  check_calm({});
}
