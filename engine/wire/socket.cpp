#include "engine/wire/socket.h"

#include <fcntl.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <climits>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <memory>

#include "engine/error.h"

namespace engine {

namespace {

using Addresses = std::unique_ptr<addrinfo, decltype([](addrinfo* a) { freeaddrinfo(a); })>;

// Null, with the reason in `why`, where the name is not known.
Addresses resolve(const char* address, int port, int flags, std::string& why) {
  addrinfo hints{}, *found = nullptr;
  hints.ai_socktype = SOCK_STREAM;
  hints.ai_flags = flags | AI_NUMERICSERV;
  const int error = getaddrinfo(address, std::to_string(port).c_str(), &hints, &found);
  if (error != 0) why = gai_strerror(error);
  return Addresses(error == 0 ? found : nullptr);
}

Handle make_socket(const addrinfo& a) {
  return Handle(socket(a.ai_family, a.ai_socktype | SOCK_NONBLOCK | SOCK_CLOEXEC, a.ai_protocol));
}

// Small messages leave at once.
void set_up(const Handle& socket) {
  const int on = 1;
  setsockopt(socket.number(), IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
}

int milliseconds_until(Moment deadline) {
  const double left = std::chrono::duration<double, std::milli>(deadline - Clock::now()).count();
  return static_cast<int>(std::clamp(std::ceil(left), 0., 1e9));
}

bool would_block(int error) {
  return error == EAGAIN || error == EWOULDBLOCK || error == EINTR;
}

Handle try_to_connect(const addrinfo& a, Moment deadline, std::string& why) {
  Handle socket = make_socket(a);
  int error = socket && connect(socket.number(), a.ai_addr, a.ai_addrlen) == 0 ? 0 : errno;
  if (error == EINPROGRESS) {
    socklen_t size = sizeof error;
    if (wait_for(socket.number(), POLLOUT, -1, deadline) != Event::ready)
      error = ETIMEDOUT;
    else
      getsockopt(socket.number(), SOL_SOCKET, SO_ERROR, &error, &size);
  }
  if (error != 0) {
    why = std::strerror(error);
    return {};
  }
  set_up(socket);
  return socket;
}

// Null is every address of this host; messages say `name`.
Handle bind_to(const char* address, const std::string& name, int port) {
  std::string why;
  const Addresses found = resolve(address, port, AI_PASSIVE, why);
  require(bool(found), Failure::usage, "{}: {}", name, why);
  for (const addrinfo* a = found.get(); a; a = a->ai_next) {
    Handle socket = make_socket(*a);
    const int on = 1;
    if (socket) setsockopt(socket.number(), SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    if (socket && bind(socket.number(), a->ai_addr, a->ai_addrlen) == 0) return socket;
    why = std::strerror(errno);
  }
  fail(Failure::usage, "cannot listen at {}:{}: {}; another MASTER_PORT may be free", name, port,
       why);
}

}  // namespace

Handle::~Handle() {
  if (number_ >= 0) close(number_);
}

Moment after(double seconds) {
  return Clock::now() +
         std::chrono::duration_cast<Clock::duration>(std::chrono::duration<double>(seconds));
}

double seconds_since(Moment then) {
  return std::chrono::duration<double>(Clock::now() - then).count();
}

Waker::Waker() : event_(eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC)) {
  require(bool(event_), Failure::internal, "eventfd: {}", std::strerror(errno));
}

void Waker::signal() noexcept {
  const uint64_t one = 1;
  [[maybe_unused]] const ssize_t written = write(event_.number(), &one, sizeof one);
}

void Waker::clear() noexcept {
  uint64_t count = 0;
  [[maybe_unused]] const ssize_t taken = read(event_.number(), &count, sizeof count);
}

// ---------------------------------------------------------------- connections

Handle listen_at(const std::string& address, int port, bool everywhere) {
  Handle socket = bind_to(everywhere ? nullptr : address.c_str(), address, port);
  require(listen(socket.number(), SOMAXCONN) == 0, Failure::usage,
          "cannot listen at {}:{}: {}; another MASTER_PORT may be free", address, port,
          std::strerror(errno));
  return socket;
}

Handle reserve_port(const std::string& address) {
  return bind_to(address.c_str(), address, 0);
}

int port_of(const Handle& socket) {
  sockaddr_storage address{};
  socklen_t size = sizeof address;
  getsockname(socket.number(), reinterpret_cast<sockaddr*>(&address), &size);
  return ntohs(address.ss_family == AF_INET6 ? reinterpret_cast<sockaddr_in6&>(address).sin6_port
                                             : reinterpret_cast<sockaddr_in&>(address).sin_port);
}

Handle accept_before(const Handle& listener, Moment deadline) {
  for (;;) {
    Handle socket(accept4(listener.number(), nullptr, nullptr, SOCK_NONBLOCK | SOCK_CLOEXEC));
    if (socket) {
      set_up(socket);
      return socket;
    }
    const bool exhausted =
        errno == EMFILE || errno == ENFILE || errno == ENOBUFS || errno == ENOMEM;
    require(!exhausted, Failure::collective, "accept: {}", std::strerror(errno));
    // Any other failure is of the connection, which is off the queue.
    if (Clock::now() >= deadline) return {};
    if (wait_for(listener.number(), POLLIN, -1, deadline) != Event::ready) return {};
  }
}

Handle connect_before(const std::string& address, int port, Moment deadline, std::string& why) {
  const Addresses found = resolve(address.c_str(), port, 0, why);
  for (const addrinfo* a = found.get(); a; a = a->ai_next)
    if (Handle socket = try_to_connect(*a, deadline, why)) return socket;
  return {};
}

// ---------------------------------------------------------------- bytes

std::optional<size_t> send_some(int socket, std::span<const std::byte> bytes) {
  const ssize_t sent = send(socket, bytes.data(), bytes.size(), MSG_NOSIGNAL);
  if (sent >= 0) return static_cast<size_t>(sent);
  if (would_block(errno)) return 0;
  return std::nullopt;
}

std::optional<size_t> receive_some(int socket, std::span<std::byte> bytes) {
  if (bytes.empty()) return 0;
  const ssize_t got = recv(socket, bytes.data(), bytes.size(), 0);
  if (got > 0) return static_cast<size_t>(got);
  if (got < 0 && would_block(errno)) return 0;
  return std::nullopt;
}

Event wait_for(int socket, short events, int wake, Moment deadline) {
  for (;;) {
    std::array<pollfd, 2> fds{{{socket, events, 0}, {wake, POLLIN, 0}}};
    const int count = poll(fds.data(), fds.size(), milliseconds_until(deadline));
    if (fds[0].revents != 0 && count > 0) return Event::ready;
    if (fds[1].revents != 0 && count > 0) return Event::woken;
    if (count == 0 && Clock::now() >= deadline) return Event::late;
  }
}

bool send_before(int socket, std::span<const std::byte> bytes, Moment deadline) {
  while (!bytes.empty()) {
    const auto sent = send_some(socket, bytes);
    if (!sent) return false;
    bytes = bytes.subspan(*sent);
    if (*sent == 0 && wait_for(socket, POLLOUT, -1, deadline) != Event::ready) return false;
  }
  return true;
}

bool receive_before(int socket, std::span<std::byte> bytes, Moment deadline) {
  while (!bytes.empty()) {
    const auto got = receive_some(socket, bytes);
    if (!got) return false;
    bytes = bytes.subspan(*got);
    if (*got == 0 && wait_for(socket, POLLIN, -1, deadline) != Event::ready) return false;
  }
  return true;
}

std::string this_host_name() {
  std::array<char, HOST_NAME_MAX + 1> name{};
  return gethostname(name.data(), name.size() - 1) == 0 ? name.data() : "unknown";
}

}  // namespace engine
