// The wire over sockets: a star around process 0, which adds up in process order and hands out the
// result. Every message says which operation it belongs to, so that processes that do different
// things are told apart at once.
#pragma once

#include <memory>
#include <vector>

#include "engine/communicator.h"
#include "engine/wire/socket.h"
#include "engine/wire/socket_lifeline.h"

namespace engine {

class SocketWire final : public Wire {
 public:
  // `peers` by process: process 0 brings a connection to each other process, the others one to
  // process 0. An operation ends with Error(collective) where a peer moves no byte for `timeout`
  // seconds.
  SocketWire(std::shared_ptr<SocketLifeline> lifeline, std::vector<Handle> peers, double timeout);

  int process() const override { return lifeline_->process(); }
  int processes() const override { return lifeline_->processes(); }
  void barrier() override;
  void broadcast(std::span<std::byte> bytes) override;
  std::vector<std::vector<std::byte>> gather(std::span<const std::byte> bytes) override;
  void sum(std::span<float> values) override;
  void sum(std::span<double> values) override;
  void abort(const std::string& why) noexcept override { lifeline_->abort(why); }

 private:
  enum class Kind : uint32_t { barrier, broadcast, gather, sum, count };
  // Of an operation, before its bytes.
  struct Header {
    Kind kind;
    uint32_t number;  // of the operation, from 0
    uint64_t bytes;   // that follow
  };
  static const char* name_of(Kind kind);

  // Each of these ends with the bytes transferred, or throws.
  void send(int peer, std::span<const std::byte> bytes);
  void receive(int peer, std::span<std::byte> bytes);
  void send_header(int peer, Kind kind, uint64_t bytes);
  uint64_t receive_header(int peer, Kind kind);
  void check_bytes(int peer, Kind kind, uint64_t theirs, uint64_t ours) const;
  void wait(int peer, short events);
  [[noreturn]] void fail_at(int peer, const std::string& what) const;
  [[noreturn]] void fail_closed(int peer) const;
  template <class R>
  void add_up(std::span<R> values);
  template <class R>
  void add_up_here(std::span<R> values);
  void exchange(std::span<std::byte> values, size_t chunk);

  std::shared_ptr<SocketLifeline> lifeline_;
  std::vector<Handle> peers_;
  double timeout_;
  uint32_t number_ = 0;
  std::vector<std::byte> chunk_;
};

}  // namespace engine
