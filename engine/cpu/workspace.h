// Hands out the plan's workspace to one step: every step uses it from the start, since steps never overlap.
#pragma once

#include <string>
#include <utility>

#include "engine/program.h"

namespace engine::cpu {

// Bytes of T, padded so that what follows starts on a cache line of its own.
template <class T>
constexpr size_t block_bytes(int64_t count) {
  return (static_cast<size_t>(count) * sizeof(T) + 63) / 64 * 64;
}

class Workspace {
 public:
  Workspace(std::byte* base, size_t cap, std::string step)
      : base_(base), cap_(cap), step_(std::move(step)) {}
  Workspace(const Program& program, std::string step)
      : Workspace(program.arenas.workspace.at, program.plan.options.workspace, std::move(step)) {}

  // `count` elements, 64-byte aligned. Throws Error(memory), with the numbers, beyond the cap.
  template <class T>
  T* take(int64_t count) {
    return reinterpret_cast<T*>(take_bytes(block_bytes<T>(count)));
  }
  // How many of `wanted` workers fit if each takes that much; at least 1, whose take then fails.
  int workers(int wanted, size_t bytes_each) const;

 private:
  std::byte* take_bytes(size_t bytes);

  std::byte* base_;
  size_t cap_, used_ = 0;
  std::string step_;
};

}  // namespace engine::cpu
