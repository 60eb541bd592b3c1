// The update formulas against traces of torch.optim, recorded by tools/compare/optimizers.py.
#include <cmath>
#include <fstream>
#include <nlohmann/json.hpp>

#include "kernels/update.h"
#include "tests/support.h"

using namespace engine;
using nlohmann::json;

namespace {

// The largest difference over one tensor's trace; relative where values exceed one.
template <class R>
double worst_difference(const json& recipe, const json& tensor) {
  const std::vector<double> start = tensor["start"];
  std::vector<R> w(start.begin(), start.end()), m(w.size()), v(w.size());
  const auto& expected = recipe["values"][tensor["name"].get<std::string>()];
  const double rate = recipe["lr"], decay = recipe["weight_decay"];
  double worst = 0;
  for (size_t step = 0; step < expected.size(); ++step)
    for (size_t i = 0; i < w.size(); ++i) {
      const R g = R(tensor["gradients"][step][i].get<double>());
      if (recipe["optimizer"] == "adam") {
        const double beta1 = recipe["betas"][0], beta2 = recipe["betas"][1], t = double(step + 1);
        adam(w[i], m[i], v[i], g,
             {rate, 1 - std::pow(beta1, t), 1 - std::pow(beta2, t), beta1, beta2, recipe["eps"],
              decay});
      } else {
        sgd(w[i], m[i], g, {rate, recipe["momentum"], decay, step == 0});
      }
      const double theirs = expected[step][i];
      worst = std::max(worst, std::abs(w[i] - theirs) / std::max(1., std::abs(theirs)));
    }
  return worst;
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
