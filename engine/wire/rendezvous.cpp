#include "engine/wire/rendezvous.h"

#include <fmt/format.h>
#include <fmt/ranges.h>
#include <poll.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <thread>
#include <utility>
#include <vector>

#include "engine/error.h"
#include "engine/wire/socket_wire.h"

namespace engine {

namespace {

constexpr std::array<char, 8> kMagic = {'e', 'n', 'g', 'n', 'w', 'i', 'r', 'e'};
constexpr int32_t kVersion = 1;  // of everything that goes through the sockets
constexpr uint32_t kLongestText = 1 << 20;
constexpr double kHello = 5;     // seconds in which a visitor must say who it is
constexpr double kGlance = 0.2;  // seconds between looks at Rendezvous::stop
enum Purpose : int32_t { kWork, kLife, kPurposes };

// Opens every connection, from both sides; texts follow it.
struct Greeting {
  std::array<char, 8> magic = kMagic;
  int32_t version = kVersion;
  int32_t process = 0, processes = 0;
  int32_t purpose = kWork;
  int32_t welcome = 0;         // in the answer
  uint32_t run = 0, text = 0;  // their sizes
};

// `text` is the host of who connects; in the answer the hosts of all, or why one is refused.
struct Letter {
  Greeting greeting;
  std::string run, text;
};

bool send_letter(int socket, Letter letter, Moment deadline) {
  letter.greeting.run = static_cast<uint32_t>(letter.run.size());
  letter.greeting.text = static_cast<uint32_t>(letter.text.size());
  const auto head = std::as_bytes(std::span(&letter.greeting, 1));
  std::vector<std::byte> bytes(head.begin(), head.end());
  for (const std::string& text : {letter.run, letter.text}) {
    const auto more = std::as_bytes(std::span(text));
    bytes.insert(bytes.end(), more.begin(), more.end());
  }
  return send_before(socket, bytes, deadline);
}

enum class Read { whole, closed, stranger };

// What is no letter of this version is a stranger's.
Read receive_letter(int socket, Letter& letter, Moment deadline) {
  auto head = std::as_writable_bytes(std::span(&letter.greeting, 1));
  if (!receive_before(socket, head, deadline)) return Read::closed;
  const Greeting& g = letter.greeting;
  if (g.magic != kMagic || g.version != kVersion || g.run > kLongestText || g.text > kLongestText)
    return Read::stranger;
  letter.run.resize(g.run);
  letter.text.resize(g.text);
  const bool whole =
      receive_before(socket, std::as_writable_bytes(std::span(letter.run)), deadline) &&
      receive_before(socket, std::as_writable_bytes(std::span(letter.text)), deadline);
  return whole ? Read::whole : Read::closed;
}

void check_stop(const Rendezvous& r) {
  require(!r.stop || !r.stop(), Failure::preempted,
          "stopped by a signal while waiting for the other processes");
}

// Tells once that a wait takes long.
class Remark {
 public:
  explicit Remark(const Rendezvous& r) : r_(r), due_(after(r.unremarked)) {}
  void make(const std::function<std::string()>& whom) {
    if (made_ || !r_.tell || Clock::now() < due_) return;
    made_ = true;
    r_.tell(fmt::format("waiting for {} at {}:{}", whom(), r_.address, r_.port));
  }

 private:
  const Rendezvous& r_;
  const Moment due_;
  bool made_ = false;
};

// ---------------------------------------------------------------- process 0

// Process 0's guest book.
struct Guests {
  std::vector<std::string> hosts;
  std::array<std::vector<Handle>, kPurposes> sockets;
  std::string last_refused;  // what was said to whom
  int missing = 0;           // connections

  explicit Guests(int processes) : hosts(processes), missing(kPurposes * (processes - 1)) {
    for (auto& purpose : sockets) purpose.resize(processes);
  }
};

// Why a visitor is no process of this run; empty if it is.
std::string objection(const Rendezvous& r, const Guests& guests, const Letter& letter) {
  const Greeting& g = letter.greeting;
  if (g.processes != r.processes)
    return fmt::format("the run at {}:{} has {} processes, not {}", r.address, r.port, r.processes,
                       g.processes);
  if (letter.run != r.run)
    return fmt::format("the run at {}:{} is \"{}\", not \"{}\"", r.address, r.port, r.run,
                       letter.run);
  if (g.process <= 0 || g.process >= r.processes || g.purpose < 0 || g.purpose >= kPurposes)
    return fmt::format("{} is no other process of {}", g.process, r.processes);
  if (guests.sockets[g.purpose][g.process])
    return fmt::format("process {} is there already, from {}", g.process, guests.hosts[g.process]);
  return {};
}

void admit(const Rendezvous& r, Guests& guests, Handle socket) {
  const Moment deadline = after(std::min(kHello, r.timeout));
  Letter letter;
  if (receive_letter(socket.number(), letter, deadline) != Read::whole) {
    guests.last_refused = "; somebody came who is no process of a run, or of another version";
    return;
  }
  const std::string why = objection(r, guests, letter);
  const Greeting& g = letter.greeting;
  if (!why.empty()) {
    guests.last_refused =
        fmt::format("; process {} from {} was refused: {}", g.process, letter.text, why);
    send_letter(socket.number(), {.text = why}, deadline);
    return;
  }
  guests.hosts[g.process] = letter.text;
  guests.sockets[g.purpose][g.process] = std::move(socket);
  --guests.missing;
}

// "processes 1, 3 of 4": those that have not come.
std::string absent(const Rendezvous& r, const Guests& guests) {
  std::vector<int> numbers;
  for (int p = 1; p < r.processes; ++p)
    if (!guests.sockets[kWork][p] || !guests.sockets[kLife][p]) numbers.push_back(p);
  return fmt::format("process{} {} of {}", numbers.size() == 1 ? "" : "es",
                     fmt::join(numbers, ", "), r.processes);
}

// Tells everybody who came that not all did.
[[noreturn]] void give_up(const Rendezvous& r, const Guests& guests) {
  const std::string why = fmt::format("{} did not come to {}:{} within {:g} s{}", absent(r, guests),
                                      r.address, r.port, r.timeout, guests.last_refused);
  for (const auto& purpose : guests.sockets)
    for (const Handle& socket : purpose)
      if (socket) send_letter(socket.number(), {.text = why}, after(1));
  throw Error(Failure::collective, why);
}

Guests receive_guests(const Rendezvous& r, const Handle& listener) {
  const Moment deadline = after(r.timeout);
  Guests guests(r.processes);
  guests.hosts[0] = this_host_name();
  Remark remark(r);
  while (guests.missing > 0) {
    if (Clock::now() >= deadline) give_up(r, guests);
    check_stop(r);
    remark.make([&] { return absent(r, guests); });
    if (Handle socket = accept_before(listener, std::min(deadline, after(kGlance))))
      admit(r, guests, std::move(socket));
  }
  const Letter welcome{.greeting = {.processes = r.processes, .welcome = 1},
                       .run = r.run,
                       .text = fmt::format("{}", fmt::join(guests.hosts, "\n"))};
  for (const auto& purpose : guests.sockets)
    for (const Handle& socket : purpose)
      if (socket) send_letter(socket.number(), welcome, after(kHello));
  return guests;
}

// ---------------------------------------------------------------- the others

// One attempt; an empty socket, with the reason in `why`, where there is no answer.
Handle knock(const Rendezvous& r, Purpose purpose, Moment deadline, Letter& answer,
             std::string& why) {
  const Moment soon = std::min(deadline, after(kHello));
  Handle socket = connect_before(r.address, r.port, soon, why);
  if (!socket) return {};
  Letter hello{.greeting = {.process = r.process, .processes = r.processes, .purpose = purpose},
               .run = r.run,
               .text = this_host_name()};
  why = "it closed the connection";
  if (!send_letter(socket.number(), std::move(hello), soon)) return {};
  while (wait_for(socket.number(), POLLIN, -1, std::min(deadline, after(kGlance))) == Event::late) {
    check_stop(r);
    why = "it does not answer";
    if (Clock::now() >= deadline) return {};
  }
  const Read read = receive_letter(socket.number(), answer, after(kHello));
  require(read != Read::stranger, Failure::usage,
          "what listens at {}:{} is no process of a run, or of another version", r.address, r.port);
  return read == Read::whole ? std::move(socket) : Handle();
}

Handle reach(const Rendezvous& r, Purpose purpose, Moment deadline, Letter& answer) {
  std::string why;
  Remark remark(r);
  for (double pause = 0.01;; pause = std::min(2 * pause, 0.5)) {
    check_stop(r);
    if (purpose == kWork) remark.make([] { return std::string("process 0"); });
    if (Handle socket = knock(r, purpose, deadline, answer, why)) {
      require(answer.greeting.welcome != 0, Failure::collective,
              "process {} was refused by process 0 at {}:{}: {}", r.process, r.address, r.port,
              answer.text);
      return socket;
    }
    require(after(pause) < deadline, Failure::collective,
            "process {} did not reach process 0 at {}:{} within {:g} s: {}", r.process, r.address,
            r.port, r.timeout, why);
    std::this_thread::sleep_for(std::chrono::duration<double>(pause));
  }
}

std::vector<std::string> lines_of(const std::string& text) {
  std::vector<std::string> lines;
  for (size_t at = 0; at <= text.size();) {
    const size_t end = std::min(text.find('\n', at), text.size());
    lines.push_back(text.substr(at, end - at));
    at = end + 1;
  }
  return lines;
}

// Both connections are begun before either is answered: process 0 answers when all are there.
Guests visit(const Rendezvous& r) {
  const Moment deadline = after(r.timeout);
  Guests guests(r.processes);
  std::array<Letter, kPurposes> answers;
  std::array<std::exception_ptr, kPurposes> errors;
  {
    const auto go = [&](Purpose purpose) {
      try {
        guests.sockets[purpose][0] = reach(r, purpose, deadline, answers[purpose]);
      } catch (...) {
        errors[purpose] = std::current_exception();
      }
    };
    std::jthread life(go, kLife);
    go(kWork);
  }
  for (const std::exception_ptr& error : errors)
    if (error) std::rethrow_exception(error);
  guests.hosts = lines_of(answers[kWork].text);
  guests.hosts.resize(r.processes);
  return guests;
}

}  // namespace

Connection connect_processes(const Rendezvous& r, Handle listener) {
  if (r.process == 0 && !listener) listener = listen_at(r.address, r.port, !r.one_host);
  Guests guests = r.process == 0 ? receive_guests(r, listener) : visit(r);
  std::vector<LifelinePeer> peers;
  for (int p = 0; p < r.processes; ++p)
    peers.push_back({guests.hosts[p], std::move(guests.sockets[kLife][p])});
  Connection made;
  made.lifeline = std::make_shared<SocketLifeline>(r.process, std::move(peers));
  made.wire =
      std::make_shared<SocketWire>(made.lifeline, std::move(guests.sockets[kWork]), r.timeout);
  return made;
}

}  // namespace engine
