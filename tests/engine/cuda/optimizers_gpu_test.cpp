// The update on the CUDA backend, in every precision: masters and optimizer state are always float.
#include "engine/error.h"
#include "tests/engine/optimizer_cases.h"
#include "tests/support.h"

using namespace engine;
using namespace engine::test;

namespace {

void with_cuda(std::initializer_list<Precision> precisions,
               const std::function<void(Backend&, Precision)>& body) {
  for (const Precision precision : precisions) {
    std::unique_ptr<Backend> backend;
    try {
      backend = make_cuda_backend({.precision = precision});
    } catch (const Error& error) {
      return note_skipped(error.what());
    }
    body(*backend, precision);
  }
}

}  // namespace

TEST_CASE("the optimizers on CUDA follow torch.optim") {
  with_cuda({Precision::fp32, Precision::fp16, Precision::bf16}, check_optimizer_traces);
}

// In fp32 every share is rounded as the whole is, up to the order of sums.
TEST_CASE("shares of a batch add up on CUDA") {
  with_cuda({Precision::fp32}, [](Backend& backend, Precision precision) {
    check_accumulation(backend, precision, 1e-5);
  });
}

TEST_CASE("training of the head alone on CUDA") {
  with_cuda({Precision::fp32, Precision::fp16}, check_frozen);
}

TEST_CASE("a recipe with everything on CUDA") {
  with_cuda({Precision::fp32, Precision::tf32, Precision::fp16, Precision::bf16}, check_recipe);
}
