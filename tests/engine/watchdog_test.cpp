// The watchdog at work, over ranks in threads and over a lifeline that the test writes.
#include "engine/watchdog.h"

#include <doctest/doctest.h>

#include <atomic>
#include <chrono>
#include <cstring>
#include <future>
#include <thread>

#include "engine/error.h"
#include "tests/support.h"

using namespace engine;
using namespace engine::test;

namespace {

using namespace std::chrono_literals;

constexpr auto kPatience = 60s;  // of a test; nothing takes nearly that long

// What a watchdog told and did. It outlives the watchdog.
struct Record {
  std::promise<std::string> told, ended;
  std::future<std::string> verdict = told.get_future(), end = ended.get_future();
};

WatchdogOptions options_of(const std::shared_ptr<Group>& group, Record& record) {
  return {.group = group,
          .host = "here",
          .timeout = 0.2,
          .grace = 0.1,
          .tell = [&](const std::string& verdict) { record.told.set_value(verdict); },
          .end = [&](const std::string& why) { record.ended.set_value(why); }};
}

std::string await(std::future<std::string>& text) {
  REQUIRE(text.wait_for(kPatience) == std::future_status::ready);
  return text.get();
}

bool none(const std::future<std::string>& text) {
  return text.wait_for(0s) != std::future_status::ready;
}

class FakeLifeline final : public Lifeline {
 public:
  explicit FakeLifeline(int processes) : peers_(processes) {}
  int process() const override { return 0; }
  int processes() const override { return static_cast<int>(peers_.size()); }
  void publish(std::span<const std::byte> status) override {
    const std::lock_guard lock(mutex_);
    peers_[0].status.assign(status.begin(), status.end());
  }
  std::vector<PeerStatus> peers() const override {
    const std::lock_guard lock(mutex_);
    return peers_;
  }
  std::optional<std::string> aborted() const override {
    const std::lock_guard lock(mutex_);
    return aborted_;
  }

  void change(int process, const PeerStatus& peer) {
    const std::lock_guard lock(mutex_);
    peers_[process] = peer;
  }
  void abort(const std::string& why) {
    const std::lock_guard lock(mutex_);
    aborted_ = why;
  }

 private:
  mutable std::mutex mutex_;
  std::vector<PeerStatus> peers_;
  std::optional<std::string> aborted_;
};

// Processes of one rank each, of which this is the first.
class FakeWire final : public Wire {
 public:
  explicit FakeWire(int processes) : processes_(processes) {}
  int process() const override { return 0; }
  int processes() const override { return processes_; }
  void barrier() override {}
  void broadcast(std::span<std::byte>) override {}
  std::vector<std::vector<std::byte>> gather(std::span<const std::byte>) override { return {}; }
  void sum(std::span<float>) override {}
  void sum(std::span<double>) override {}
  void abort(const std::string& why) noexcept override { aborted = why; }

  std::string aborted;

 private:
  int processes_;
};

PeerStatus published(const RankStatus& status) {
  const auto bytes = std::as_bytes(std::span(&status, 1));
  return {.status = {bytes.begin(), bytes.end()}, .age = 0.01, .host = "there"};
}

}  // namespace

TEST_CASE("the rank that does not come is named, and the others are woken") {
  Record record;
  const auto group = std::make_shared<Group>(3);
  Watchdog watchdog(options_of(group, record));
  watchdog.activity(1).set(Doing::loading, 7);
  watchdog.activity(1).observe({}, [] { return "images/late.png"; });
  std::vector<std::future<std::string>> others;
  for (int rank : {0, 2})
    others.push_back(std::async(std::launch::async, [&, rank] {
      return message_of([&] { group->barrier(rank); }, Failure::collective);
    }));
  const std::string verdict = await(record.verdict);
  CHECK(verdict.starts_with("rank 1 (host here) never entered meeting #1: it has been waiting"));
  CHECK(mentions(verdict, "at step 7: images/late.png; ranks 0, 2 wait in it"));
  for (auto& other : others) CHECK(mentions(await(other), verdict));
  CHECK(await(record.end) == verdict);  // the rank never came, and the process did not end
}

TEST_CASE("a sum is told by step and bucket, from the marks that the device writes") {
  Record record;
  const auto group = std::make_shared<Group>(2);
  std::vector<CollectiveMark> first(3), second(3);  // they outlive the watchdog
  Watchdog watchdog(options_of(group, record));
  // The ranks' sessions count differently. Both have done update 4, the first is in update 5.
  const auto reach = [&](int rank, std::vector<CollectiveMark>& marks, uint64_t step,
                         int64_t update) {
    watchdog.activity(rank).expect(step, update);
    for (CollectiveMark& mark : marks) mark = {step, step};
  };
  reach(0, first, 100, 4);
  reach(1, second, 163, 4);
  watchdog.activity(0).expect(101, 5);
  first[0] = {101, 101};
  first[1].began = 101;
  second[0] = {164, 164};
  watchdog.activity(1).expect(164, 5);
  watchdog.activity(0).observe(first, nullptr);
  watchdog.activity(1).observe(second, nullptr);
  watchdog.activity(1).set(Doing::computing, 5);
  CHECK(await(record.verdict)
            .starts_with("rank 1 (host here) never entered all-reduce #5 (step 5, bucket 1): it "
                         "has been computing for 0 s at step 5; rank 0 waits in it"));
}

TEST_CASE("sums of steps long past still count, and those of a new session go on from there") {
  Record record;
  const auto group = std::make_shared<Group>(2);
  std::vector<CollectiveMark> old(1), fresh(1), other(1);
  Watchdog watchdog(options_of(group, record));
  watchdog.activity(0).expect(5, 3);
  watchdog.activity(0).expect(5 + kResults, 4);  // takes the place of step 5
  old[0] = {5, 5};
  watchdog.activity(1).expect(9, 3);
  other[0] = {9, 9};
  watchdog.activity(0).observe(old, nullptr);
  watchdog.activity(1).observe(other, nullptr);
  std::this_thread::sleep_for(50ms);
  watchdog.activity(0).observe(fresh, nullptr);  // its marks begin at 0
  std::this_thread::sleep_for(400ms);            // twice the timeout, and nobody has waited
  CHECK(none(record.verdict));
}

TEST_CASE("a rank that leaves before another has left nothing out") {
  Record record;
  const auto group = std::make_shared<Group>(2);
  std::vector<CollectiveMark> first(1), second(1);
  Watchdog watchdog(options_of(group, record));
  for (int rank : {0, 1}) watchdog.activity(rank).expect(1, 1);
  watchdog.activity(0).observe(first, nullptr);
  watchdog.activity(1).observe(second, nullptr);
  std::this_thread::sleep_for(50ms);
  // As a backend writes them, while the watchdog reads.
  for (uint64_t* mark : {&first[0].began, &second[0].began, &second[0].ended})
    std::atomic_ref(*mark).store(1);
  watchdog.activity(1).observe({}, nullptr);  // before the watchdog has looked again
  std::atomic_ref(first[0].ended).store(1);
  std::this_thread::sleep_for(400ms);
  CHECK(none(record.verdict));
}

TEST_CASE("a rank that has left an update's sums out is named, whichever of them stands where") {
  Record record;
  const auto group = std::make_shared<Group>(2);
  Watchdog watchdog(options_of(group, record));
  watchdog.activity(1).set(Doing::computing, 6);
  for (int update : {4, 5, 6}) watchdog.activity(0).expect(update, update);
  for (int update : {4, 6}) watchdog.activity(1).expect(update, update);
  CHECK(await(record.verdict) ==
        "rank 1 (host here) has left the sums of gradients of 1 of its updates out, up to step 6 "
        "at the latest");
}

TEST_CASE("ranks that come late, but in time, and a run that ends are left alone") {
  Record record;
  const auto group = std::make_shared<Group>(2);
  {
    WatchdogOptions options = options_of(group, record);
    options.timeout = 30;
    Watchdog watchdog(std::move(options));
    const auto other = std::async(std::launch::async, [&] { group->barrier(0); });
    std::this_thread::sleep_for(100ms);
    group->barrier(1);
  }
  CHECK(none(record.verdict));
  CHECK(none(record.end));
  CHECK(!group->aborted());
}

TEST_CASE("a process ends even if telling and aborting hang") {
  Record record;
  std::promise<void> disk;
  const auto group = std::make_shared<Group>(2);
  WatchdogOptions options = options_of(group, record);
  options.tell = [&](const std::string&) { disk.get_future().wait(); };
  std::thread waiting;
  {
    Watchdog watchdog(std::move(options));
    waiting = std::thread([&] { CHECK_THROWS_AS(group->barrier(0), Error); });
    CHECK(mentions(await(record.end), "rank 1 (host here) never entered meeting #1"));
    disk.set_value();
  }
  waiting.join();
}

TEST_CASE("a verdict that cannot be told counts all the same") {
  Record record;
  const auto group = std::make_shared<Group>(2);
  WatchdogOptions options = options_of(group, record);
  options.tell = [&](const std::string&) { fail(Failure::data, "the disk is full"); };
  Watchdog watchdog(std::move(options));
  CHECK(mentions(message_of([&] { group->barrier(0); }, Failure::collective), "rank 1"));
}

TEST_CASE("where a rank gave up by itself, the others have the timeout to end") {
  Record record;
  const auto group = std::make_shared<Group>(2);
  Watchdog watchdog(options_of(group, record));
  group->abort("rank 1: no such image");
  CHECK(await(record.end) == "rank 1: no such image");
  CHECK(none(record.verdict));  // that is for the program to tell
}

TEST_CASE("a world of one is not watched") {
  Record record;
  const auto group = std::make_shared<Group>(1);
  Watchdog watchdog(options_of(group, record));
  group->abort("nobody else is there");
  std::this_thread::sleep_for(400ms);
  CHECK(none(record.end));
}

TEST_CASE("ranks of other processes are judged by what their lifeline brings") {
  Record record;
  const auto wire = std::make_shared<FakeWire>(3);
  const auto lifeline = std::make_shared<FakeLifeline>(3);
  const auto group = std::make_shared<Group>(1, wire);
  for (int process : {1, 2})
    lifeline->change(process, published({.rank = process, .doing = Doing::computing}));
  WatchdogOptions options = options_of(group, record);
  options.lifeline = lifeline;
  Watchdog watchdog(std::move(options));
  SUBCASE("one that is gone") {
    PeerStatus gone = published({.rank = 2, .device = 1, .doing = Doing::loading, .update = 3});
    gone.lost = true;
    lifeline->change(2, gone);
    CHECK(await(record.verdict).starts_with("rank 2 (host there, GPU 1) is lost"));
  }
  SUBCASE("one that gave up") {
    lifeline->abort("process 1 gave up: no such image");
    CHECK(await(record.verdict) == "process 1 gave up: no such image");
  }
  SUBCASE("one that is silent") {
    PeerStatus silent = published({.rank = 1, .doing = Doing::computing});
    silent.age = 5;
    lifeline->change(1, silent);
    CHECK(await(record.verdict).starts_with("rank 1 (host there) has given no sign of life"));
  }
  CHECK(!await(record.end).empty());
  CHECK(!wire->aborted.empty());
}

TEST_CASE("a loss that a wire was faster to notice is told by the watchdog") {
  Record record;
  const auto lifeline = std::make_shared<FakeLifeline>(2);
  const auto group = std::make_shared<Group>(1, std::make_shared<FakeWire>(2));
  WatchdogOptions options = options_of(group, record);
  options.lifeline = lifeline;
  options.timeout = 30;
  Watchdog watchdog(std::move(options));
  watchdog.activity(0).set(Doing::ended);
  group->abort("process 1 (host there): it has ended");
  PeerStatus gone = published({.rank = 1, .doing = Doing::computing, .update = 3});
  const auto later = std::async(std::launch::async, [&] {
    std::this_thread::sleep_for(100ms);
    gone.lost = true;
    lifeline->change(1, gone);
  });
  const auto verdict = watchdog.conclude();
  REQUIRE(verdict.has_value());
  CHECK(verdict->starts_with("rank 1 (host there) is lost, its process is gone: it has been comp"));
  CHECK(watchdog.conclude() == verdict);
  CHECK(none(record.end));
}

TEST_CASE("a watchdog that knows of nothing wrong says nothing") {
  Record record;
  const auto group = std::make_shared<Group>(2);
  Watchdog watchdog(options_of(group, record));
  CHECK(!watchdog.conclude());
}

TEST_CASE("a process that left, or has told nothing yet, is no failure; its own ranks are told") {
  Record record;
  const auto lifeline = std::make_shared<FakeLifeline>(2);
  const auto group = std::make_shared<Group>(1, std::make_shared<FakeWire>(2));
  WatchdogOptions options = options_of(group, record);
  options.lifeline = lifeline;
  Watchdog watchdog(std::move(options));
  watchdog.activity(0).set(Doing::validating, 12);
  std::this_thread::sleep_for(300ms);  // process 1 is silent about itself
  lifeline->change(1, {.age = 5, .lost = true, .left = true});
  std::this_thread::sleep_for(300ms);
  CHECK(none(record.verdict));
  const std::vector<PeerStatus> peers = lifeline->peers();
  RankStatus told;
  REQUIRE(peers[0].status.size() == sizeof told);
  std::memcpy(&told, peers[0].status.data(), sizeof told);
  CHECK(told.rank == 0);
  CHECK(told.doing == Doing::validating);
  CHECK(told.update == 12);
}
