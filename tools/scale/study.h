// What a study runs: its flags, the presets, and the configurations that follow from them.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "engine/needs.h"
#include "tools/machine/device.h"

namespace engine {

// Weak: a batch on each rank. Strong: a batch that the ranks divide. Independent: a batch on each
// rank, of which nothing is summed; a step is as long as that of the slowest one.
enum class Scaling { weak, strong, both, independent };
inline constexpr Choice<Scaling> kScalings[] = {
    {"weak", Scaling::weak}, {"strong", Scaling::strong}, {"both", Scaling::both}};
std::string_view name_of(Scaling scaling);

inline constexpr std::string_view kIndependent = "independent";
inline constexpr std::string_view kSynthetic = "synthetic";

// The flags as they were given; what is empty is the preset's, else a default of study_of().
struct StudyFlags {
  std::optional<std::string> preset, models, gpus, ranks, batches, precisions, workers, data;
  std::optional<Scaling> scaling;
  std::optional<int> threads_per_rank, repeats, steps, warmup, image_size, classes;
  Device device = Device::automatic;
  ConvForm conv = ConvForm::automatic;
  MemoryUse memory = MemoryUse::fast;
  bool independent = false, deterministic = false;
  int workspace = 256;
  int64_t epoch_images = 0;

  void visit_study(auto& v) {
    v.group("Study; every value of a list meets every other");
    v("--preset NAME", preset, "the flags of a published study, which other flags override",
      Suggest{{"R1", "R2", "R4", "R5-cpu", "R5-gpu"}});
    v("--model LIST", models, "models (default: efficientnet_b3)");
    v("--gpus LIST", gpus, "numbers of GPUs: 1,2,4 or 1..4; one is always there");
    v("--ranks LIST", ranks, "numbers of ranks on the CPU: 1..8; one is always there");
    v("--threads-per-rank N", threads_per_rank, "of every configuration on the CPU (default: 1)",
      Within{1, 4096});
    v("-b, --batch-size LIST", batches,
      "images per step, of each rank (weak) or of all (strong) (default: 32)");
    v("--precision LIST", precisions, "fp32, tf32, fp16, bf16 (default: fp16; on a CPU fp32)");
    v("--scaling KIND", scaling, "weak: a batch on each rank; strong: a batch that they divide",
      kScalings);
    v("--independent", independent,
      "also ranks that share nothing: what the host itself makes of so many at once");
    v("--data DIR", data,
      "train/CLASS/… or MNIST's idx files, read as in training (default: synthetic)");
    v("--workers LIST", workers, "loading threads of each rank (default: the cores / ranks)");
    v("--repeats N", repeats, "of every configuration, in turns (default: 3)", Within{3, 1000});
    v("--steps N", steps, "measured in each repeat (default: 50; on a CPU 10)",
      Within{1, 1'000'000});
    v("--warmup N", warmup, "steps before, not measured (default: 10; on a CPU 2)",
      Within{0, 1'000'000});
    v("--image-size N", image_size, "side of the input (default: 224, mnist_cnn 28)",
      Within{1, 4096});
    v("--classes N", classes, "of synthetic data (default: efficientnet_* 35, else 10)",
      Within{1, 1'000'000});
    v("--epoch-images N", epoch_images, "of a data set, to tell the hours of an epoch",
      Within{0, 1e12});
    v.group("Device");
    v("--device NAME", device, "auto: what --gpus or --ranks say, else cuda if a GPU answers",
      kDevices);
    v("--conv FORM", conv, "convolutions: fused kernels, library calls, or the faster of both",
      kConvForms);
    visit_memory(v, memory);
    v("--workspace MIB", workspace, "cap for the libraries' workspace", Within{1, 65536});
    v("--deterministic", deterministic, "the same algorithms in every run");
  }
};

struct Study {
  std::string preset;  // empty: none
  std::vector<std::string> models, precisions;
  std::vector<int> ranks, batches, workers;  // ascending; 1 is among the ranks
  Scaling scaling = Scaling::weak;
  bool independent = false;
  std::string data;
  Device device = Device::cpu;  // cpu, cuda or reference
  int threads_per_rank = 1, repeats = 3, steps = 50, warmup = 10;
  int image_size = 0, classes = 0;  // 0: the model's
  int workspace = 256;
  ConvForm conv = ConvForm::automatic;
  MemoryUse memory = MemoryUse::fast;
  bool deterministic = false;
  int64_t epoch_images = 0;  // 0: not known

  bool synthetic() const { return data == kSynthetic; }
};

// What defaults depend on.
struct StudyMachine {
  BackendKind automatic = BackendKind::cpu;  // what --device auto means here
  int cores = 1;
  int processes = 1;  // that a launcher has started
};

// Error(usage) names a flag that is wrong, a model or preset that does not exist, flags that
// contradict each other.
Study study_of(const StudyFlags& flags, const StudyMachine& machine);

// "1,2,4", "1..8" and mixtures of them, from `least` on: ascending, each once.
std::vector<int> parse_counts(std::string_view text, std::string_view flag, int least = 1);

struct Configuration {
  std::string model, precision;
  int ranks = 1;
  int batch = 1;   // per rank; of a strong one that leaves a remainder, the largest
  int global = 1;  // of all ranks
  Scaling scaling = Scaling::weak;
  int workers = 0;  // of each rank; 0 with synthetic data

  bool operator==(const Configuration&) const = default;
};

// The cross product. One rank is the same in every scaling, and is there once.
std::vector<Configuration> configurations(const Study& study);

// "densenet121, fp32, 4 ranks, batch 32 (128 in all), weak"
std::string describe(const Configuration& configuration);

}  // namespace engine
