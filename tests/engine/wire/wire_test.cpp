// The wire over sockets: its sums have the bits of ranks that are threads, and no operation waits
// for ever.
#include <doctest/doctest.h>

#include <algorithm>
#include <atomic>
#include <thread>

#include "engine/rng.h"
#include "tests/engine/ranks.h"
#include "tests/engine/wire/processes.h"
#include "tests/support.h"

using namespace engine;
using namespace engine::test;

namespace {

template <class R>
std::vector<R> values_of(int rank, size_t size) {
  Rng rng({.seed = static_cast<uint64_t>(rank), .purpose = static_cast<uint32_t>(size)});
  std::vector<R> values(size);
  for (R& v : values) v = static_cast<R>(rng.normal());
  return values;
}

// The sum over as many threads.
template <class R>
std::vector<R> sum_in_threads(int ranks, size_t size) {
  std::vector<std::vector<R>> values;
  for (int r = 0; r < ranks; ++r) values.push_back(values_of<R>(r, size));
  run_ranks(ranks, [&](const Communicator& c) { c.group->sum<R>(c.rank, values[c.rank]); });
  return values[0];
}

template <class R>
void check_sums(int processes, size_t size) {
  CAPTURE(processes);
  CAPTURE(size);
  const std::vector<R> expected = sum_in_threads<R>(processes, size);
  std::vector<std::vector<R>> sums(processes);
  const auto errors = run_processes(processes, [&](int p, Connection& connection) {
    sums[p] = values_of<R>(p, size);
    connection.wire->sum(std::span<R>(sums[p]));
  });
  for (int p = 0; p < processes; ++p) {
    CHECK(errors[p] == "");
    CHECK(sums[p] == expected);
  }
}

bool all_mention(const std::vector<std::string>& messages, const std::string& part, int but) {
  for (int p = 0; p < static_cast<int>(messages.size()); ++p)
    if (p != but && !mentions(messages[p], part)) return false;
  return true;
}

}  // namespace

TEST_CASE("sums of processes have the bits of sums of threads") {
  for (int processes = 1; processes <= 5; ++processes)
    for (size_t size : {size_t{0}, size_t{1}, size_t{1000}, size_t{32768}, size_t{300001}}) {
      check_sums<float>(processes, size);
      check_sums<double>(processes, size);
    }
}

TEST_CASE("a group over processes adds up the ranks of a process, then the processes") {
  constexpr int kProcesses = 2, kLocal = 3, kRanks = kProcesses * kLocal;
  constexpr size_t kSize = 5000;
  std::vector<float> expected(kSize);
  for (int p = 0; p < kProcesses; ++p) {
    std::vector<float> part = values_of<float>(p * kLocal, kSize);
    for (int r = 1; r < kLocal; ++r) {
      const auto more = values_of<float>(p * kLocal + r, kSize);
      for (size_t i = 0; i < kSize; ++i) part[i] += more[i];
    }
    for (size_t i = 0; i < kSize; ++i) expected[i] = p == 0 ? part[i] : expected[i] + part[i];
  }
  std::vector<std::vector<float>> sums(kRanks);
  std::atomic<int> gathered = 0, told = 0;
  const auto errors = run_processes(kProcesses, [&](int, Connection& connection) {
    const auto group = std::make_shared<Group>(kLocal, connection.wire);
    std::vector<std::jthread> ranks;
    for (int i = 0; i < kLocal; ++i)
      ranks.emplace_back([&, rank = group->first() + i] {
        sums[rank] = values_of<float>(rank, kSize);
        group->sum<float>(rank, sums[rank]);
        const std::string text(size_t(rank), 'x');
        const auto all = group->gather(rank, std::as_bytes(std::span(text)));
        for (int r = 0; r < kRanks; ++r) gathered += all.at(r).size() == size_t(r);
        int value = rank == 0 ? 42 : 0;
        group->broadcast(rank, std::as_writable_bytes(std::span(&value, 1)));
        told += value == 42;
        group->barrier(rank);
      });
  });
  for (const std::string& error : errors) CHECK(error == "");
  for (const auto& sum : sums) CHECK(sum == expected);
  CHECK(gathered == kRanks * kRanks);
  CHECK(told == kRanks);
}

TEST_CASE("processes broadcast, gather and meet, many times in a row") {
  for (int processes : {1, 2, 5}) {
    std::atomic<int> right = 0, arrived = 0;
    std::atomic<bool> early = false;
    const auto errors = run_processes(processes, [&](int p, Connection& connection) {
      for (int round = 1; round <= 50; ++round) {
        int value = p == 0 ? round : -1;
        connection.wire->broadcast(std::as_writable_bytes(std::span(&value, 1)));
        right += value == round;
        const std::vector<int> mine(size_t(p + round), p);
        const auto all = connection.wire->gather(std::as_bytes(std::span(mine)));
        for (int other = 0; other < processes; ++other)
          right += all.at(other).size() == (other + round) * sizeof(int) &&
                   all[other].front() == std::byte(other);
        ++arrived;
        connection.wire->barrier();
        if (arrived < round * processes) early = true;
        connection.wire->barrier();
      }
    });
    for (const std::string& error : errors) CHECK(error == "");
    CHECK(right == 50 * processes * (processes + 1));
    CHECK_FALSE(early);
  }
}

TEST_CASE("a process that gives up wakes all others, with its reason") {
  for (int who : {0, 2}) {
    CAPTURE(who);
    const auto errors = run_processes(4, [&](int p, Connection& connection) {
      std::vector<float> values(100000, 1.f);
      connection.wire->sum(std::span(values));
      if (p == who) {
        connection.wire->abort("no more data");
        connection.wire->abort("a second reason");  // the first is what is told
        return;
      }
      connection.wire->sum(std::span(values));
    });
    CHECK(errors[who] == "");
    CHECK(all_mention(errors, "no more data", who));
    CHECK(all_mention(errors, "process " + std::to_string(who) + " (host ", who));
    for (const std::string& error : errors) CHECK(!error.ends_with("(of another kind)"));
  }
}

TEST_CASE("a process that leaves while others wait for it is named") {
  for (int who : {0, 1}) {
    CAPTURE(who);
    const auto errors = run_processes(3, [&](int p, Connection& connection) {
      if (p == who) return;
      connection.wire->barrier();
      connection.wire->barrier();
    });
    CHECK(errors[who] == "");
    CHECK(mentions(errors[who == 0 ? 1 : 0], "process " + std::to_string(who) + " (host "));
    for (int p = 0; p < 3; ++p)
      if (p != who) CHECK(errors[p] != "");
  }
}

TEST_CASE("an operation in which nothing comes ends after the timeout") {
  std::atomic<int> ended = 0;
  const auto errors = run_processes(
      2,
      [&](int p, Connection& connection) {
        if (p == 1) {
          while (ended == 0) std::this_thread::yield();
          return;
        }
        try {
          connection.wire->barrier();
        } catch (const Error&) {
          ++ended;
          throw;
        }
      },
      0.5);
  CHECK(mentions(errors[0], "process 1 (host "));
  CHECK(mentions(errors[0], "nothing came for 0.5 s"));
}

TEST_CASE("processes in different operations are told apart") {
  auto errors = run_processes(2, [](int p, Connection& connection) {
    std::vector<float> values(8);
    if (p == 0)
      connection.wire->barrier();
    else
      connection.wire->sum(std::span(values));
  });
  CHECK(mentions(errors[0], "it is in sum #0, this one in barrier #0"));
  errors = run_processes(2, [](int p, Connection& connection) {
    std::vector<float> values(size_t(8 + p));
    connection.wire->sum(std::span(values));
  });
  CHECK(mentions(errors[0], "it has 36 bytes in sum #0, this one 32"));
}
