#include "tests/io/files/http_server.h"

#include <arpa/inet.h>
#include <fmt/format.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <utility>

#include "tests/support.h"

namespace engine::test {
namespace {

int listen_anywhere(int& port) {
  const int listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  sockaddr_in address{.sin_family = AF_INET, .sin_addr = {htonl(INADDR_LOOPBACK)}};
  socklen_t size = sizeof address;
  auto* const generic = reinterpret_cast<sockaddr*>(&address);
  REQUIRE(bind(listener, generic, size) == 0);
  REQUIRE(listen(listener, 16) == 0);
  REQUIRE(getsockname(listener, generic, &size) == 0);
  port = ntohs(address.sin_port);
  return listener;
}

void send_all(int connection, const std::string& text) {
  for (size_t done = 0; done < text.size();) {
    const ssize_t n = send(connection, text.data() + done, text.size() - done, MSG_NOSIGNAL);
    if (n <= 0) return;
    done += static_cast<size_t>(n);
  }
}

std::string read_head(int connection) {
  std::string head;
  char part[1024];
  while (head.find("\r\n\r\n") == std::string::npos) {
    const ssize_t n = recv(connection, part, sizeof part, 0);
    if (n <= 0) break;
    head.append(part, static_cast<size_t>(n));
  }
  return head;
}

HttpRequest parse(const std::string& head) {
  HttpRequest request;
  const size_t path = head.find(' ') + 1;
  request.path = head.substr(path, head.find(' ', path) - path);
  if (const size_t range = head.find("Range: bytes="); range != std::string::npos)
    request.from = std::atoll(head.c_str() + range + 13);
  return request;
}

}  // namespace

HttpServer::HttpServer(std::function<HttpReply(const HttpRequest&)> answer)
    : answer_(std::move(answer)), listener_(listen_anywhere(port_)), thread_([this] { serve(); }) {}

HttpServer::~HttpServer() {
  ends_ = true;
  thread_.join();
  close(listener_);
}

std::string HttpServer::url(const std::string& path) const {
  return fmt::format("http://127.0.0.1:{}{}", port_, path);
}

std::vector<HttpRequest> HttpServer::requests() const {
  const std::scoped_lock lock(mutex_);
  return requests_;
}

void HttpServer::serve() {
  while (!ends_) {
    pollfd waiting{.fd = listener_, .events = POLLIN};
    if (poll(&waiting, 1, 20) <= 0) continue;
    const int connection = accept4(listener_, nullptr, nullptr, SOCK_CLOEXEC);
    if (connection < 0) continue;
    reply(connection);
    close(connection);
  }
}

void HttpServer::reply(int connection) {
  const HttpRequest request = parse(read_head(connection));
  {
    const std::scoped_lock lock(mutex_);
    requests_.push_back(request);
  }
  HttpReply reply = answer_(request);
  std::string more;
  if (reply.status == 200 && reply.ranges && request.from > 0) {
    const auto size = static_cast<int64_t>(reply.body.size());
    reply.status = request.from < size ? 206 : 416;
    more = fmt::format("Content-Range: bytes {}-{}/{}\r\n", request.from, size - 1, size);
    reply.body.erase(0, static_cast<size_t>(std::min(request.from, size)));
  }
  if (!reply.location.empty()) more += fmt::format("Location: {}\r\n", reply.location);
  send_all(connection, fmt::format("HTTP/1.1 {} of a test\r\nContent-Length: {}\r\n{}"
                                   "Connection: close\r\n\r\n",
                                   reply.status, reply.body.size(), more));
  send_all(connection, reply.body.substr(0, reply.cut_after));
}

int closed_port() {
  int port = 0;
  close(listen_anywhere(port));
  return port;
}

}  // namespace engine::test
