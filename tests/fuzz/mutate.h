// Changes to a file, as fuzzers make them.
#pragma once

#include <cstddef>
#include <span>
#include <vector>

#include "engine/rng.h"

namespace engine::test {

using Seed = std::vector<std::byte>;

// A seed, which must exist, with one to eight changes: bits, bytes and numbers (in either byte
// order) set to values where parsers err, pieces removed, repeated, inserted from another seed, the
// end cut off. At most `most` bytes.
Seed mutated(std::span<const Seed> seeds, Rng& rng, size_t most);

}  // namespace engine::test
