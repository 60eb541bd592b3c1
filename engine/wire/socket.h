// TCP sockets that are never waited for without an end: connections, and bytes through them.
#pragma once

#include <chrono>
#include <cstddef>
#include <optional>
#include <span>
#include <string>
#include <utility>

namespace engine {

// A file descriptor, closed with its owner.
class Handle {
 public:
  Handle() = default;
  explicit Handle(int number) : number_(number) {}
  Handle(Handle&& other) noexcept : number_(std::exchange(other.number_, -1)) {}
  Handle& operator=(Handle&& other) noexcept {
    std::swap(number_, other.number_);
    return *this;
  }
  ~Handle();

  int number() const { return number_; }
  explicit operator bool() const { return number_ >= 0; }

 private:
  int number_ = -1;
};

using Clock = std::chrono::steady_clock;
using Moment = Clock::time_point;
Moment after(double seconds);
double seconds_since(Moment then);

// Readable from the first signal() on.
class Waker {
 public:
  Waker();
  void signal() noexcept;
  void clear() noexcept;
  int number() const { return event_.number(); }

 private:
  Handle event_;
};

// ---- connections, which do not block

// Listens at the address, or at all of this host's with `everywhere`; port 0 is any that is free.
// Throws Error(usage), naming both, where that is refused.
Handle listen_at(const std::string& address, int port, bool everywhere);
// Keeps a free port at the address from others, until somebody listens there.
Handle reserve_port(const std::string& address);
int port_of(const Handle& socket);
// A connection that somebody has begun; empty if nobody came by then. Throws Error(collective)
// where this process can open no more.
Handle accept_before(const Handle& listener, Moment deadline);
// Empty, with the reason in `why`, where nobody listens or the address is not known.
Handle connect_before(const std::string& address, int port, Moment deadline, std::string& why);

// ---- bytes

// A call transfers what is possible at once: the number of bytes, 0 for none, nothing if the
// connection is closed.
std::optional<size_t> send_some(int socket, std::span<const std::byte> bytes);
std::optional<size_t> receive_some(int socket, std::span<std::byte> bytes);

// What ended a wait; in doubt the first of them.
enum class Event { ready, woken, late };
// Waits until the socket can do one of the `events` of poll(2), until the descriptor `wake` is
// readable (-1: none), or until the deadline.
Event wait_for(int socket, short events, int wake, Moment deadline);

// False if the connection is closed or the deadline has come.
bool send_before(int socket, std::span<const std::byte> bytes, Moment deadline);
bool receive_before(int socket, std::span<std::byte> bytes, Moment deadline);

std::string this_host_name();

}  // namespace engine
