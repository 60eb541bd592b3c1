// Compares one training step of every golden model with PyTorch in double.
#include "tools/bench/parity.h"

#include <algorithm>

#include "io/weights/safetensors.h"
#include "models/models.h"
#include "tests/engine/ranks.h"
#include "tests/support.h"

using namespace engine;
namespace fs = std::filesystem;

namespace {

std::vector<fs::path> goldens() {
  std::vector<fs::path> files;
  for (const auto& entry : fs::directory_iterator(ENGINE_SOURCE_DIR "/tests/golden/parity"))
    if (entry.path().extension() == ".safetensors") files.push_back(entry.path());
  std::sort(files.begin(), files.end());
  return files;
}

double worst(const std::vector<ParityRow>& rows) {
  double worst = 0;
  for (const ParityRow& row : rows)
    if (!(row.ours.relative <= worst)) worst = row.ours.relative;
  return worst;
}

ParityReport check_parity(const fs::path& file, Backend& backend, Precision precision,
                          const ParityLimits& limits) {
  const ParityReport report =
      run_parity(read_safetensors(file), backend, {.precision = precision, .deterministic = true});
  const std::string difference = first_difference(report, limits);
  CHECK_MESSAGE(difference.empty(), report.model << ": " << difference);
  MESSAGE(report.model << " in " << report.precision << ": logits " << report.logits.ours.relative
                       << ", worst gradient " << worst(report.gradients)
                       << ", worst running statistic " << worst(report.running));
  return report;
}

}  // namespace

TEST_CASE("the reference in double agrees with PyTorch in double") {
  REQUIRE(goldens().size() == 9);
  const auto backend = make_reference_backend({.precision = Precision::fp64});
  for (const fs::path& file : goldens()) {
    const ParityReport report =
        check_parity(file, *backend, Precision::fp64, parity_limits(Precision::fp64));
    const bool digits = report.model == "mnist_cnn";
    const Graph graph =
        make_model(report.model, {.height = digits ? 28 : 64, .width = digits ? 28 : 64});
    const auto trained = std::count_if(graph.parameters.begin(), graph.parameters.end(),
                                       [](const Parameter& p) { return p.trained(); });
    CHECK(report.gradients.size() == size_t(trained));
    CHECK(report.running.size() == 2 * graph.norms.size());
  }
}

// The goldens have two images. One model of each family; its larger ones have no other steps.
TEST_CASE("two ranks with an image each agree with PyTorch's batch norm over both") {
  for (const char* model : {"efficientnet_b0", "densenet121", "mobilenet_v2", "resnet18"})
    test::run_ranks(2, [&](const Communicator& communicator) {
      const auto backend =
          make_reference_backend({.precision = Precision::fp64, .communicator = communicator});
      const ParityReport report = run_parity(
          read_safetensors(fs::path(ENGINE_SOURCE_DIR "/tests/golden/parity") /
                           (std::string(model) + ".safetensors")),
          *backend,
          {.precision = Precision::fp64, .deterministic = true, .communicator = communicator});
      const std::string difference = first_difference(report, parity_limits(Precision::fp64));
      CHECK_MESSAGE(difference.empty(), report.model << ": " << difference);
      CHECK(report.batch == 2);
    });
}

TEST_CASE("a wrong step is noticed and its first layer named") {
  TensorFile file =
      read_safetensors(ENGINE_SOURCE_DIR "/tests/golden/parity/mnist_cnn.safetensors");
  const auto backend = make_reference_backend({.precision = Precision::fp64});
  const ParityLimits limits = parity_limits(Precision::fp64);
  file.tensors.at("digest/grad/conv2.weight").as<double>()[3] += 1e-6;
  const std::string difference =
      first_difference(run_parity(file, *backend, {.precision = Precision::fp64}), limits);
  CHECK(difference.starts_with("conv2.weight: "));
  file.tensors.at("logits").as<double>()[0] += 1e-6;
  const std::string earlier =
      first_difference(run_parity(file, *backend, {.precision = Precision::fp64}), limits);
  CHECK(earlier.starts_with("logits: "));
  file.tensors.at("logits").as<double>()[0] -= 1e-6;
  ParityReport report = run_parity(file, *backend, {.precision = Precision::fp64});
  report.loss *= 1 + 1e-8;
  CHECK(first_difference(report, limits).starts_with("loss: "));
  CHECK(first_difference(report, parity_limits(Precision::bf16)).empty());
  report.loss *= 1 + 1e-4;
  CHECK(test::mentions(first_difference(report, parity_limits(Precision::bf16)),
                       "that of its logits"));
}

TEST_CASE("before kinks gradients are held to PyTorch's as a whole, else each by itself") {
  const auto backend = make_reference_backend({.precision = Precision::fp64});
  for (const auto& [model, kinks] : {std::pair{"mnist_cnn", true}, {"efficientnet_b0", false}}) {
    const TensorFile file = read_safetensors(fs::path(ENGINE_SOURCE_DIR "/tests/golden/parity") /
                                             (std::string(model) + ".safetensors"));
    CHECK(run_parity(file, *backend, {.precision = Precision::fp64}).kinks == kinks);
  }

  ParityReport report{.kinks = true};
  const auto row = [](double ours, double own) {
    return ParityRow{"w", {.relative = ours}, Distance{.relative = own}};
  };
  for (int i = 0; i < 20; ++i) report.gradients.push_back(row(3e-3, 2e-3));
  report.gradients.push_back(row(5e-3, 1e-7));  // a sign turned, and none of PyTorch's
  report.gradients.push_back(row(1e-7, 5e-3));  // and the other way about
  const ParityLimits limits = parity_limits(Precision::fp32);
  CHECK(first_difference(report, limits).empty());
  report.kinks = false;
  CHECK(first_difference(report, limits) ==
        "w: 5.00e-03 from the reference, at most 1.0e-04 (PyTorch's own: 1.00e-07)");
  report.kinks = true;
  report.gradients[20].ours.relative = 1.1e-2;  // more than twice the worst
  CHECK(first_difference(report, limits) ==
        "w: 1.10e-02 from the reference, at most 1.0e-02 (PyTorch's own: 1.00e-07)");
  report.gradients[20].ours.relative = 5e-3;
  for (int i = 0; i < 20; ++i) report.gradients[i].ours.relative = 5e-3;  // everywhere
  CHECK(first_difference(report, limits) ==
        "gradients: error at the 50th percentile 5.00e-03, PyTorch's own 2.00e-03");
}
