// engine profile: where the time of a training step goes, and what stands between it and the
// hardware.
#include <fmt/format.h>

#include <filesystem>

#include "engine/error.h"
#include "io/files/atomic_file.h"
#include "io/files/json.h"
#include "tools/bench/gaps.h"
#include "tools/bench/profile_report.h"
#include "tools/cli/terminal.h"
#include "tools/engine/verbs.h"

namespace engine {
namespace {

struct ProfileOptions : DeviceOptions {
  StepBench bench;
  int rows = 20;
  bool nvtx = false, json = false;
  std::filesystem::path out;

  void visit(auto& v) {
    v.group("What to run");
    v("--model NAME", bench.model, "its training step on images that lie on the device");
    v("-b, --batch-size N", bench.batch, "images per rank and step", Within{1, 65536});
    v("--image-size N", bench.image_size, "side of the input (0: 224, mnist_cnn 28)",
      Within{0, 4096});
    v("--classes N", bench.classes, "outputs of the head (0: 35 for efficientnet_*, else 10)",
      Within{0, 1'000'000});
    v("--steps N", bench.steps, "measured untraced; as many are traced, on a GPU at most 20",
      Within{1, 100'000});
    v("--warmup N", bench.warmup, "before, not measured", Within{0, 100'000});
    v("--nvtx", nvtx,
      "measure nothing: run the launches of the steps one by one, each layer in an NVTX range, for "
      "nsys (a captured graph would hide the ranges)");
    visit_device(v);
    visit_memory(v, bench.memory);
    v("--gpus LIST", gpus, "how many GPUs, or which: 2, or 0,3");
    v("--ranks N", ranks, "data-parallel ranks on the CPU", Within{1, 1024});
    visit_exchange(v, bench.exchange);
    v.group("Output");
    v("--out DIR", out,
      "profile.csv (a row per launch), profile.json, and trace.json for Perfetto; "
      "tools/plots/profile.py draws them");
    v("--rows N", rows, "layers in the table (0: all)", Within{0, 100'000});
    v("--json", json, "the JSON object instead of the tables");
  }
};

void write_files(const std::filesystem::path& folder, const StepProfile& profile) {
  make_folder(folder);
  write_file_atomically(folder / "profile.csv", profile_csv(profile));
  write_file_atomically(folder / "profile.json", print_json(profile_json(profile), 1) + '\n');
  write_file_atomically(folder / "trace.json", chrome_trace(profile));
  say(fmt::format("{}: profile.csv, profile.json, trace.json", folder.string()));
}

}  // namespace

int profile(const Command& command) {
  const auto options = parse_options<ProfileOptions>(command);
  if (!options) return 0;
  const ProfileOptions& o = *options;
  StepBench bench = with_flags(o.bench, o);
  const Ranks ranks = choose_ranks(o);
  if (o.nvtx) {
    require(ranks.kind == BackendKind::cuda, Failure::usage, "--nvtx needs --device cuda");
    run_in_ranges(bench, ranks);
    say(
        fmt::format("{} steps of {} launch by launch, not captured: a step takes longer than the "
                    "session's",
                    bench.steps, bench.model));
    return 0;
  }
  const StepProfile profile = profile_step(bench, ranks);
  if (!o.out.empty()) write_files(o.out, profile);
  print_to_stdout(o.json ? print_json(profile_json(profile)) + '\n'
                         : profile_text(profile, o.rows) + '\n' + gap_text(profile));
  return 0;
}

}  // namespace engine
