// engine parity: one training step against a file of tools/compare/golden.py.
#include <fmt/format.h>

#include <algorithm>

#include "engine/error.h"
#include "io/safetensors.h"
#include "tools/engine/device.h"
#include "tools/engine/parity.h"
#include "tools/engine/verbs.h"

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

std::string summary_of(const char* title, std::vector<ParityRow> rows) {
  if (rows.empty()) return "";
  std::sort(rows.begin(), rows.end(), [](const ParityRow& a, const ParityRow& b) {
    return a.ours.relative < b.ours.relative;
  });
  const auto at = [&](double p) {
    return rows[static_cast<size_t>(p * double(rows.size() - 1) + 0.5)].ours.relative;
  };
  return fmt::format("  {:<10} {:>4}: median {:.2e}, 90% {:.2e}, worst {:.2e} ({})\n", title,
                     rows.size(), at(0.5), at(0.9), at(1), rows.back().name);
}

}  // namespace

int parity(const Command& command) {
  const auto options = parse_options<ParityVerbOptions>(command);
  if (!options) return 0;
  const Ranks ranks = choose_ranks(*options);
  const auto backend = make_backend(ranks.kind, ranks.options[0]);
  int failed = 0;
  for (const std::string& path : options->references) {
    const ParityReport r = run_parity(read_safetensors(path), *backend,
                                      {ranks.precision, options->conv, options->deterministic});
    std::string text =
        fmt::format("{}: {}, batch {}, {} on {}, reference {}\n  loss {:.8f}, reference {:.8f}\n",
                    path, r.model, r.batch, r.precision, backend->description(),
                    r.reference_precision, r.loss, r.reference_loss);
    text += row_line(r.logits) + summary_of("gradients", r.gradients) +
            summary_of("running", r.running);
    if (options->all)
      for (const auto* rows : {&r.running, &r.gradients})
        for (const ParityRow& row : *rows) text += row_line(row);
    const std::string difference = first_difference(r, parity_limits(ranks.precision));
    text += difference.empty() ? "  agrees\n" : fmt::format("  first difference: {}\n", difference);
    failed += !difference.empty();
    print_to_stdout(text);
  }
  require(failed == 0, Failure::check, "{} of {} references differ", failed,
          options->references.size());
  return 0;
}

}  // namespace engine
