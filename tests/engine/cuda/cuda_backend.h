// The CUDA backend where there is one.
#pragma once

#include <memory>

#include "engine/backend.h"
#include "engine/error.h"
#include "tests/support.h"

namespace engine::test {

// Null, which counts as skipped, where there is no module or no device.
inline std::unique_ptr<Backend> cuda_backend(Precision precision) {
  try {
    return make_cuda_backend({.precision = precision});
  } catch (const Error& error) {
    note_skipped(error.what());
    return nullptr;
  }
}

}  // namespace engine::test
