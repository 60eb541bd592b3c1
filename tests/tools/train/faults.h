// Calls for files and threads that go wrong when told to. Linked into a test, or preloaded into a
// program, they stand in front of the C library's. $ENGINE_FAULT, "KIND ERROR AT PATH" in numbers
// and a text, arms them when the program starts.
#pragma once

#include <string>
#include <vector>

namespace engine::test {

enum class FaultKind {
  none,         // calls are only counted
  once,         // one call fails with `error`
  lasting,      // that call and all later ones
  short_write,  // half of what is to be written is; other calls are as always
  kill,         // SIGKILL before the call
};

// The call that goes wrong is number `at`, from 0, of those whose path contains `path` and of those
// on files that were opened so.
struct Fault {
  FaultKind kind = FaultKind::none;
  int error = 0;  // errno
  int at = 0;
  std::string path;  // empty: nothing is counted
};

constexpr char kThreads[] = "/threads";  // the path of calls that start a thread

void arm(const Fault& fault);
std::vector<std::string> calls_seen();  // since then: "rename step_00000002.safetensors"

}  // namespace engine::test
