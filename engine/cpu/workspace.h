// Hands out the plan's workspace to one step. Steps never overlap, so each takes it from the start.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "engine/program.h"

namespace engine::cpu {

class Workspace {
 public:
  Workspace(std::byte* base, size_t cap, std::string step)
      : base_(base), cap_(cap), step_(std::move(step)) {}
  Workspace(const Program& program, std::string step)
      : Workspace(program.arenas.workspace.at, program.plan.options.workspace, std::move(step)) {}

  const std::string& step() const { return step_; }  // whose it is, for messages

  // `count` elements on cache lines of their own. Throws Error(memory), with the numbers, beyond
  // the cap.
  template <class T>
  T* take(int64_t count) {
    return reinterpret_cast<T*>(take_bytes(static_cast<size_t>(count) * sizeof(T)));
  }

  // As many workers as fit, `wanted` at most, each made by make(workspace, index). What one takes
  // is measured on one of index 1, made without memory: the first may take less. Where not even one
  // fits, making it throws.
  template <class Make>
  auto workers(int wanted, const Make& make) {
    Workspace measured(nullptr, SIZE_MAX, step_);
    make(measured, 1);
    std::vector<decltype(make(*this, 0))> made;
    const int count = fitting(wanted, measured.used_);
    for (int w = 0; w < count; ++w) made.push_back(make(*this, w));
    return made;
  }

 private:
  std::byte* take_bytes(size_t bytes);
  // How many of `wanted` workers fit if each takes that much; at least 1.
  int fitting(int wanted, size_t bytes_each) const;

  std::byte* base_;  // null: nothing is handed out, only counted
  size_t cap_, used_ = 0;
  std::string step_;
};

}  // namespace engine::cpu
