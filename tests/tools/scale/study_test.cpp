// Which configurations flags and presets make.
#include <algorithm>

#include "tests/support.h"
#include "tools/scale/presets.h"
#include "tools/scale/study.h"

using namespace engine;
using namespace engine::test;

namespace {

constexpr StudyMachine kCpu{BackendKind::cpu, 16}, kGpu{BackendKind::cuda, 16};

std::string refused(const StudyFlags& flags) {
  return message_of([&] { study_of(flags, kCpu); }, Failure::usage);
}

}  // namespace

TEST_CASE("lists of counts hold numbers and ranges") {
  const auto counts = [](const char* text) { return parse_counts(text, "--gpus"); };
  CHECK(counts("1,2,4") == std::vector{1, 2, 4});
  CHECK(counts("1..4") == std::vector{1, 2, 3, 4});
  CHECK(counts("8,1..3,2") == std::vector{1, 2, 3, 8});
  for (const char* wrong : {"", "1,", "0", "4..2", "..3", "1..", "two", "1...3", "-1", "70000"}) {
    CAPTURE(wrong);
    CHECK(mentions(message_of([&] { counts(wrong); }, Failure::usage), "--gpus"));
  }
}

TEST_CASE("without flags a study is one configuration of this machine") {
  const Study cpu = study_of({}, kCpu), gpu = study_of({}, kGpu);
  CHECK(cpu.device == Device::cpu);
  CHECK(gpu.device == Device::cuda);
  CHECK(configurations(cpu) ==
        std::vector{Configuration{
            .model = "efficientnet_b3", .precision = "fp32", .batch = 32, .global = 32}});
  CHECK(gpu.precisions == std::vector<std::string>{"fp16"});
  CHECK(cpu.repeats == 3);
}

TEST_CASE("weak scaling keeps the batch of a rank, strong scaling that of all") {
  StudyFlags flags{.models = "mnist_cnn", .ranks = "2..3", .batches = "32"};
  flags.scaling = Scaling::both;
  const auto all = configurations(study_of(flags, kCpu));
  REQUIRE(all.size() == 5);  // one rank, the baseline of both, is there unasked and once
  CHECK(all[0].ranks == 1);
  CHECK((all[1].ranks == 2 && all[1].batch == 32 && all[1].global == 64));
  CHECK((all[2].ranks == 3 && all[2].batch == 32 && all[2].global == 96));
  CHECK((all[3].scaling == Scaling::strong && all[3].batch == 16 && all[3].global == 32));
  CHECK((all[4].scaling == Scaling::strong && all[4].batch == 11 && all[4].global == 32));
  flags.scaling = Scaling::strong;
  const auto strong = configurations(study_of(flags, kCpu));
  REQUIRE(strong.size() == 3);
  CHECK((strong[0].ranks == 1 && strong[0].scaling == Scaling::strong));
}

TEST_CASE("independent ranks stand beside each number of ranks but one") {
  StudyFlags flags{.models = "mnist_cnn", .ranks = "1,2,4", .batches = "32"};
  flags.independent = true;
  for (const Scaling scaling : {Scaling::weak, Scaling::strong, Scaling::both}) {
    flags.scaling = scaling;
    const auto all = configurations(study_of(flags, kCpu));
    REQUIRE(all.size() == (scaling == Scaling::both ? 7 : 5));
    const Configuration &two = all[all.size() - 2], &four = all.back();
    CHECK((two.scaling == Scaling::independent && two.ranks == 2));
    CHECK((four.scaling == Scaling::independent && four.ranks == 4));
    CHECK((four.batch == 32 && four.global == 128));
    CHECK(describe(four) == "mnist_cnn, fp32, 4 ranks, batch 32 (128 in all), independent");
  }
}

TEST_CASE("processes of a launcher share the ranks evenly") {
  constexpr StudyMachine kFour{.automatic = BackendKind::cpu, .cores = 16, .processes = 4};
  CHECK(study_of({}, kFour).ranks == std::vector{1, 4});
  CHECK(study_of({.ranks = "4,8"}, kFour).ranks == std::vector{1, 4, 8});
  CHECK(mentions(message_of([&] { study_of({.ranks = "2,4"}, kFour); }, Failure::usage),
                 "--ranks: 4 processes do not divide 2 ranks evenly"));
}

TEST_CASE("every value meets every other") {
  StudyFlags flags{.models = "mnist_cnn,densenet121",
                   .gpus = "1,2",
                   .batches = "16,32,64",
                   .precisions = "fp32,fp16",
                   .workers = "1,8"};
  CHECK(configurations(study_of(flags, kGpu)).size() == 2 * 2 * 3 * 2);  // no loading threads
  flags.data = "somewhere";
  auto all = configurations(study_of(flags, kGpu));
  CHECK(all.size() == 2 * 2 * 3 * 2 * 2);
  for (const Configuration& c : all) CHECK(std::count(all.begin(), all.end(), c) == 1);
}

TEST_CASE("loading threads are the same for every number of ranks") {
  StudyFlags flags{.gpus = "1,4", .data = "somewhere"};
  CHECK(study_of(flags, kGpu).workers == std::vector{4});
  flags.gpus.reset();
  flags.ranks = "1..4";
  CHECK(study_of(flags, kCpu).workers == std::vector{2});  // half the cores compute
}

TEST_CASE("presets are the published studies") {
  const auto preset = [](const char* name) {
    return study_of({.preset = name}, kCpu);  // their devices do not depend on the machine
  };
  const Study r1 = preset("R1"), r2 = preset("R2"), r4 = preset("R4"), cpu = preset("R5-cpu"),
              gpu = preset("R5-gpu");
  CHECK(configurations(r1).size() == 18);
  CHECK(r2.device == Device::cuda);
  CHECK(r2.models == std::vector<std::string>{"efficientnet_b3"});
  CHECK(r2.ranks == std::vector{1, 2, 4});
  CHECK(r2.batches == std::vector{32});
  CHECK(r2.precisions == std::vector<std::string>{"fp32", "fp16"});
  CHECK(r4.models == std::vector<std::string>{"mnist_cnn"});
  CHECK(study_of({.preset = "R4", .data = "mnist"}, kGpu).workers == std::vector{1, 8});
  CHECK(cpu.device == Device::cpu);
  CHECK(cpu.ranks == std::vector{1, 2, 3, 4, 5, 6, 7, 8});
  CHECK(cpu.threads_per_rank == 1);
  CHECK(cpu.batches == std::vector{32});
  CHECK(gpu.ranks == std::vector{1, 2, 3});
  CHECK(gpu.batches == std::vector{16, 32, 64, 128});
  CHECK(mentions(refused({.preset = "R3"}), "R1, R2, R4, R5-cpu, R5-gpu"));
}

TEST_CASE("flags override a preset") {
  StudyFlags flags{.preset = "R5-cpu", .models = "mnist_cnn", .ranks = "1,2"};
  flags.steps = 4;
  const Study study = study_of(flags, kGpu);
  CHECK(study.models == std::vector<std::string>{"mnist_cnn"});
  CHECK(study.ranks == std::vector{1, 2});
  CHECK(study.batches == std::vector{32});
  CHECK(study.steps == 4);
  StudyFlags moved{.preset = "R2"};
  moved.device = Device::cpu;
  CHECK(study_of(moved, kGpu).ranks == std::vector{1, 2, 4});  // cores in place of GPUs
}

TEST_CASE("flags that cannot be are named") {
  CHECK(mentions(refused({.models = "mnist_cnn,resnet"}), "'resnet'"));
  CHECK(mentions(refused({.precisions = "fp32,fp7"}), "fp7"));
  CHECK(mentions(refused({.batches = "32,0"}), "--batch-size: '0'"));
  CHECK(mentions(refused({.gpus = "1", .ranks = "1"}), "--gpus 1 and --ranks 1"));
  StudyFlags flags{.gpus = "2"};
  flags.device = Device::cpu;
  CHECK(mentions(refused(flags), "--gpus needs --device cuda"));
}
