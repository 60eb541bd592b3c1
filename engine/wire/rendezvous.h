// How the processes of a run find each other: process 0 listens, the others connect, and strangers
// are refused.
#pragma once

#include <functional>
#include <memory>
#include <string>

#include "engine/communicator.h"
#include "engine/wire/socket_lifeline.h"

namespace engine {

struct Rendezvous {
  int process = 0, processes = 1;
  std::string address = "127.0.0.1";  // of process 0's host
  int port = 29500;
  bool one_host = true;  // process 0 listens at `address` alone, else at all of its host's
  // What all processes of a run say alike and others do not: the program, the launcher's number.
  std::string run;
  double timeout = 300;        // seconds, of the rendezvous and of every wait in the wire
  std::function<bool()> stop;  // polled; ends the rendezvous with Error(preempted)
  // Told once, after `unremarked` seconds, for whom this process waits.
  std::function<void(const std::string& whom)> tell;
  double unremarked = 5;
};

struct Connection {
  std::shared_ptr<Wire> wire;
  std::shared_ptr<SocketLifeline> lifeline;
};

// Returns when all processes are there. Process 0 may bring the socket that listens. Throws
// Error(usage) for a process that is refused, and where process 0 cannot listen; Error(collective)
// where not everybody came.
Connection connect_processes(const Rendezvous& rendezvous, Handle listener = {});

}  // namespace engine
