// What processes know of each other beside the work.
#include <doctest/doctest.h>
#include <sys/socket.h>

#include <atomic>
#include <chrono>
#include <thread>

#include "tests/engine/wire/processes.h"
#include "tests/support.h"

using namespace engine;
using namespace engine::test;

namespace {

// Waits until it is so, however slow the machine; false after a minute.
bool comes_true(const std::function<bool()>& condition) {
  for (int i = 0; i < 6000; ++i) {
    if (condition()) return true;
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
  }
  return false;
}

std::vector<std::byte> bytes(const std::string& text) {
  const auto all = std::as_bytes(std::span(text));
  return {all.begin(), all.end()};
}

// Two ends of a connection.
std::pair<Handle, Handle> make_pair() {
  int ends[2];
  REQUIRE(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, ends) == 0);
  return {Handle(ends[0]), Handle(ends[1])};
}

}  // namespace

TEST_CASE("every process sees what each has published last, and where it runs") {
  constexpr int kProcesses = 3;
  std::atomic<int> right = 0, done = 0;
  const auto errors = run_processes(kProcesses, [&](int p, Connection& connection) {
    SocketLifeline& lifeline = *connection.lifeline;
    CHECK(lifeline.process() == p);
    CHECK(lifeline.processes() == kProcesses);
    lifeline.publish(bytes("at first"));
    lifeline.publish(bytes("at last " + std::to_string(p)));
    right += comes_true([&] {
      const auto peers = lifeline.peers();
      for (int other = 0; other < kProcesses; ++other)
        if (peers[other].status != bytes("at last " + std::to_string(other))) return false;
      return true;
    });
    for (const PeerStatus& peer : lifeline.peers()) {
      CHECK(peer.host == this_host_name());
      CHECK_FALSE(peer.lost);
      CHECK_FALSE(peer.left);
    }
    CHECK(lifeline.peers()[p].age == 0);
    CHECK_FALSE(lifeline.aborted());
    ++done;
    comes_true([&] { return done == kProcesses; });  // nobody leaves before
  });
  for (const std::string& error : errors) CHECK(error == "");
  CHECK(right == kProcesses);
}

TEST_CASE("one that ends as it should has left, and the others go on") {
  std::atomic<int> seen = 0;
  run_processes(4, [&](int p, Connection& connection) {
    connection.wire->barrier();
    if (p == 3) return;
    SocketLifeline& lifeline = *connection.lifeline;
    seen += comes_true([&] { return lifeline.peers()[3].left; });
    CHECK_FALSE(lifeline.peers()[3].lost);
    CHECK_FALSE(lifeline.trouble());
    comes_true([&] { return seen == 3; });
  });
  CHECK(seen == 3);
}

TEST_CASE("a reason to give up reaches every process") {
  std::atomic<int> seen = 0;
  run_processes(4, [&](int p, Connection& connection) {
    SocketLifeline& lifeline = *connection.lifeline;
    if (p == 1) lifeline.abort("the disk is full");
    seen += comes_true([&] { return lifeline.aborted().has_value(); });
    CHECK(mentions(lifeline.aborted().value_or(""), "process 1 (host "));
    CHECK(mentions(lifeline.aborted().value_or(""), "the disk is full"));
    CHECK(lifeline.trouble() == lifeline.aborted());
    comes_true([&] { return seen == 4; });
  });
  CHECK(seen == 4);
}

TEST_CASE("a connection that closes without a good-bye is a loss, which process 0 passes on") {
  auto [here1, there1] = make_pair();
  auto [here2, there2] = make_pair();
  std::vector<LifelinePeer> at_0, at_1;
  at_0.push_back({"a", {}});
  at_0.push_back({"b", std::move(here1)});
  at_0.push_back({"c", std::move(here2)});
  at_1.push_back({"a", std::move(there1)});
  at_1.push_back({"b", {}});
  at_1.push_back({"c", {}});
  SocketLifeline zero(0, std::move(at_0)), one(1, std::move(at_1));
  CHECK_FALSE(zero.trouble());
  there2 = Handle();  // process 2 dies
  for (SocketLifeline* lifeline : {&zero, &one}) {
    CHECK(comes_true([&] { return lifeline->peers()[2].lost; }));
    CHECK(lifeline->trouble() == "process 2 (host c) was lost");
    CHECK_FALSE(lifeline->peers()[2].left);
    CHECK_FALSE(lifeline->aborted());
  }
}

TEST_CASE("the loss of process 0 is noticed by the others") {
  auto [here, there] = make_pair();
  std::vector<LifelinePeer> at_1;
  at_1.push_back({"a", std::move(here)});
  at_1.push_back({"b", {}});
  SocketLifeline one(1, std::move(at_1));
  there = Handle();
  CHECK(comes_true([&] { return one.trouble().has_value(); }));
  CHECK(one.trouble() == "process 0 (host a) was lost");
}

TEST_CASE("one that stops without closing its connection is silent for ever longer") {
  auto [here, there] = make_pair();  // nobody reads or writes at the other end
  std::vector<LifelinePeer> at_0;
  at_0.push_back({"a", {}});
  at_0.push_back({"b", std::move(here)});
  SocketLifeline zero(0, std::move(at_0));
  CHECK(comes_true([&] { return zero.peers()[1].age > 2; }));
  CHECK_FALSE(zero.peers()[1].lost);
  CHECK_FALSE(zero.trouble());
}
