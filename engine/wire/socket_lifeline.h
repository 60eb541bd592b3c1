// The lifeline over sockets. Process 0 is connected with every other and passes on what they say; a
// thread per process sends a sign of life every second and notices at once whose connection closes.
#pragma once

#include <cstdint>
#include <mutex>
#include <thread>
#include <vector>

#include "engine/wire/lifeline.h"
#include "engine/wire/socket.h"

namespace engine {

// A peer, and the connection to it if there is one.
struct LifelinePeer {
  std::string host;
  Handle socket;
};

class SocketLifeline final : public Lifeline {
 public:
  // By process. Process 0 brings a connection to each other process, the others one to process 0.
  SocketLifeline(int process, std::vector<LifelinePeer> peers);
  ~SocketLifeline() override;  // says good-bye; takes at most a second
  SocketLifeline(const SocketLifeline&) = delete;
  SocketLifeline& operator=(const SocketLifeline&) = delete;

  int process() const override { return process_; }
  int processes() const override { return static_cast<int>(peers_.size()); }
  void publish(std::span<const std::byte> status) override;
  // While process 0 is silent the others' signs of life do not arrive, and their ages stand still.
  std::vector<PeerStatus> peers() const override;
  std::optional<std::string> aborted() const override;

  // Tells all processes that this one gives up; the first reason counts. Any thread may call it.
  void abort(const std::string& why) noexcept;
  // Why work that waits for the others should end: one has given up, or was lost.
  std::optional<std::string> trouble() const;
  int trouble_event() const { return trouble_event_.number(); }  // readable once there is trouble
  std::string name_of(int process) const;                        // "process 2 (host x)"

 private:
  enum class Kind : uint32_t { alive, status, abort, lost, left };
  struct Header {
    Kind kind;
    int32_t process;  // of which it is told
    uint64_t bytes;   // that follow
  };
  struct Peer {
    PeerStatus status;
    Moment heard;
    Handle socket;
    std::vector<std::byte> outgoing, incoming;
  };

  void run();
  bool serve(double patience);
  void send(Peer& peer, Kind kind, int process, std::span<const std::byte> bytes = {});
  void tell(Kind kind, int process, std::span<const std::byte> bytes = {}, int but = -1);
  void flush(int process);
  void receive(int process);
  void take(int from, const Header& header, std::span<const std::byte> bytes);
  void close(int process);
  void note_trouble(const std::string& what);
  bool all_said() const;

  const int process_;
  mutable std::mutex mutex_;  // guards what follows
  std::vector<Peer> peers_;
  std::optional<std::string> aborted_, trouble_;
  bool leaving_ = false;
  Moment leave_by_;
  Moment beat_;  // when signs of life are due
  Waker work_, trouble_event_;
  std::thread thread_;  // last: it uses the rest
};

}  // namespace engine
