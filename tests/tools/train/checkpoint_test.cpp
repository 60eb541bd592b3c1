#include "tools/train/checkpoint.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <fstream>
#include <string>
#include <vector>

#include "engine/error.h"
#include "io/weights/safetensors.h"
#include "tests/support.h"

using namespace engine;
using namespace engine::test;

namespace {

namespace fs = std::filesystem;

Checkpoint example(int64_t step) {
  Checkpoint c;
  c.at.epoch = 2;
  c.at.position = 160;
  c.at.step = step;
  c.at.scheduled = step - 1;
  c.at.validated = 40;
  c.at.loss_sums = {0.1 + 0.2, 1 / 3.};
  c.at.weight = 320.5;
  c.at.schedule.factor = 0.1;
  c.at.schedule.bad_epochs = 1;
  c.at.early_stop = {0.7, 224, 1};
  c.at.best = {1, 20, 224, 0.7, 1.1};
  c.at.seconds = 12.5;
  Tensor weight(DType::f32, {2, 3});
  weight.as<float>()[4] = static_cast<float>(step);
  c.model["conv.weight"] = weight;
  c.optimizer["moment1.conv.weight"] = weight;
  c.ema["conv.weight"] = weight;
  c.identity = {.model = "m", .classes = {"a"}};
  return c;
}

void save(const CheckpointFolder& folder, int64_t step) {
  folder.write(example(step), state_digest(example(step)));
}

std::vector<std::string> names_in(const fs::path& folder) {
  std::vector<std::string> names;
  for (const auto& entry : fs::directory_iterator(folder))
    names.push_back(entry.path().filename().string());
  std::sort(names.begin(), names.end());
  return names;
}

void change_byte(const fs::path& file, int64_t from_end) {
  std::fstream stream(file, std::ios::in | std::ios::out | std::ios::binary);
  stream.seekg(-from_end, std::ios::end);
  const char byte = static_cast<char>(stream.get());
  stream.seekp(-from_end, std::ios::end);
  stream.put(static_cast<char>(byte ^ 1));
}

std::string name_of_step(int64_t step) {
  return fmt::format("step_{:08}.safetensors", step);
}

}  // namespace

TEST_CASE("what is watched is part of a checkpoint, of which former versions knew nothing") {
  const TemporaryFolder folder;
  const CheckpointFolder checkpoints(folder.path(), 2);
  const Checkpoint former = example(44);
  Checkpoint c = example(45);
  c.at.watch = "df\xff:recall";
  c.at.plateau = "loss";
  c.at.best.merit = 0.625;
  CHECK(state_digest(former) != state_digest(c));
  const Checkpoint back = read_checkpoint(checkpoints.write(c, state_digest(c)));
  CHECK(back.at.watch == c.at.watch);
  CHECK(back.at.plateau == "loss");
  CHECK(back.at.best.merit == 0.625);
  c.at.best.merit = -INFINITY;
  CHECK(read_checkpoint(checkpoints.write(c, state_digest(c))).at.best.merit == -INFINITY);
  const Checkpoint old = read_checkpoint(checkpoints.write(former, state_digest(former)));
  CHECK(old.at.watch.empty());
  CHECK(old.at.best.top1 == 0.7);
}

TEST_CASE("a checkpoint comes back bit for bit") {
  const TemporaryFolder folder;
  const Checkpoint c = example(45);
  const fs::path file = CheckpointFolder(folder.path(), 2).write(c, state_digest(c));
  const Checkpoint back = read_checkpoint(file);
  CHECK(state_digest(back) == state_digest(c));
  CHECK(back.at.loss_sums == c.at.loss_sums);
  CHECK(std::isinf(back.at.schedule.best));
  CHECK(back.at.seconds == 12.5);
  CHECK(back.at.best.top1 == 0.7);
  CHECK(back.at.early_stop.bad_epochs == 1);
  CHECK(back.model.at("conv.weight").bytes == c.model.at("conv.weight").bytes);
  CHECK(back.identity == c.identity);
}

TEST_CASE("a file holds the same texts by name as ever") {
  const TemporaryFolder folder;
  Checkpoint c = example(45);
  c.algorithms = {{"cpu threads", "1"}};
  const fs::path file = CheckpointFolder(folder.path(), 2).write(c, state_digest(c));
  const std::map<std::string, std::string> texts = read_safetensors(file).metadata;
  std::vector<std::string> names;
  for (const auto& [name, text] : texts) names.push_back(name);
  CHECK(names == std::vector<std::string>{"algorithms", "batches", "cache", "classes",
                                          "facts_sha256", "format", "image_contents", "image_files",
                                          "image_sizes", "images", "model", "position",
                                          "preprocess", "recipe", "seconds", "state_sha256"});
  CHECK(texts.at("model") == "m");
  CHECK(texts.at("classes") == "[\"a\"]");
  CHECK(texts.at("algorithms") == R"({"cpu threads":"1"})");
  CHECK(read_checkpoint(file).algorithms == c.algorithms);
}

TEST_CASE("the digest changes with every part of the state, not with the clock") {
  const std::string digest = state_digest(example(45));
  Checkpoint c = example(45);
  c.at.seconds = 99;
  CHECK(state_digest(c) == digest);
  c.at.position = 161;
  CHECK(state_digest(c) != digest);
  c = example(45);
  c.ema.at("conv.weight").bytes.back() ^= std::byte{1};
  CHECK(state_digest(c) != digest);
  c = example(45);
  c.model.swap(c.optimizer);
  CHECK(state_digest(c) != digest);
  c = example(45);
  c.at.loss_sums[0] = std::nextafter(c.at.loss_sums[0], 1);
  CHECK(state_digest(c) != digest);
}

TEST_CASE("the last ones are kept, also beyond eight digits and after going back") {
  const TemporaryFolder folder;
  const CheckpointFolder checkpoints(folder.path(), 2);
  CHECK(!checkpoints.newest([](const std::string&) {}));
  for (int64_t step : {99'999'998, 99'999'999, 100'000'000}) save(checkpoints, step);
  CHECK(names_in(folder.path() / "ckpt") ==
        std::vector<std::string>{name_of_step(100'000'000), name_of_step(99'999'999)});
  CHECK(checkpoints.newest([](const std::string&) {})->at.step == 100'000'000);
  save(checkpoints, 50);  // resumed from an early step: the later ones are void
  CHECK(names_in(folder.path() / "ckpt") == std::vector<std::string>{name_of_step(50)});
}

TEST_CASE("a damaged checkpoint is named and the one before is taken") {
  for (int64_t from_end : {1, 25, 600}) {  // tensors, and the texts before them
    const TemporaryFolder folder;
    const CheckpointFolder checkpoints(folder.path(), 3);
    save(checkpoints, 1);
    save(checkpoints, 2);
    change_byte(folder.path() / "ckpt" / name_of_step(2), from_end);
    std::vector<std::string> said;
    const auto found = checkpoints.newest([&](const std::string& line) { said.push_back(line); });
    REQUIRE(found);
    CHECK(found->at.step == 1);
    REQUIRE(said.size() == 1);
    CHECK(said[0].find(name_of_step(2)) != std::string::npos);
    save(checkpoints, 2);
    CHECK(checkpoints.newest([](const std::string&) {})->at.step == 2);
  }
}

TEST_CASE("a truncated checkpoint is damaged; where all are, it is an error") {
  const TemporaryFolder folder;
  const CheckpointFolder checkpoints(folder.path(), 3);
  save(checkpoints, 1);
  const fs::path file = folder.path() / "ckpt" / name_of_step(1);
  fs::resize_file(file, fs::file_size(file) - 1);
  CHECK_THROWS_AS(checkpoints.newest([](const std::string&) {}), Error);
}

TEST_CASE("what a killed writer left is not read, and removed") {
  const TemporaryFolder folder;
  const CheckpointFolder checkpoints(folder.path(), 3);
  save(checkpoints, 1);
  std::ofstream(folder.path() / "ckpt" / (name_of_step(2) + ".77-0.tmp")) << "half";
  CHECK(checkpoints.newest([](const std::string&) {})->at.step == 1);
  checkpoints.remove_leftovers();
  CHECK(names_in(folder.path() / "ckpt") == std::vector<std::string>{name_of_step(1)});
}

TEST_CASE("a checkpoint that cannot be written leaves the former one") {
  const TemporaryFolder folder;
  const CheckpointFolder checkpoints(folder.path(), 1);
  save(checkpoints, 1);
  fs::create_directory(folder.path() / "ckpt" / name_of_step(2));  // cannot be replaced by a file
  std::ofstream(folder.path() / "ckpt" / name_of_step(2) / "in the way") << 1;
  CHECK_THROWS_WITH_AS(save(checkpoints, 2), doctest::Contains("is intact"), Error);
  fs::remove_all(folder.path() / "ckpt" / name_of_step(2));
  CHECK(checkpoints.newest([](const std::string&) {})->at.step == 1);
}

TEST_CASE("a checkpoint whose numbers are not finite is passed over") {
  const TemporaryFolder folder;
  const CheckpointFolder checkpoints(folder.path(), 3);
  save(checkpoints, 1);
  Checkpoint bad = example(2);
  bad.optimizer.at("moment1.conv.weight").as<float>()[0] = std::nanf("");
  const std::string digest = state_digest(bad);
  checkpoints.write(std::move(bad), digest);
  std::string said;
  const auto newest = checkpoints.newest([&](const std::string& line) { said = line; });
  REQUIRE(newest);
  CHECK(newest->at.step == 1);
  CHECK(mentions(said, "step_00000002.safetensors: moment1.conv.weight holds nan"));
}
