// Compares one training step of every golden model on the CPU backend, in float, with PyTorch in
// double.
#include <algorithm>
#include <map>

#include "io/weights/safetensors.h"
#include "tests/support.h"
#include "tools/bench/parity.h"

using namespace engine;

namespace {

// How far PyTorch 1.13 itself is off in float on a CPU, measured with the same file: a batch of two
// at 64 px ends in norms over eight pixels, which amplify rounding. In ResNet-50 a sum near 0 then
// lands on the other side of its ReLU, which moves every gradient below it.
struct Own {
  double logits, median_gradient, worst_gradient, running;
};
const std::map<std::string, Own> kOwn = {
    {"densenet121", {1.1e-5, 1.0e-4, 3.5e-3, 9.0e-7}},
    {"efficientnet_b0", {9.2e-6, 5.5e-5, 1.8e-3, 2.9e-6}},
    {"efficientnet_b3", {2.1e-5, 9.9e-5, 1.2e-3, 8.3e-6}},
    {"efficientnet_b5", {6.6e-5, 3.7e-4, 1.4e-3, 4.4e-6}},
    {"efficientnet_v2_s", {3.3e-5, 2.5e-4, 6.3e-4, 2.7e-5}},
    {"mnist_cnn", {3.0e-6, 1.4e-6, 2.2e-6, 0}},
    {"mobilenet_v2", {2.8e-5, 2.1e-4, 2.2e-3, 9.0e-6}},
    {"resnet18", {4.7e-6, 8.3e-6, 1.2e-5, 5.8e-7}},
    {"resnet50", {4.2e-5, 2.5e-2, 3.6e-2, 1.4e-5}},
};

std::vector<double> sorted_errors(const std::vector<ParityRow>& rows) {
  std::vector<double> errors;
  for (const ParityRow& row : rows) errors.push_back(row.ours.relative);
  std::sort(errors.begin(), errors.end());
  return errors;
}

}  // namespace

// The bound is three times PyTorch's own error: another order of summation is another sample of the
// same rounding, and the digests of the goldens estimate a distance to within about a half.
TEST_CASE("the CPU backend in float is as close to double as PyTorch in float") {
  const auto backend = make_cpu_backend({});
  for (const auto& [model, own] : kOwn) {
    const TensorFile file =
        read_safetensors(ENGINE_SOURCE_DIR "/tests/golden/parity/" + model + ".safetensors");
    const ParityReport report = run_parity(file, *backend, {});
    const auto gradients = sorted_errors(report.gradients), running = sorted_errors(report.running);
    constexpr double kFactor = 3;
    CHECK_MESSAGE(report.logits.ours.relative <= kFactor * own.logits, model);
    CHECK_MESSAGE(gradients[gradients.size() / 2] <= kFactor * own.median_gradient, model);
    CHECK_MESSAGE(gradients.back() <= kFactor * own.worst_gradient, model);
    if (!running.empty()) CHECK_MESSAGE(running.back() <= kFactor * own.running, model);
    MESSAGE(model << ": logits " << report.logits.ours.relative << ", gradients median "
                  << gradients[gradients.size() / 2] << ", worst " << gradients.back()
                  << ", running " << (running.empty() ? 0 : running.back()));
  }
}
