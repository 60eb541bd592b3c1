// A web server of a test, on a port of this machine, in a thread of its own.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

namespace engine::test {

struct HttpReply {
  int status = 200;
  std::string body;
  std::string location{};  // of a redirect
  bool ranges = true;      // answers a Range with 206 and the rest, or 416 beyond the end
  size_t cut_after = std::string::npos;  // bytes of the body, after which the connection ends
};

struct HttpRequest {
  std::string path;
  int64_t from = 0;  // of its Range
};

class HttpServer {
 public:
  // `answer` is called in the server's thread, one request after the other.
  explicit HttpServer(std::function<HttpReply(const HttpRequest&)> answer);
  ~HttpServer();
  HttpServer(const HttpServer&) = delete;
  HttpServer& operator=(const HttpServer&) = delete;

  std::string url(const std::string& path) const;  // "http://127.0.0.1:PORT/path"
  // What was asked for so far.
  std::vector<HttpRequest> requests() const;

 private:
  void serve();
  void reply(int connection);

  std::function<HttpReply(const HttpRequest&)> answer_;
  int port_ = 0;  // known once the listener is there
  int listener_ = -1;
  std::atomic<bool> ends_ = false;
  mutable std::mutex mutex_;
  std::vector<HttpRequest> requests_;  // under mutex_
  std::thread thread_;
};

// A port of this machine on which nobody listens.
int closed_port();

}  // namespace engine::test
