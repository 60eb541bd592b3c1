// engine parity: a training step, or the first losses of a training, against what PyTorch recorded.
#include <fmt/format.h>

#include <algorithm>

#include "engine/error.h"
#include "io/weights/safetensors.h"
#include "tools/bench/curve.h"
#include "tools/bench/parity.h"
#include "tools/bench/reference_file.h"
#include "tools/engine/verbs.h"
#include "tools/machine/device.h"

namespace engine {
namespace {

struct ParityVerbOptions : DeviceOptions {
  std::vector<std::string> references;
  bool all = false;

  void visit(auto& v) {
    v("REFERENCES", references, "files that tools/compare/golden.py wrote", kRequired);
    v("--all", all, "every layer, not only the summary");
    visit_device(v);
  }
};

std::string row_line(const ParityRow& row) {
  return fmt::format("  {:<56}{:>10.2e}{}\n", row.name, row.ours.relative,
                     row.own ? fmt::format("   PyTorch {:>9.2e}   1-cos {:.2e} / {:.2e}",
                                           row.own->relative, row.ours.cosine, row.own->cosine)
                             : "");
}

template <class Project>
std::string percentiles(const char* title, const std::vector<ParityRow>& rows, Project project) {
  std::vector<double> values;
  for (const ParityRow& row : rows) values.push_back(project(row));
  return fmt::format("  {:<24} median {:.2e}, 90% {:.2e}, worst {:.2e}\n", title,
                     percentile(values, 0.5), percentile(values, 0.9), percentile(values, 1));
}

std::string summary_of(const std::string& title, const std::vector<ParityRow>& rows) {
  if (rows.empty()) return "";
  const auto worse = [](const ParityRow& a, const ParityRow& b) {
    return a.ours.relative < b.ours.relative;
  };
  std::string text = fmt::format("  {}: {} tensors, worst {}\n", title, rows.size(),
                                 std::max_element(rows.begin(), rows.end(), worse)->name);
  text += percentiles("relative error", rows, [](const ParityRow& r) { return r.ours.relative; });
  if (!rows.front().own) return text;
  const auto beyond = [](const ParityRow& r) { return r.ours.relative > 2 * r.own->relative; };
  text += percentiles("PyTorch's", rows, [](const ParityRow& r) { return r.own->relative; });
  text += percentiles("1 - cosine", rows, [](const ParityRow& r) { return r.ours.cosine; });
  text += percentiles("PyTorch's", rows, [](const ParityRow& r) { return r.own->cosine; });
  return text + fmt::format("  beyond twice PyTorch's error: {}\n",
                            std::count_if(rows.begin(), rows.end(), beyond));
}

// Prints a step's comparison; true if it agrees.
bool check_step(const std::string& path, const TensorFile& file, Backend& backend,
                const ParityOptions& options, bool all) {
  const ParityReport r = run_parity(file, backend, options);
  std::string text =
      fmt::format("{}: {}, batch {}, {} on {}, reference {}\n  loss {:.8f}, reference {:.8f}\n",
                  path, r.model, r.batch, r.precision, backend.info().description,
                  r.reference_precision, r.loss, r.reference_loss);
  text +=
      row_line(r.logits) + summary_of("gradients", r.gradients) + summary_of("running", r.running);
  if (all)
    for (const auto* rows : {&r.running, &r.gradients})
      for (const ParityRow& row : *rows) text += row_line(row);
  const std::string difference = first_difference(r, parity_limits(options.precision));
  text += difference.empty() ? "  agrees\n" : fmt::format("  first difference: {}\n", difference);
  if (!difference.empty() && !r.logits.own && options.precision != Precision::fp64)
    text += fmt::format(
        "  PyTorch's own error in {} is not in the file, and may be as large in so small a step:\n"
        "  golden.py --full writes it\n",
        r.precision);
  print_to_stdout(text);
  return difference.empty();
}

bool check_curve(const std::string& path, const TensorFile& file, Backend& backend,
                 const ParityOptions& options) {
  const std::vector<CurveRow> rows = run_curve(file, backend, options);
  std::string text = fmt::format(
      "{}: losses on {}\n  step        ours     PyTorch      error   PyTorch's spread\n", path,
      backend.info().description);
  for (size_t i = 0; i < rows.size(); ++i)
    text += fmt::format("  {:>4} {:>11.7f} {:>11.7f} {:>10.2e} {:>18.2e}\n", i + 1, rows[i].ours,
                        rows[i].first, rows[i].error(), rows[i].spread());
  const int departure = first_departure(rows);
  text += departure == 0 ? "  agrees\n" : fmt::format("  departs at step {}\n", departure);
  print_to_stdout(text);
  return departure == 0;
}

}  // namespace

int parity(const Command& command) {
  const auto options = parse_options<ParityVerbOptions>(command);
  if (!options) return 0;
  const Ranks ranks = choose_ranks(*options);
  const auto backend = make_backend(ranks.kind, ranks.options[0]);
  const ParityOptions how{ranks.precision, options->conv, options->deterministic};
  size_t failed = 0;
  for (const std::string& path : options->references) {
    const TensorFile file = read_safetensors(path);
    const bool agrees = ReferenceFile(file).text("form") == "curve"
                            ? check_curve(path, file, *backend, how)
                            : check_step(path, file, *backend, how, options->all);
    failed += !agrees;
  }
  require(failed == 0, Failure::check, "{} of {} references differ", failed,
          options->references.size());
  return 0;
}

}  // namespace engine
