// The same parsers under libFuzzer. $ENGINE_FUZZ_TARGET names one of targets.cpp.
#include <cstdint>
#include <cstdio>
#include <cstdlib>

#include "tests/fuzz/targets.h"

namespace {

const engine::test::FuzzTarget& chosen() {
  static const engine::test::FuzzTarget* const target = [] {
    const char* name = std::getenv("ENGINE_FUZZ_TARGET");
    const auto* found = name ? engine::test::fuzz_target(name) : nullptr;
    if (found) return found;
    std::fprintf(stderr, "ENGINE_FUZZ_TARGET must be one of:");
    for (const auto& known : engine::test::fuzz_targets())
      std::fprintf(stderr, " %.*s", int(known.name.size()), known.name.data());
    std::fprintf(stderr, "\n");
    std::exit(2);
  }();
  return *target;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  chosen().run(std::as_bytes(std::span(data, size)));
  return 0;
}
