// The step table on the CUDA backend against the reference in double, in every precision and form.
#include "tests/engine/cuda/cuda_backend.h"
#include "tests/engine/nan_cases.h"
#include "tests/engine/step_cases.h"
#include "tests/support.h"

using namespace engine;
using namespace engine::test;

namespace {

// The limit of a type: some ten stored tensors between image and gradient, each rounded (2⁻¹¹ in
// fp16, 2⁻⁸ in bf16), with the amplification of norms over a few dozen pixels. Near a kink a share
// of the values of about that rounding lands on the other side, and the error is the root of that
// share: √2⁻¹¹ = 2e-2, √2⁻⁸ = 6e-2, times the same amplification.
void check_form(Precision precision, ConvForm conv, bool deterministic, const Limits& limits) {
  const auto backend = cuda_backend(precision);
  if (!backend) return;
  check_steps(*backend, {.precision = precision, .conv = conv, .deterministic = deterministic},
              limits);
}

void check_forms(Precision precision, const Limits& limits) {
  for (ConvForm conv : {ConvForm::fused, ConvForm::library})
    for (bool deterministic : {true, false}) check_form(precision, conv, deterministic, limits);
}

}  // namespace

TEST_CASE("every step on CUDA in strict fp32 agrees with the reference in double") {
  check_forms(Precision::fp32, {.error = 1e-5});
}

TEST_CASE("every step on CUDA in fp16 agrees with the reference in double") {
  check_forms(Precision::fp16, {.error = 1e-2, .kinks = 1e-1});
}

TEST_CASE("every step on CUDA in bf16 agrees with the reference in double") {
  check_forms(Precision::bf16, {.error = 5e-2, .kinks = 3e-1});
}

TEST_CASE("mixed and packed batches on CUDA agree with the reference in double") {
  const std::pair<Precision, double> limits[] = {
      {Precision::fp32, 1e-5}, {Precision::fp16, 1e-2}, {Precision::bf16, 5e-2}};
  for (const auto& [precision, error] : limits) {
    const auto backend = cuda_backend(precision);
    if (!backend) return;
    check_inputs(*backend, {.precision = precision}, {.error = error});
  }
}

TEST_CASE("what is not finite goes on and is found on CUDA") {
  for (const Precision precision : {Precision::fp32, Precision::fp16, Precision::bf16}) {
    const auto backend = cuda_backend(precision);
    if (!backend) return;
    for (const ConvForm conv : {ConvForm::fused, ConvForm::library})
      check_nan_propagates(*backend, {.precision = precision, .conv = conv, .deterministic = true});
    check_inspection(*backend, {.precision = precision, .deterministic = true});
  }
}
