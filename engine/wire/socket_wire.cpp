#include "engine/wire/socket_wire.h"

#include <fmt/format.h>
#include <poll.h>

#include <algorithm>
#include <cstring>

#include "engine/error.h"

namespace engine {

namespace {

// Of a sum: process 0 adds one while the others send the next. It fits a socket's buffer.
constexpr size_t kChunk = size_t{128} << 10;
constexpr double kAfterthought = 1;  // seconds in which the lifeline may say why a connection ended

}  // namespace

SocketWire::SocketWire(std::shared_ptr<SocketLifeline> lifeline, std::vector<Handle> peers,
                       double timeout)
    : lifeline_(std::move(lifeline)), peers_(std::move(peers)), timeout_(timeout) {}

const char* SocketWire::name_of(Kind kind) {
  switch (kind) {
    case Kind::barrier: return "barrier";
    case Kind::broadcast: return "broadcast";
    case Kind::gather: return "gather";
    case Kind::sum: return "sum";
    case Kind::count: break;
  }
  return "unknown operation";
}

// ---------------------------------------------------------------- operations

void SocketWire::barrier() {
  if (process() != 0) {
    send_header(0, Kind::barrier, 0);
    receive_header(0, Kind::barrier);
  } else {
    for (int p = 1; p < processes(); ++p) receive_header(p, Kind::barrier);
    for (int p = 1; p < processes(); ++p) send_header(p, Kind::barrier, 0);
  }
  ++number_;
}

void SocketWire::broadcast(std::span<std::byte> bytes) {
  if (process() != 0) {
    check_bytes(0, Kind::broadcast, receive_header(0, Kind::broadcast), bytes.size());
    receive(0, bytes);
  } else {
    for (int p = 1; p < processes(); ++p) {
      send_header(p, Kind::broadcast, bytes.size());
      send(p, bytes);
    }
  }
  ++number_;
}

std::vector<std::vector<std::byte>> SocketWire::gather(std::span<const std::byte> bytes) {
  std::vector<std::vector<std::byte>> all(processes());
  if (process() != 0) {
    send_header(0, Kind::gather, bytes.size());
    send(0, bytes);
    for (auto& part : all) {
      part.resize(receive_header(0, Kind::gather));
      receive(0, part);
    }
  } else {
    all[0].assign(bytes.begin(), bytes.end());
    for (int p = 1; p < processes(); ++p) {
      all[p].resize(receive_header(p, Kind::gather));
      receive(p, all[p]);
    }
    for (int p = 1; p < processes(); ++p)
      for (const auto& part : all) {
        send_header(p, Kind::gather, part.size());
        send(p, part);
      }
  }
  ++number_;
  return all;
}

void SocketWire::sum(std::span<float> values) {
  add_up(values);
}

void SocketWire::sum(std::span<double> values) {
  add_up(values);
}

template <class R>
void SocketWire::add_up(std::span<R> values) {
  const uint64_t bytes = values.size_bytes();
  if (process() != 0) {
    send_header(0, Kind::sum, bytes);
    exchange(std::as_writable_bytes(values), kChunk);
    check_bytes(0, Kind::sum, receive_header(0, Kind::sum), bytes);
  } else {
    for (int p = 1; p < processes(); ++p)
      check_bytes(p, Kind::sum, receive_header(p, Kind::sum), bytes);
    for (size_t at = 0; at < values.size(); at += kChunk / sizeof(R))
      add_up_here(values.subspan(at, std::min(kChunk / sizeof(R), values.size() - at)));
    for (int p = 1; p < processes(); ++p) send_header(p, Kind::sum, bytes);
  }
  ++number_;
}

// One chunk, in process order.
template <class R>
void SocketWire::add_up_here(std::span<R> values) {
  chunk_.resize(kChunk);
  const auto theirs = std::span(chunk_).first(values.size_bytes());
  const R* other = reinterpret_cast<const R*>(theirs.data());
  for (int p = 1; p < processes(); ++p) {
    receive(p, theirs);
    for (size_t i = 0; i < values.size(); ++i) values[i] += other[i];
  }
  for (int p = 1; p < processes(); ++p) send(p, std::as_bytes(values));
}

// Sends the values chunk by chunk to process 0 and takes their sums in their place, both at once: a
// chunk may be replaced once it has left.
void SocketWire::exchange(std::span<std::byte> values, size_t chunk) {
  size_t sent = 0, got = 0;
  const int socket = peers_[0].number();
  while (got < values.size()) {
    const size_t whole = sent == values.size() ? sent : sent / chunk * chunk;
    const auto out = send_some(socket, values.subspan(sent));
    const auto in = receive_some(socket, values.subspan(got, whole - got));
    if (!out || (!in && whole > got)) fail_closed(0);
    sent += *out;
    got += in.value_or(0);
    if (*out == 0 && in.value_or(0) == 0)
      wait(0,
           static_cast<short>((sent < values.size() ? POLLOUT : 0) | (whole > got ? POLLIN : 0)));
  }
}

// ---------------------------------------------------------------- messages

void SocketWire::send_header(int peer, Kind kind, uint64_t bytes) {
  const Header header{kind, number_, bytes};
  send(peer, std::as_bytes(std::span(&header, 1)));
}

uint64_t SocketWire::receive_header(int peer, Kind kind) {
  Header header{};
  receive(peer, std::as_writable_bytes(std::span(&header, 1)));
  if (header.kind != kind || header.number != number_)
    fail_at(peer, fmt::format("it is in {} #{}, this one in {} #{}", name_of(header.kind),
                              header.number, name_of(kind), number_));
  return header.bytes;
}

void SocketWire::check_bytes(int peer, Kind kind, uint64_t theirs, uint64_t ours) const {
  if (theirs != ours)
    fail_at(peer, fmt::format("it has {} bytes in {} #{}, this one {}", theirs, name_of(kind),
                              number_, ours));
}

void SocketWire::send(int peer, std::span<const std::byte> bytes) {
  while (!bytes.empty()) {
    const auto sent = send_some(peers_[peer].number(), bytes);
    if (!sent) fail_closed(peer);
    bytes = bytes.subspan(*sent);
    if (*sent == 0) wait(peer, POLLOUT);
  }
}

void SocketWire::receive(int peer, std::span<std::byte> bytes) {
  while (!bytes.empty()) {
    const auto got = receive_some(peers_[peer].number(), bytes);
    if (!got) fail_closed(peer);
    bytes = bytes.subspan(*got);
    if (*got == 0) wait(peer, POLLIN);
  }
}

void SocketWire::wait(int peer, short events) {
  switch (wait_for(peers_[peer].number(), events, lifeline_->trouble_event(), after(timeout_))) {
    case Event::ready: return;
    case Event::woken: throw Error(Failure::collective, lifeline_->trouble().value_or("aborted"));
    case Event::late: fail_at(peer, fmt::format("nothing came for {:g} s", timeout_));
  }
}

void SocketWire::fail_at(int peer, const std::string& what) const {
  fail(Failure::collective, "{}: {}", lifeline_->name_of(peer), what);
}

// A process that gives up says why on its lifeline and closes the rest at the same time.
void SocketWire::fail_closed(int peer) const {
  wait_for(-1, 0, lifeline_->trouble_event(), after(kAfterthought));
  if (const auto why = lifeline_->trouble()) throw Error(Failure::collective, *why);
  fail_at(peer, "it has ended");
}

}  // namespace engine
