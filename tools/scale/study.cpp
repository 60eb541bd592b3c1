#include "tools/scale/study.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <limits>

#include "engine/error.h"
#include "engine/precision.h"
#include "models/models.h"
#include "tools/cli/list.h"
#include "tools/scale/presets.h"

namespace engine {
namespace {

constexpr int kMost = 65536;  // of what a list counts

int parse_count(std::string_view text, std::string_view flag, int least) {
  int value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  require(
      error == std::errc() && end == text.data() + text.size() && value >= least && value <= kMost,
      Failure::usage, "{}: '{}' is not from {} to {}", flag, text, least, kMost);
  return value;
}

Device device_of(const StudyFlags& given, const StudyFlags& preset, BackendKind automatic) {
  require(!given.gpus || !given.ranks, Failure::usage,
          "--gpus {} and --ranks {}: a study is of GPUs or of cores", given.gpus.value_or(""),
          given.ranks.value_or(""));
  if (given.device != Device::automatic) {
    const bool cuda = given.device == Device::cuda;
    require(cuda || !given.gpus, Failure::usage, "--gpus needs --device cuda");
    require(!cuda || !given.ranks, Failure::usage, "--ranks is for the CPU; --gpus chooses GPUs");
    return given.device;
  }
  if (given.gpus) return Device::cuda;
  if (given.ranks) return Device::cpu;
  if (preset.gpus) return Device::cuda;
  if (preset.ranks) return Device::cpu;
  return automatic == BackendKind::cuda ? Device::cuda : Device::cpu;
}

// A preset's number of GPUs is also one of ranks, where the device was chosen by hand. Without any,
// every process has a rank.
std::string counts_of(const StudyFlags& given, const StudyFlags& preset, int processes) {
  for (const auto& counts : {given.gpus, given.ranks, preset.gpus, preset.ranks})
    if (counts) return *counts;
  return std::to_string(processes);
}

void check_shares(const std::vector<int>& ranks, int processes, std::string_view flag) {
  for (const int count : ranks)
    require(count == 1 || count % processes == 0, Failure::usage,
            "{}: {} processes do not divide {} ranks evenly; they share each number of ranks but "
            "1, which process 0 measures alone",
            flag, processes, count);
}

std::vector<Scaling> scalings_of(const Study& study) {
  std::vector<Scaling> all = study.scaling == Scaling::both
                                 ? std::vector{Scaling::weak, Scaling::strong}
                                 : std::vector{study.scaling};
  if (study.independent) all.push_back(Scaling::independent);
  return all;
}

std::vector<int> workers_of(const Study& study, const std::optional<std::string>& list, int cores) {
  if (study.synthetic()) return {0};
  if (list) return parse_counts(*list, "--workers");
  const int loading = study.device == Device::cuda ? cores : cores / 2;
  return {std::max(1, loading / study.ranks.back())};
}

}  // namespace

std::string_view name_of(Scaling scaling) {
  if (scaling == Scaling::independent) return kIndependent;
  return std::ranges::find(kScalings, scaling, &Choice<Scaling>::value)->name;
}

std::vector<int> parse_counts(std::string_view text, std::string_view flag, int least) {
  std::vector<int> counts;
  for (const std::string& part : split_list(text)) {
    const size_t dots = part.find("..");
    const int first = parse_count(part.substr(0, dots), flag, least);
    const int last =
        dots == std::string::npos ? first : parse_count(part.substr(dots + 2), flag, least);
    require(first <= last, Failure::usage, "{}: '{}' is empty", flag, part);
    for (int count = first; count <= last; ++count) counts.push_back(count);
  }
  std::sort(counts.begin(), counts.end());
  counts.erase(std::unique(counts.begin(), counts.end()), counts.end());
  return counts;
}

Study study_of(const StudyFlags& given, const StudyMachine& machine) {
  const StudyFlags preset = given.preset ? preset_flags(*given.preset) : StudyFlags();
  const auto choose = [&](auto StudyFlags::*flag, auto otherwise) {
    return (given.*flag).value_or((preset.*flag).value_or(otherwise));
  };
  Study s{.preset = given.preset.value_or("")};
  s.device = device_of(given, preset, machine.automatic);
  const bool gpu = s.device == Device::cuda;
  s.models = split_list(choose(&StudyFlags::models, std::string("efficientnet_b3")));
  s.precisions = split_list(choose(&StudyFlags::precisions, std::string(gpu ? "fp16" : "fp32")));
  const char* counts_flag = gpu ? "--gpus" : "--ranks";
  s.ranks = parse_counts(counts_of(given, preset, machine.processes), counts_flag);
  check_shares(s.ranks, machine.processes, counts_flag);
  if (s.ranks.front() > 1) s.ranks.insert(s.ranks.begin(), 1);
  s.batches = parse_counts(choose(&StudyFlags::batches, std::string("32")), "--batch-size");
  s.scaling = choose(&StudyFlags::scaling, Scaling::weak);
  s.data = choose(&StudyFlags::data, std::string(kSynthetic));
  s.workers = workers_of(s, given.workers ? given.workers : preset.workers, machine.cores);
  s.threads_per_rank = choose(&StudyFlags::threads_per_rank, 1);
  s.repeats = choose(&StudyFlags::repeats, 3);
  s.steps = choose(&StudyFlags::steps, gpu ? 50 : 10);
  s.warmup = choose(&StudyFlags::warmup, gpu ? 10 : 2);
  s.image_size = choose(&StudyFlags::image_size, 0);
  s.classes = choose(&StudyFlags::classes, 0);
  s.workspace = given.workspace;
  s.conv = given.conv;
  s.memory = given.memory;
  s.independent = given.independent;
  s.deterministic = given.deterministic;
  s.epoch_images = given.epoch_images;
  const std::vector<std::string> known = model_names();
  for (const std::string& model : s.models)
    require(std::find(known.begin(), known.end(), model) != known.end(), Failure::usage,
            "--model: '{}' is none; engine summary --help lists them", model);
  for (const std::string& precision : s.precisions) parse_precision(precision);
  return s;
}

std::vector<Configuration> configurations(const Study& study) {
  std::vector<Configuration> all;
  for (const std::string& model : study.models)
    for (const std::string& precision : study.precisions)
      for (const int workers : study.workers)
        for (const int batch : study.batches)
          for (const Scaling scaling : scalings_of(study))
            for (const int ranks : study.ranks) {
              const bool strong = scaling == Scaling::strong;
              require(strong || batch <= std::numeric_limits<int>::max() / ranks, Failure::usage,
                      "--batch-size {} of {} ranks: more images than fit a number of 31 bits",
                      batch, ranks);
              if (ranks == 1 && scaling != scalings_of(study).front()) continue;
              all.push_back({.model = model,
                             .precision = precision,
                             .ranks = ranks,
                             .batch = strong ? (batch + ranks - 1) / ranks : batch,
                             .global = strong ? batch : batch * ranks,
                             .scaling = scaling,
                             .workers = workers});
            }
  return all;
}

std::string describe(const Configuration& c) {
  std::string text = fmt::format("{}, {}, {} rank{}, batch {}", c.model, c.precision, c.ranks,
                                 c.ranks == 1 ? "" : "s", c.batch);
  if (c.ranks > 1) text += fmt::format(" ({} in all), {}", c.global, name_of(c.scaling));
  if (c.workers > 0) text += fmt::format(", {} loading", c.workers);
  return text;
}

}  // namespace engine
