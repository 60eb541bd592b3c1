#include "tools/bench/parity.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <numeric>
#include <span>

#include "engine/error.h"
#include "engine/measures/metrics.h"
#include "kernels/random.h"
#include "models/models.h"
#include "tools/bench/reference_file.h"

namespace engine {
namespace {

constexpr uint32_t kSignsPurpose = 0x5EED;
constexpr double kZeroGradient =
    1e-5;  // of the norm of all gradients: exact zeros hold only rounding

bool ends_with(const std::string& s, std::string_view end) {
  return s.size() >= end.size() && s.ends_with(end);
}

}  // namespace

Tensor rule_tensor(const std::string& name, const Shape& shape, uint64_t seed) {
  Tensor tensor(DType::f32, shape);
  const auto values = tensor.as<float>();
  const RandomKey key{.seed = seed, .purpose = purpose(name.c_str())};
  Random4 draws{};
  const bool input = name == "input",
             centred = ends_with(name, "running_mean") || ends_with(name, "bias"),
             within_bound = input || (!centred && shape.size() > 1);
  const double bound = input          ? 2
                       : within_bound ? std::sqrt(6. / (double(tensor.size()) / shape[0]))
                                      : 0;
  const double offset = centred ? -0.5 : 0.5;
  for (size_t i = 0; i < values.size(); ++i) {
    if (i % 4 == 0) draws = philox(key, static_cast<uint32_t>(i / 4));
    const double u = uniform(draws.bits[i % 4]);
    values[i] = static_cast<float>(within_bound ? (2 * u - 1) * bound : u + offset);
  }
  return tensor;
}

namespace {

// The network's input, NHWC.
std::vector<double> input_of(const ReferenceFile& r, int batch, int size, int channels) {
  std::vector<double> nhwc(size_t(batch) * size * size * channels);
  if (r.text("input") == "stored") {
    const Tensor* bytes = r.find("image_u8");
    require(
        bytes && bytes->dtype == DType::u8 && bytes->size() == static_cast<int64_t>(nhwc.size()),
        Failure::data, "the reference's image_u8 is not {}x{}x{}x{} bytes", batch, size, size,
        channels);
    const std::vector<double> mean = r.numbers("mean"), std = r.numbers("std");
    const auto u8 = bytes->as<uint8_t>();
    for (size_t i = 0; i < nhwc.size(); ++i) {
      const size_t c = i % channels;
      nhwc[i] = static_cast<float>((u8[i] / 255. - mean[c]) / std[c]);
    }
    return nhwc;
  }
  const Tensor nchw = rule_tensor("input", {batch, channels, size, size}, r.number("seed"));
  const auto from = nchw.as<float>();
  const int64_t pixels = int64_t{size} * size;
  for (int64_t n = 0; n < batch; ++n)
    for (int64_t c = 0; c < channels; ++c)
      for (int64_t p = 0; p < pixels; ++p)
        nhwc[(n * pixels + p) * channels + c] = from[(n * channels + c) * pixels + p];
  return nhwc;
}

// ---------------------------------------------------------------- distances

double norm_of(std::span<const double> values) {
  return std::sqrt(std::inner_product(values.begin(), values.end(), values.begin(), 0.));
}

// Something that is not finite is further away than anything else.
double finite_or_infinite(double distance) {
  return std::isfinite(distance) ? distance : INFINITY;
}

Distance whole_distance(std::span<const double> ours, std::span<const double> theirs,
                        double floor) {
  require(ours.size() == theirs.size(), Failure::data, "{} values against {} in the reference",
          ours.size(), theirs.size());
  std::vector<double> difference(ours.size());
  std::transform(ours.begin(), ours.end(), theirs.begin(), difference.begin(), std::minus<>());
  const double a = norm_of(ours), b = norm_of(theirs);
  const double dot = std::inner_product(ours.begin(), ours.end(), theirs.begin(), 0.);
  return {finite_or_infinite(norm_of(difference) / std::max({b, floor, 1e-300})),
          finite_or_infinite(1 - dot / std::max(a * b, 1e-300))};
}

// From random-sign inner products, the norm and samples of the reference; see golden.py, "form
// digest".
Distance digest_distance(const std::string& name, std::span<const double> ours,
                         std::span<const double> digest, double floor, uint64_t seed) {
  const RandomKey key{.seed = seed, .purpose = purpose(name.c_str()) ^ kSignsPurpose};
  double products[8] = {};
  Random4 signs{};
  for (size_t i = 0; i < ours.size(); ++i) {
    if (i % 4 == 0) signs = philox(key, static_cast<uint32_t>(i / 4));
    const uint32_t word = signs.bits[i % 4];
    // No branch, which would be taken at random.
    for (int j = 0; j < 8; ++j) products[j] += (1 - 2 * static_cast<int>(word >> j & 1)) * ours[i];
  }
  double square = 0, worst_sample = 0;
  for (int j = 0; j < 8; ++j)
    square += (products[j] - digest[2 + j]) * (products[j] - digest[2 + j]) / 8;
  const size_t samples = std::min<size_t>(32, ours.size());
  for (size_t k = 0; k < samples; ++k)
    worst_sample =
        std::max(worst_sample, std::abs(ours[k * ours.size() / samples] - digest[10 + k]));
  const double scale = std::max({digest[0], floor, 1e-300});
  const double error =
      std::max({std::sqrt(square), worst_sample, std::abs(norm_of(ours) - digest[0])}) / scale;
  return {finite_or_infinite(error), 0};
}

class Comparison {
 public:
  Comparison(const ReferenceFile& r, bool digest)
      : r_(r), digest_(digest), seed_(r.number("seed")) {}

  ParityRow row(const std::string& kind, const std::string& name, const std::vector<double>& ours,
                double floor) const {
    ParityRow row{.name = name};
    if (digest_) {
      row.ours =
          digest_distance(name, ours, r_.values("digest/" + kind + "/" + name), floor, seed_);
      return row;
    }
    const std::vector<double> theirs = r_.values(kind + "/" + name);
    row.ours = whole_distance(ours, theirs, floor);
    if (r_.find("own/" + kind + "/" + name)) {
      const std::vector<double> own =
          r_.values("own/" + kind + "/" + name);  // relative, 1 − cosine, absolute
      row.own = Distance{own[2] / std::max({norm_of(theirs), floor, 1e-300}), own[1]};
    }
    return row;
  }

  double gradient_norm(const std::string& name) const {
    return digest_ ? r_.values("digest/grad/" + name)[0] : norm_of(r_.values("grad/" + name));
  }

 private:
  const ReferenceFile& r_;
  bool digest_;
  uint64_t seed_;
};

}  // namespace

namespace {

// Of logits (images, classes).
double mean_cross_entropy(std::span<const double> logits, std::span<const int32_t> labels) {
  const size_t classes = logits.size() / labels.size();
  double total = 0;
  for (size_t i = 0; i < labels.size(); ++i)
    total += cross_entropy(logits.subspan(i * classes, classes), labels[i]);
  return total / double(labels.size());
}

bool has_kinks(const Graph& graph) {
  const auto kink = [](Activation act) {
    return act == Activation::relu || act == Activation::relu6;
  };
  return std::ranges::any_of(graph.steps, [&](const Step& step) {
    const auto* add = std::get_if<Add>(&step);
    return (add && kink(add->act)) || std::ranges::any_of(operands_of(step), kink, &Operand::act);
  });
}

// The logits of all ranks' images.
std::vector<double> all_logits(const Communicator& ranks, const std::vector<double>& own) {
  std::vector<double> all;
  for (const auto& bytes : ranks.group->gather(ranks.rank, std::as_bytes(std::span(own)))) {
    std::vector<double> part(bytes.size() / sizeof(double));
    std::memcpy(part.data(), bytes.data(), bytes.size());
    all.insert(all.end(), part.begin(), part.end());
  }
  return all;
}

}  // namespace

ParityReport run_parity(const TensorFile& file, Backend& backend, const ParityOptions& options) {
  const ReferenceFile r(file);
  const int batch = r.number("batch_size"), size = r.number("image_size");
  ModelOptions model{.classes = r.number("classes"),
                     .height = size,
                     .width = size,
                     .dropout = false,
                     .stochastic_depth = false};
  const Communicator& ranks = options.communicator;
  const int own = batch / ranks.ranks(), first = own * ranks.rank;
  require(own * ranks.ranks() == batch, Failure::usage, "{} ranks do not share a batch of {}",
          ranks.ranks(), batch);
  SessionOptions session_options{.programs = {{own, Mode::gradients}},
                                 .precision = options.precision,
                                 .conv = options.conv,
                                 .deterministic = options.deterministic,
                                 .float_input = true,
                                 .loss_scale = static_cast<float>(r.numbers("loss_scale").at(0)),
                                 .fixed_loss_scale = true,
                                 .sync_norms = true};
  Session session(make_model(r.text("model"), model), backend, session_options);
  const Graph& graph = session.graph();

  std::map<std::string, Tensor> state;
  for (const Parameter& p : graph.parameters) {
    const Tensor* stored = r.find("state/" + p.name);
    state[p.name] = stored ? *stored : rule_tensor(p.name, p.shape, r.number("seed"));
  }
  session.load(state);
  const std::vector<double> input = input_of(r, batch, size, graph.image.channels());
  const size_t image = input.size() / batch;
  session.set_input(std::span(input).subspan(first * image, own * image));
  const std::vector<double> label_values = r.values("labels");
  const std::vector<int32_t> labels(label_values.begin(), label_values.end());
  const std::vector<uint8_t> unused(own * image);
  const uint64_t step = session.gradients({unused.data(), labels.data() + first, own},
                                          {.divisor = double(batch), .total = batch});
  double loss = session.result(step).loss;
  ranks.group->sum(ranks.rank, std::span(&loss, 1));

  ParityReport report{.model = r.text("model"),
                      .precision = std::string(name_of(options.precision)),
                      .reference_precision = r.text("reference_precision"),
                      .batch = batch,
                      .reference_loss = r.values("loss")[0],
                      .loss = loss};
  const std::vector<double> logits = all_logits(ranks, session.logits(own));
  report.loss_of_logits = mean_cross_entropy(logits, labels);
  report.kinks = has_kinks(graph);
  report.logits = {"logits", whole_distance(logits, r.values("logits"), 0), std::nullopt};
  if (r.find("own/logits")) {
    const std::vector<double> own = r.values("own/logits");
    report.logits.own = Distance{own[0], own[1]};
  }

  const Comparison compare(r, r.text("form") == "digest");
  const float scale = session.scale().scale;
  double all = 0;
  for (const Parameter& p : graph.parameters)
    if (p.trained()) all = std::hypot(all, compare.gradient_norm(p.name));
  const auto gradients = session.gradients();
  const auto after = session.state();
  for (const Parameter& p : graph.parameters) {
    if (!p.trained()) {
      report.running.push_back(compare.row("after", p.name, as_doubles(after.at(p.name)), 0));
      continue;
    }
    std::vector<double> ours = as_doubles(gradients.at(p.name));
    for (double& g : ours) g /= scale;
    report.gradients.push_back(compare.row("grad", p.name, ours, kZeroGradient * all));
  }
  std::reverse(report.gradients.begin(), report.gradients.end());
  return report;
}

ParityLimits parity_limits(Precision precision) {
  switch (precision) {
    case Precision::fp64: return {1e-9, 1e-9, 1e-9, 1e-9, 1e-9};
    case Precision::fp32:
      return {1e-5, 1e-5, 1e-4, 1e-4, 1e-5};  // a mean near zero is what large sums leave
    case Precision::tf32: return {2e-2, 5e-3, 1e-1, 1e-2, 1e-5};
    // The loss follows the logits, whose rounding moves it by several times its limit in tf32.
    case Precision::fp16: return {2e-2, INFINITY, INFINITY, 1e-2, 1e-5, 2, 1.2};
    case Precision::bf16: return {1e-1, INFINITY, INFINITY, 5e-2, 1e-5, 2, 1.2};
  }
  return {};
}

double percentile(std::vector<double> values, double p) {
  std::sort(values.begin(), values.end());
  return values[static_cast<size_t>(p * double(values.size() - 1) + 0.5)];
}

namespace {

// The median and the 90th percentile of a distance of the gradients, beside PyTorch's own.
std::string compare_percentiles(const ParityReport& report, const char* name,
                                double Distance::*distance, double factor) {
  std::vector<double> ours, own;
  for (const ParityRow& row : report.gradients) {
    if (!row.own) continue;
    ours.push_back(row.ours.*distance);
    own.push_back((*row.own).*distance);
  }
  if (ours.empty()) return "";
  for (double p : {0.5, 0.9})
    if (!(percentile(ours, p) <= factor * percentile(own, p)))
      return fmt::format("gradients: {} at the {:.0f}th percentile {:.2e}, PyTorch's own {:.2e}",
                         name, 100 * p, percentile(ours, p), percentile(own, p));
  return "";
}

// PyTorch's worst gradient; 0: none is known.
double worst_own(const ParityReport& report) {
  double worst = 0;
  for (const ParityRow& row : report.gradients)
    if (row.own) worst = std::max(worst, row.own->relative);
  return worst;
}

}  // namespace

std::string first_difference(const ParityReport& report, const ParityLimits& limits) {
  const auto beyond = [&](const ParityRow& row, double limit) {
    if (row.own) limit = std::max(limit, limits.own_factor * row.own->relative);
    return !(row.ours.relative <= limit);
  };
  const auto describe = [](const ParityRow& row, double limit) {
    return fmt::format("{}: {:.2e} from the reference, at most {:.1e}{}", row.name,
                       row.ours.relative, limit,
                       row.own ? fmt::format(" (PyTorch's own: {:.2e})", row.own->relative) : "");
  };
  for (const ParityRow& row : report.running)
    if (beyond(row, limits.running)) return describe(row, limits.running);
  if (beyond(report.logits, limits.logits)) return describe(report.logits, limits.logits);
  const auto near = [&](double loss, double limit) {
    return std::abs(report.loss - loss) <= limit * std::abs(loss);
  };
  if (!near(report.loss_of_logits, limits.loss_of_logits))
    return fmt::format("loss: {:.6f}, that of its logits is {:.6f}", report.loss,
                       report.loss_of_logits);
  if (!near(report.reference_loss, limits.loss))
    return fmt::format("loss: {:.6f}, the reference's is {:.6f}", report.loss,
                       report.reference_loss);
  const double flips = report.kinks ? limits.own_factor * worst_own(report) : 0;
  const double limit = std::max(limits.gradients, flips);
  for (const ParityRow& row : report.gradients)
    if (beyond(row, limit)) return describe(row, limit);
  if (flips > limits.gradients) {
    const std::string difference =
        compare_percentiles(report, "error", &Distance::relative, limits.own_factor);
    if (!difference.empty()) return difference;
  }
  if (limits.cosine_factor <= 0) return "";
  return compare_percentiles(report, "1 - cosine", &Distance::cosine, limits.cosine_factor);
}

}  // namespace engine
