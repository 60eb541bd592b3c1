#include "tools/bench/curve.h"

#include <algorithm>
#include <cmath>

#include "engine/error.h"
#include "engine/session.h"
#include "models/models.h"
#include "tools/bench/reference_file.h"

namespace engine {

double CurveRow::error() const {
  return std::abs(ours - first) / std::abs(first);
}
double CurveRow::spread() const {
  return std::abs(second - first) / std::abs(first);
}

std::vector<CurveRow> run_curve(const TensorFile& file, Backend& backend,
                                const ParityOptions& options) {
  const ReferenceFile r(file);
  const int batch = r.number("batch_size"), steps = r.number("steps");
  const Tensor* images = r.find("image_u8");
  require(images && images->dtype == DType::u8 && images->shape.size() == 4 && images->shape[0] > 0,
          Failure::data, "the reference has no image_u8 (N, H, W, C)");
  const int64_t count = images->shape[0], bytes = images->size() / count;
  const std::vector<double> labels = r.values("labels"), losses = r.values("losses");
  require(static_cast<int64_t>(labels.size()) == count &&
              losses.size() == 2 * static_cast<size_t>(steps),
          Failure::data, "the reference has {} labels for {} images and {} losses for 2 x {} steps",
          labels.size(), count, losses.size(), steps);

  Normalisation normalisation;
  const std::vector<double> mean = r.numbers("mean"), std = r.numbers("std");
  std::copy_n(mean.begin(), 3, normalisation.mean);
  std::copy_n(std.begin(), 3, normalisation.std);
  Session session(make_model(r.text("model"), {.classes = r.number("classes"),
                                               .height = static_cast<int>(images->shape[1]),
                                               .width = static_cast<int>(images->shape[2]),
                                               .dropout = false,
                                               .stochastic_depth = false}),
                  backend,
                  {.programs = {{batch, Mode::train}},
                   .precision = options.precision,
                   .conv = options.conv,
                   .deterministic = options.deterministic,
                   .normalisation = normalisation});
  std::map<std::string, Tensor> state;
  for (const Parameter& p : session.graph().parameters)
    if (const Tensor* tensor = r.find("state/" + p.name)) state[p.name] = *tensor;
  session.load(state);

  const auto pixels = images->as<uint8_t>();
  std::vector<uint8_t> batch_images(batch * bytes);
  std::vector<int32_t> batch_labels(batch);
  std::vector<CurveRow> rows;
  for (int step = 0; step < steps; ++step) {
    for (int i = 0; i < batch; ++i) {
      const int64_t at = (int64_t{step} * batch + i) % count;
      std::copy_n(pixels.begin() + at * bytes, bytes, batch_images.begin() + i * bytes);
      batch_labels[i] = static_cast<int32_t>(labels[at]);
    }
    const uint64_t number = session.train({batch_images.data(), batch_labels.data(), batch},
                                          {.learning_rate = r.numbers("lr").at(0)});
    rows.push_back({session.result(number).loss, losses[step], losses[steps + step]});
  }
  return rows;
}

int first_departure(const std::vector<CurveRow>& rows) {
  double spread = 0;
  for (size_t i = 0; i < rows.size(); ++i) {
    spread = std::max(spread, rows[i].spread());
    const double limit = i == 0 ? 1e-5 : std::max(1e-5, 3 * spread);
    if (!(rows[i].error() <= limit)) return static_cast<int>(i) + 1;
  }
  return 0;
}

}  // namespace engine
