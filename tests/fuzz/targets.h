// The parsers of outside bytes, each as a function of some bytes.
#pragma once

#include <cstddef>
#include <span>
#include <string_view>

namespace engine::test {

struct FuzzTarget {
  std::string_view name;
  // Returns whatever the bytes are: what is wrong with them is an Error, which it catches. Any
  // other exception, a finding of a sanitizer or no end is a fault.
  void (*run)(std::span<const std::byte> bytes);
};

std::span<const FuzzTarget> fuzz_targets();

// Null if there is none of that name.
const FuzzTarget* fuzz_target(std::string_view name);

}  // namespace engine::test
