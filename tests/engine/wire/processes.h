// Processes of a run as threads with sockets between them.
#pragma once

#include <functional>

#include "engine/wire/rendezvous.h"

namespace engine::test {

// What a process of `processes` says where it is to meet the others at the port.
Rendezvous rendezvous(int process, int processes, int port, double timeout = 20);

// Calls body(process, connection) on a thread per process, connected at a free port. Returns what
// each threw: "" for nothing, else the message of an Error(collective); any other exception fails
// the test.
std::vector<std::string> run_processes(
    int processes, const std::function<void(int process, Connection& connection)>& body,
    double timeout = 20);

}  // namespace engine::test
