#include "engine/wire/socket_lifeline.h"

#include <fmt/format.h>
#include <poll.h>
#include <sys/socket.h>

#include <algorithm>
#include <array>
#include <cstring>

#include "engine/error.h"

namespace engine {

namespace {

constexpr double kBeat = 1;                        // seconds between signs of life
constexpr double kFarewell = 1;                    // seconds that a good-bye may take
constexpr size_t kLargest = size_t{1} << 20;       // bytes of a message: more is no message of ours
constexpr size_t kLongestQueue = size_t{4} << 20;  // bytes for a peer that does not read

std::span<const std::byte> bytes_of(const std::string& text) {
  return std::as_bytes(std::span(text));
}

std::string text_of(std::span<const std::byte> bytes) {
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

}  // namespace

SocketLifeline::SocketLifeline(int process, std::vector<LifelinePeer> peers) : process_(process) {
  const Moment now = Clock::now();
  for (LifelinePeer& peer : peers)
    peers_.push_back(
        {.status = {.host = std::move(peer.host)}, .heard = now, .socket = std::move(peer.socket)});
  beat_ = leave_by_ = now;
  thread_ = std::thread([this] { run(); });
}

SocketLifeline::~SocketLifeline() {
  {
    const std::lock_guard lock(mutex_);
    tell(Kind::left, process_);
    leaving_ = true;
    leave_by_ = after(kFarewell);
  }
  work_.signal();
  thread_.join();
}

void SocketLifeline::publish(std::span<const std::byte> status) {
  require(status.size() <= kLargest, Failure::internal, "a status of {} bytes", status.size());
  {
    const std::lock_guard lock(mutex_);
    peers_[process_].status.status.assign(status.begin(), status.end());
    tell(Kind::status, process_, status);
  }
  work_.signal();
}

std::vector<PeerStatus> SocketLifeline::peers() const {
  const std::lock_guard lock(mutex_);
  std::vector<PeerStatus> all;
  const Moment now = Clock::now(), relayed = process_ == 0 ? now : peers_[0].heard;
  for (int p = 0; p < processes(); ++p) {
    all.push_back(peers_[p].status);
    const Moment until = p == 0 ? now : relayed;
    if (p != process_)
      all.back().age = std::max(0., std::chrono::duration<double>(until - peers_[p].heard).count());
  }
  return all;
}

std::optional<std::string> SocketLifeline::aborted() const {
  const std::lock_guard lock(mutex_);
  return aborted_;
}

void SocketLifeline::abort(const std::string& why) noexcept {
  try {
    {
      const std::lock_guard lock(mutex_);
      if (aborted_) return;
      aborted_ = fmt::format("{}: {}", name_of(process_), why);
      note_trouble(*aborted_);
      const auto bytes = bytes_of(*aborted_);
      tell(Kind::abort, process_, bytes.first(std::min(bytes.size(), kLargest)));
    }
    work_.signal();
  } catch (const std::exception&) {
    trouble_event_.signal();  // no memory for the message: the connection's end tells the peers
  }
}

std::optional<std::string> SocketLifeline::trouble() const {
  const std::lock_guard lock(mutex_);
  return trouble_;
}

std::string SocketLifeline::name_of(int process) const {
  return fmt::format("process {} (host {})", process, peers_[process].status.host);
}

// ---------------------------------------------------------------- the thread

void SocketLifeline::run() {
  while (serve(kBeat / 2)) {
  }
}

// One round: waits until there is something to send or to receive, at most for `patience` seconds.
// False when the good-bye is said.
bool SocketLifeline::serve(double patience) {
  std::vector<pollfd> fds = {{work_.number(), POLLIN, 0}};
  std::vector<int> whose = {-1};
  {
    const std::lock_guard lock(mutex_);
    if (leaving_ && (all_said() || Clock::now() >= leave_by_)) return false;
    if (leaving_) patience = std::min(patience, 0.05);
    for (int p = 0; p < processes(); ++p) {
      if (!peers_[p].socket) continue;
      const short events = peers_[p].outgoing.empty() ? POLLIN : POLLIN | POLLOUT;
      fds.push_back({peers_[p].socket.number(), events, 0});
      whose.push_back(p);
    }
  }
  poll(fds.data(), fds.size(), static_cast<int>(1000 * patience));
  work_.clear();
  const std::lock_guard lock(mutex_);
  for (size_t i = 1; i < fds.size(); ++i)
    if ((fds[i].revents & ~POLLOUT) != 0) receive(whose[i]);
  if (seconds_since(beat_) >= kBeat && !leaving_) {
    tell(Kind::alive, process_);
    beat_ = Clock::now();
  }
  for (int p = 0; p < processes(); ++p)
    if (peers_[p].socket) flush(p);
  return true;
}

// Everything was sent, and every peer has closed its end, too.
bool SocketLifeline::all_said() const {
  return std::none_of(peers_.begin(), peers_.end(), [](const Peer& p) { return bool(p.socket); });
}

// ---------------------------------------------------------------- sending

void SocketLifeline::send(Peer& peer, Kind kind, int process, std::span<const std::byte> bytes) {
  const bool spare = kind == Kind::alive || kind == Kind::status;
  if (!peer.socket || (spare && peer.outgoing.size() > kLongestQueue)) return;
  const Header header{kind, process, bytes.size()};
  const auto head = std::as_bytes(std::span(&header, 1));
  peer.outgoing.insert(peer.outgoing.end(), head.begin(), head.end());
  peer.outgoing.insert(peer.outgoing.end(), bytes.begin(), bytes.end());
}

// To every peer that this process is connected with, but for the process `but`.
void SocketLifeline::tell(Kind kind, int process, std::span<const std::byte> bytes, int but) {
  for (int p = 0; p < processes(); ++p)
    if (p != but) send(peers_[p], kind, process, bytes);
}

void SocketLifeline::flush(int process) {
  Peer& peer = peers_[process];
  while (peer.socket && !peer.outgoing.empty()) {
    const auto sent = send_some(peer.socket.number(), peer.outgoing);
    if (!sent) return close(process);
    if (*sent == 0) return;
    peer.outgoing.erase(peer.outgoing.begin(),
                        peer.outgoing.begin() + static_cast<ptrdiff_t>(*sent));
  }
  // Nothing follows the good-bye; the peer reads it and closes.
  if (leaving_ && peer.socket) shutdown(peer.socket.number(), SHUT_WR);
}

// ---------------------------------------------------------------- receiving

void SocketLifeline::receive(int process) {
  Peer& peer = peers_[process];
  std::array<std::byte, 1 << 14> block;
  bool open = true;
  for (;;) {
    const auto got = receive_some(peer.socket.number(), block);
    open = got.has_value();
    if (!open || *got == 0) break;
    peer.incoming.insert(peer.incoming.end(), block.begin(),
                         block.begin() + static_cast<ptrdiff_t>(*got));
  }
  size_t at = 0;
  Header header{};
  while (peer.incoming.size() - at >= sizeof header) {
    std::memcpy(&header, peer.incoming.data() + at, sizeof header);
    const bool ours = header.bytes <= kLargest && header.process >= 0 &&
                      header.process < processes() && header.kind <= Kind::left;
    if (!ours) return close(process);
    if (peer.incoming.size() - at - sizeof header < header.bytes) break;
    take(process, header, std::span(peer.incoming).subspan(at + sizeof header, header.bytes));
    at += sizeof header + header.bytes;
  }
  peer.incoming.erase(peer.incoming.begin(), peer.incoming.begin() + static_cast<ptrdiff_t>(at));
  if (!open) close(process);
}

void SocketLifeline::take(int from, const Header& header, std::span<const std::byte> bytes) {
  Peer& about = peers_[header.process];
  const Moment now = Clock::now();
  peers_[from].heard = now;
  if (header.process != process_) about.heard = now;
  switch (header.kind) {
    case Kind::alive: break;
    case Kind::status: about.status.status.assign(bytes.begin(), bytes.end()); break;
    case Kind::abort:
      if (!aborted_) aborted_ = text_of(bytes);
      note_trouble(*aborted_);
      break;
    case Kind::lost:
      about.status.lost = true;
      note_trouble(name_of(header.process) + " was lost");
      break;
    case Kind::left: about.status.left = true; break;
  }
  if (process_ == 0) tell(header.kind, header.process, bytes, from);
}

// The connection to a process has ended: as it should after its good-bye, or after ours.
void SocketLifeline::close(int process) {
  Peer& peer = peers_[process];
  peer.socket = Handle();
  peer.outgoing.clear();
  peer.incoming.clear();
  if (peer.status.left || leaving_) return;
  peer.status.lost = true;
  note_trouble(name_of(process) + " was lost");
  if (process_ == 0) tell(Kind::lost, process);
}

void SocketLifeline::note_trouble(const std::string& what) {
  if (!trouble_) trouble_ = what;
  trouble_event_.signal();
}

}  // namespace engine
