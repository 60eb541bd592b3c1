// What processes know of each other beside the work.
#pragma once

#include <cstddef>
#include <optional>
#include <span>
#include <string>
#include <vector>

namespace engine {

// What processes know of each other beside the work: each publishes its status, and one that is
// gone is noticed at once.
struct PeerStatus {
  std::vector<std::byte> status;  // as it published last; empty: nothing yet
  double age = 0;                 // seconds since a sign of life came
  bool lost = false;              // its connection is closed
  bool left = false;              // it said good-bye: it ended as it should
  std::string host;
};
class Lifeline {
 public:
  virtual ~Lifeline() = default;
  virtual int process() const = 0;
  virtual int processes() const = 0;
  // Replaces what was published before; any thread may call it.
  virtual void publish(std::span<const std::byte> status) = 0;
  // By process, this one included; any thread may call it.
  virtual std::vector<PeerStatus> peers() const = 0;
  virtual std::optional<std::string> aborted() const = 0;  // what a process that gave up said
};

}  // namespace engine
