// What a machine without CUDA, or without a GPU, is told.
#include <string>

#include "engine/backend.h"
#include "engine/cuda_module.h"
#include "engine/error.h"
#include "tests/support.h"

using namespace engine;

namespace {

// The error of an attempt to make a backend on `device`; fails the test if there is none.
Error refused(int device) {
  try {
    make_cuda_backend({.device = device});
  } catch (const Error& e) {
    return e;
  }
  FAIL("no error");
  return {Failure::internal, ""};
}

}  // namespace

TEST_CASE("a device that is not there is a usage error in one line") {
  const Error e = refused(1000);
  const std::string message = e.what();
  CAPTURE(message);
  CHECK(e.kind == Failure::usage);
  CHECK(message.starts_with("--device cuda: "));
  CHECK(message.find('\n') == std::string::npos);
}

TEST_CASE("the module is opened or named as missing") {
  try {
    for (const GpuInfo& gpu : cuda_devices()) CHECK(gpu.memory > 0);
    CHECK(cuda_versions().starts_with("CUDA "));
  } catch (const Error& e) {
    CHECK(e.kind == Failure::usage);
    CHECK(std::string(e.what()).starts_with("--device cuda: "));
  }
}
