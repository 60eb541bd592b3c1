// Who may join a run, and what those hear who may not.
#include "engine/wire/rendezvous.h"

#include <doctest/doctest.h>

#include <array>
#include <thread>

#include "tests/engine/wire/processes.h"
#include "tests/support.h"

using namespace engine;
using namespace engine::test;

namespace {

// Process 0 of two waits; somebody else comes. Returns what either is told.
struct Told {
  std::string zero, visitor;
};

Told visit_a_run_of_two(Rendezvous visitor, Failure kind = Failure::collective) {
  Handle listener = listen_at("127.0.0.1", 0, false);
  visitor.port = port_of(listener);
  Told told;
  std::jthread zero([&, own = rendezvous(0, 2, visitor.port, 1.5)] {
    told.zero =
        message_of([&] { connect_processes(own, std::move(listener)); }, Failure::collective);
  });
  told.visitor = message_of([&] { connect_processes(visitor); }, kind);
  zero.join();
  return told;
}

}  // namespace

TEST_CASE("a process of a run of another size is refused, and both sides say so") {
  const Told told = visit_a_run_of_two(rendezvous(1, 3, 0));
  CHECK(mentions(told.visitor, "process 1 was refused by process 0"));
  CHECK(mentions(told.visitor, "has 2 processes, not 3"));
  CHECK(mentions(told.zero, "process 1 of 2 did not come"));
  CHECK(mentions(told.zero, "has 2 processes, not 3"));
}

TEST_CASE("a process of another run on the same port is refused") {
  Rendezvous other = rendezvous(1, 2, 0);
  other.run = "another";
  const Told told = visit_a_run_of_two(other);
  CHECK(mentions(told.visitor, "is \"test\", not \"another\""));
  CHECK(mentions(told.zero, "is \"test\", not \"another\""));
}

TEST_CASE("a number that is none of the others' is refused") {
  CHECK(mentions(visit_a_run_of_two(rendezvous(2, 2, 0)).visitor, "2 is no other process of 2"));
}

TEST_CASE("a stranger at the port does not keep the processes from meeting") {
  Handle listener = listen_at("127.0.0.1", 0, false);
  const int port = port_of(listener);
  std::string why;
  const Handle stranger = connect_before("127.0.0.1", port, after(20), why);
  REQUIRE(bool(stranger));
  const std::string text = "GET / HTTP/1.1\r\nHost: localhost\r\nAccept: everything\r\n\r\n";
  REQUIRE(send_before(stranger.number(), std::as_bytes(std::span(text)), after(20)));
  std::jthread one([&] {
    Connection connection = connect_processes(rendezvous(1, 2, port));
    connection.wire->barrier();
  });
  Connection connection = connect_processes(rendezvous(0, 2, port), std::move(listener));
  connection.wire->barrier();
}

TEST_CASE("what listens there and is no process of a run is said to be none") {
  const Handle listener = listen_at("127.0.0.1", 0, false);
  std::jthread server([&] {
    for (int i = 0; i < 2; ++i) {  // the two connections of a process
      const Handle guest = accept_before(listener, after(20));
      std::array<std::byte, 64> answer{};
      send_before(guest.number(), answer, after(20));
      receive_before(guest.number(), answer, after(0.2));
    }
  });
  CHECK(mentions(
      message_of([&] { connect_processes(rendezvous(1, 2, port_of(listener))); }, Failure::usage),
      "is no process of a run"));
}

TEST_CASE("where nobody listens, or not everybody comes, the wait ends") {
  int port = 0;
  { port = port_of(listen_at("127.0.0.1", 0, false)); }
  CHECK(mentions(
      message_of([&] { connect_processes(rendezvous(1, 2, port, 0.3)); }, Failure::collective),
      "process 1 did not reach process 0"));
  CHECK(mentions(
      message_of([&] { connect_processes(rendezvous(0, 3, port, 0.3)); }, Failure::collective),
      "processes 1, 2 of 3 did not come"));
}

TEST_CASE("a wait that takes long is told, once and by both sides") {
  Handle listener = listen_at("127.0.0.1", 0, false);
  const int port = port_of(listener);
  std::array<std::vector<std::string>, 2> told;
  const auto patient = [&](int process, int of_port) {
    Rendezvous r = rendezvous(process, 3, of_port, 1.5);
    r.unremarked = 0.1;
    r.tell = [&told, process](const std::string& whom) { told[process].push_back(whom); };
    return r;
  };
  const std::string where = fmt::format(" at 127.0.0.1:{}", port);
  message_of([&] { connect_processes(patient(0, port), std::move(listener)); },
             Failure::collective);
  CHECK(told[0] == std::vector<std::string>{"waiting for processes 1, 2 of 3" + where});
  message_of([&] { connect_processes(patient(1, port)); }, Failure::collective);
  CHECK(told[1] == std::vector<std::string>{"waiting for process 0" + where});
}

TEST_CASE("two runs cannot listen at one port") {
  const Handle listener = listen_at("127.0.0.1", 0, false);
  const std::string message =
      message_of([&] { connect_processes(rendezvous(0, 2, port_of(listener))); }, Failure::usage);
  CHECK(mentions(message, std::to_string(port_of(listener))));
  CHECK(mentions(message, "another MASTER_PORT"));
}

TEST_CASE("a request to stop ends the wait for the others") {
  for (int process : {0, 1}) {
    Rendezvous mine = rendezvous(process, 2, 0);
    const Handle nobody = reserve_port("127.0.0.1");
    mine.port = port_of(nobody);
    mine.stop = [] { return true; };
    message_of([&] { connect_processes(mine); }, Failure::preempted);
  }
}

TEST_CASE("a reserved port is free for who listens there") {
  const Handle reserved = reserve_port("127.0.0.1");
  const Handle listener = listen_at("127.0.0.1", port_of(reserved), false);
  CHECK(port_of(listener) == port_of(reserved));
}
