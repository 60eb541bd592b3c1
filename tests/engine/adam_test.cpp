// The update formulas against traces of torch.optim, recorded by tools/compare/optimizers.py.
#include <algorithm>
#include <array>
#include <cmath>
#include <fstream>
#include <nlohmann/json.hpp>

#include "engine/optimizer.h"
#include "tests/support.h"

using namespace engine;
using nlohmann::json;

namespace {

OptimizerConfig config_of(const json& recipe) {
  OptimizerConfig config;
  if (recipe["optimizer"] == "adam") {
    config.beta1 = recipe["betas"][0];
    config.beta2 = recipe["betas"][1];
    config.eps = recipe["eps"];
  } else {
    config.kind = OptimizerConfig::Kind::sgd;
    config.momentum = recipe["momentum"];
  }
  return config;
}

// The largest difference over one tensor's trace; relative where values exceed one.
template <class R>
double worst_difference(const json& recipe, const json& tensor) {
  return visit_update(config_of(recipe), [&]<class Step>(Step step) {
    const std::vector<double> start = tensor["start"];
    std::vector<R> w(start.begin(), start.end());
    std::vector<std::array<R, Step::kMoments>> moments(w.size());
    const auto& expected = recipe["values"][tensor["name"].template get<std::string>()];
    double worst = 0;
    for (size_t t = 0; t < expected.size(); ++t) {
      begin(step, recipe["lr"], static_cast<int64_t>(t));
      const Step s = of_group(step, {.weight_decay = recipe["weight_decay"]});
      for (size_t i = 0; i < w.size(); ++i) {
        R m[Step::kMoments];
        std::copy_n(moments[i].begin(), Step::kMoments, m);
        update(w[i], m, R(tensor["gradients"][t][i].template get<double>()), s);
        std::copy_n(m, Step::kMoments, moments[i].begin());
        const double theirs = expected[t][i];
        worst = std::max(worst, std::abs(w[i] - theirs) / std::max(1., std::abs(theirs)));
      }
    }
    return worst;
  });
}

}  // namespace

TEST_CASE("Adam and SGD follow torch.optim") {
  std::ifstream file(ENGINE_SOURCE_DIR "/tests/golden/adam.json");
  REQUIRE(file);
  const json record = json::parse(file);
  int traces = 0;
  for (const json& recipe : record["traces"])
    for (const json& tensor : record["tensors"]) {
      const bool wide = recipe["precision"] == "f64";
      const double worst =
          wide ? worst_difference<double>(recipe, tensor) : worst_difference<float>(recipe, tensor);
      CHECK_MESSAGE(worst <= (wide ? 1e-12 : 1e-6),
                    recipe["optimizer"] << " in " << recipe["precision"] << ", weight decay "
                                        << recipe["weight_decay"] << ", " << tensor["name"]
                                        << ": off by " << worst);
      ++traces;
    }
  CHECK(traces == 24);
}
