#include "tests/engine/wire/processes.h"

#include <thread>

#include "tests/support.h"

namespace engine::test {

Rendezvous rendezvous(int process, int processes, int port, double timeout) {
  return {
      .process = process, .processes = processes, .port = port, .run = "test", .timeout = timeout};
}

std::vector<std::string> run_processes(
    int processes, const std::function<void(int process, Connection& connection)>& body,
    double timeout) {
  Handle listener = listen_at("127.0.0.1", 0, false);
  const int port = port_of(listener);
  std::vector<std::string> messages(processes);
  {
    std::vector<std::jthread> threads;
    for (int p = 0; p < processes; ++p)
      threads.emplace_back([&, p] {
        try {
          Connection connection = connect_processes(rendezvous(p, processes, port, timeout),
                                                    p == 0 ? std::move(listener) : Handle());
          body(p, connection);
        } catch (const Error& error) {
          messages[p] = error.what();
          if (error.kind != Failure::collective) messages[p] += " (of another kind)";
        }
      });
  }
  return messages;
}

}  // namespace engine::test
