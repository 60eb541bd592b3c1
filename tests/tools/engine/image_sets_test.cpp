// Image sets as people have them: what is not used is counted, check-data and train agree, groups
// stay together, unreadable images are named in every part.
#include <doctest/doctest.h>
#include <fmt/format.h>

#include <filesystem>
#include <map>
#include <string>
#include <vector>

#include "io/files/csv.h"
#include "io/images/encode.h"
#include "tests/json.h"
#include "tests/support.h"
#include "tests/tools/engine/program.h"

using namespace engine;
using namespace engine::test;
using nlohmann::json;
namespace fs = std::filesystem;

namespace {

// A gray picture of 28 x 28 pixels; another number makes another picture.
void draw(const fs::path& file, int number) {
  Image image(28, 28, 1);
  for (size_t i = 0; i < image.pixels.size(); ++i)
    image.pixels[i] = uint8_t(number * 37 + int(i) * (number % 7 + 1));
  const auto bytes = encode_png(image);
  fs::create_directories(file.parent_path());
  write_text(file, {reinterpret_cast<const char*>(bytes.data()), bytes.size()});
}

struct Set {
  TemporaryFolder folder;
  fs::path root = folder.path() / "set";
  int drawn = 0;

  // train/{a,b} with four pictures each, val/{a,b} with two.
  Set() {
    for (const char* name : {"a", "b"}) {
      add(fmt::format("train/{}", name), 4);
      add(fmt::format("val/{}", name), 2);
    }
  }
  void add(const std::string& place, int count) {
    for (int i = 0; i < count; ++i, ++drawn) draw(root / place / fmt::format("{}.png", i), drawn);
  }
  std::string path(const char* name) const { return folder.path() / name; }
};

const std::string kTrainOnce =
    "train --model mnist_cnn --image-size 12 --epochs 1 --batch-size 4 --device cpu --threads 1 ";

}  // namespace

TEST_CASE("check-data ends well exactly where a training starts") {
  const auto agree = [](const char* what, bool good, const std::string& said, const auto& change,
                        const std::string& flags = "") {
    CAPTURE(what);
    Set set;
    change(set);
    const Outcome check = engine_cli(fmt::format("check-data {} {}", set.root.string(), flags));
    const Outcome plan =
        engine_cli(fmt::format("{} --data {} {} --dry-run", kTrainOnce, set.root.string(), flags));
    INFO(check.err);
    CHECK(check.code == (good ? 0 : 8));
    CHECK(plan.code == (good ? 0 : 3));
    for (const Outcome* outcome : {&check, &plan}) CHECK(mentions(outcome->err, said));
  };
  agree("as it should be", true, "", [](Set&) {});
  agree("an empty class", false, "train/void: no images in this class folder",
        [](Set& set) { fs::create_directories(set.root / "train/void"); });
  agree("a class that only val has", false, "class \"c\" is not one of the 2 classes",
        [](Set& set) { set.add("val/c", 1); });
  agree("one class", false, "all of one class, \"a\"", [](Set& set) {
    fs::remove_all(set.root / "train/b");
    fs::remove_all(set.root / "val/b");
  });
  agree("capitals", true, "", [](Set& set) {
    fs::rename(set.root / "train", set.root / "Train");
    fs::rename(set.root / "val", set.root / "Val");
  });
  agree("a flat test folder", true, "test: passed over, it has no class folders",
        [](Set& set) { set.add("test", 1); });
  agree("class folders without parts", false, "no train folder in it",
        [](Set& set) { set.root /= "train"; });
  agree(
      "class folders to be split", true, "chosen at random", [](Set& set) { set.root /= "train"; },
      "--split 0.5/0.5 --stratify");
  agree("test without val", true, "are 0.8 of the images to train and 0.2 to validate",
        [](Set& set) { fs::rename(set.root / "val", set.root / "test"); });
  agree("files of other kinds", true, "not used: 1 .heic, 1 .txt", [](Set& set) {
    write_text(set.root / "train/a/x.heic", "x");
    write_text(set.root / "train/b/x.txt", "x");
  });
}

TEST_CASE("leaks and copies with several labels: said, or an error in check-data and in train") {
  Set set;
  fs::copy_file(set.root / "train/a/0.png", set.root / "val/b/copy.png");
  const auto run = [&](const std::string& verb, const std::string& flags) {
    return engine_cli(fmt::format("{} {} {}", verb, set.root.string(), flags));
  };
  const std::string train = kTrainOnce + "--out " + set.path("run") + " --data";
  const Outcome check = run("check-data", "--json"), strict = run("check-data", "--on-leak error");
  CHECK(check.code == 0);
  CHECK(parse_json<json>(check.out)["leaks"] == 1);
  CHECK(parse_json<json>(check.out)["conflicts"] == 1);
  CHECK(mentions(check.err, "with several labels, the first is \"a\" in train as"));
  CHECK(strict.code == 8);
  CHECK(mentions(strict.err, "--on-leak error: 1 image is in several parts"));
  const Outcome refused = run(train, "--on-leak error");
  CHECK(refused.code == 3);
  CHECK(mentions(refused.err, "--on-leak error: 1 image is in several parts, 1 image is with"));
  CHECK_FALSE(fs::exists(set.path("run")));
  const Outcome said = run(train, "");
  CHECK(said.code == 0);
  CHECK(mentions(said.err, "1 image has copies with several labels"));
  CHECK(fs::exists(fs::path(set.path("run")) / "duplicates.csv"));
  CHECK(run("check-data", "--on-leak error --no-duplicate-check").code == 0);
}

TEST_CASE("a patient's images stay in one part, and eval and resume agree on which") {
  const TemporaryFolder folder;
  std::string text = "image,label,patient\n";
  int drawn = 0;
  for (int patient = 0; patient < 16; ++patient)
    for (int i = 0; i <= patient % 3; ++i, ++drawn) {
      draw(folder.path() / fmt::format("img/p{}_{}.png", patient, i), drawn);
      text += fmt::format("p{}_{},{},P{}\n", patient, i, patient % 2 ? "mel" : "nv", patient);
    }
  const fs::path file = folder.path() / "labels.csv", out = folder.path() / "run";
  write_text(file, text);
  const std::string data = fmt::format(
      "--labels {} --path-column image --image-root {} --image-suffix .png --group-column patient "
      "--split 0.6/0.2/0.2 --stratify --split-seed 4 ",
      file.string(), (folder.path() / "img").string());
  const std::string train = kTrainOnce + data + "--resume auto --out " + out.string();
  const Outcome first = engine_cli(train);
  INFO(first.err);
  REQUIRE(first.code == 0);
  const std::string split = read(out / "split.csv");
  const Csv rows = parse_csv(split, "split.csv");
  REQUIRE(rows.header == std::vector<std::string>{"path", "label", "split", "group"});
  REQUIRE(rows.rows.size() == size_t(drawn));
  std::map<std::string, std::string> part_of;
  std::map<std::string, int> images;
  for (const CsvRow& row : rows.rows) {
    CHECK(part_of.emplace(row.fields[3], row.fields[2]).first->second == row.fields[2]);
    ++images[row.fields[2]];
  }
  CHECK(part_of.size() == 16);
  CHECK(images.size() == 3);

  const auto scored = [&](const std::string& flags) {
    const Outcome outcome =
        engine_cli(fmt::format("eval {} --part test --json --resamples 0 --device cpu --weights "
                               "{}/weights/best.safetensors",
                               flags, out.string()));
    INFO(outcome.err);
    REQUIRE(outcome.code == 0);
    const json result = parse_json<json>(outcome.out);
    return std::pair(result["samples"].get<int>(), result["loss"].get<double>());
  };
  const auto again = scored(data);
  CHECK(again.first == images["test"]);
  CHECK(again == scored(fmt::format("--data {} --split-file {}", (folder.path() / "img").string(),
                                    (out / "split.csv").string())));
  CHECK(engine_cli(train + " --epochs 2").code == 0);
  CHECK(read(out / "split.csv") == split);
  write_text(file, text.replace(text.find("P0"), 2, "P1"));
  check_fails(engine_cli(train + " --epochs 3"), 3, "the images are not those of the run");

  // Groups across the parts that a file names are leaks, whether a column or a name tells them.
  const fs::path img = folder.path() / "img";
  write_text(folder.path() / "parts.csv",
             "path,label,split\np1_0.png,a,train\np2_0.png,b,train\np1_1.png,a,val\n");
  const Outcome leak = engine_cli(fmt::format(
      "check-data --labels {}/parts.csv --image-root {} --group-pattern '^(p[0-9]+)_' --json",
      folder.path().string(), img.string()));
  CHECK(leak.code == 0);
  CHECK(parse_json<json>(leak.out)["group_leaks"] == 1);
  CHECK(mentions(leak.err, "1 group is in several parts, the first, \"p1\", in train as"));
}

TEST_CASE("--on-bad-image skip names unreadable images of every part; a class needs one image") {
  Set set;
  for (const char* name : {"train/a/1.png", "val/b/0.png"}) write_text(set.root / name, "");
  const auto train = [&](const char* out, const char* cache) {
    return engine_cli(fmt::format("{} --data {} --on-bad-image skip --cache {} --out {}",
                                  kTrainOnce, set.root.string(), cache, set.path(out)));
  };
  for (const char* cache : {"none", "ram"}) {
    CAPTURE(cache);
    const Outcome outcome = train(cache, cache);
    CHECK(outcome.code == 0);
    for (const char* name : {"train/a/1.png", "val/b/0.png"})
      CHECK(mentions(outcome.err, "skipped " + (set.root / name).string()));
    CHECK(mentions(outcome.err, "train: of 8 images 1 cannot be read and are left out"));
    CHECK(mentions(outcome.err, "validation: of 4 images 1 cannot be read and are left out"));
    CHECK(events(set.path(cache), "bad_images").size() == 2);
  }
  const std::string weights = set.path("ram") + "/weights/best.safetensors";
  const Outcome eval = engine_cli(fmt::format(
      "eval --data {} --weights {} --device cpu --json --resamples 0 --on-bad-image skip",
      set.root.string(), weights));
  CHECK(parse_json<json>(eval.out)["samples"] == 3);
  CHECK(parse_json<json>(eval.out)["unreadable"] == 1);
  CHECK(mentions(eval.err, "val: of 4 images 1 cannot be read"));

  // predict has a line for each image that can be read, whatever else is there.
  write_text(set.root / "val/notes.txt", "x");
  const std::string predict = fmt::format("predict --device cpu --weights {} ", weights);
  const Outcome predicted = engine_cli(predict + "--csv " + (set.root / "val").string());
  CHECK(predicted.code == 3);
  CHECK(parse_csv(predicted.out, "stdout").rows.size() == 3);
  CHECK(mentions(predicted.err, (set.root / "val/b/0.png").string()));
  CHECK(mentions(predicted.err, "of 5 files 4 are images; not used: 1 .txt"));
  check_fails(engine_cli(predict + (set.root / "val/b/0.png").string()), 3, "val/b/0.png");

  const std::string check = fmt::format("check-data {} ", set.root.string());
  CHECK(engine_cli(check).code == 8);
  CHECK(engine_cli(check + "--on-bad-image skip").code == 0);
  const fs::path val = set.root / "val", kept = set.folder.path() / "kept";
  fs::copy(val, kept, fs::copy_options::recursive);
  for (const char* name : {"a/0.png", "a/1.png", "b/1.png"}) write_text(val / name, "");
  for (const char* cache : {"none", "ram"}) {
    const Outcome outcome = train("unseen", cache);
    CHECK(outcome.code == 3);
    CHECK(mentions(outcome.err, "val: none of its 4 images can be read"));
    CHECK_FALSE(mentions(outcome.err, "epoch 1/1"));
    fs::remove_all(set.path("unseen"));
  }
  CHECK(engine_cli(check + "--on-bad-image skip").code == 8);
  fs::remove_all(val);
  fs::rename(kept, val);
  for (int i = 0; i < 4; ++i) write_text(set.root / fmt::format("train/b/{}.png", i), "");
  const std::string lost = "class \"b\": none of its 4 images can be read";
  for (const char* cache : {"none", "ram"}) {
    const Outcome outcome = train("lost", cache);
    CHECK(outcome.code == 3);
    CHECK(mentions(outcome.err, lost));
    fs::remove_all(set.path("lost"));
  }
  const Outcome checked = engine_cli(check + "--on-bad-image skip");
  CHECK(checked.code == 8);
  CHECK(mentions(checked.err, lost));
}

TEST_CASE("mean and std go with the weights; digits are upright") {
  Set set;
  const std::string train =
      fmt::format("{} --data {} --cache none ", kTrainOnce, set.root.string());
  const Outcome plain = engine_cli(train + "--mean none --std none --out " + set.path("run"));
  CHECK(plain.code == 0);
  CHECK(mentions(plain.err, "mean 0, std 1"));
  CHECK(mentions(plain.err, "images of digits are not flipped"));
  const std::string eval = fmt::format(
      "eval --data {} --device cpu --resamples 0 --weights {}/weights/best.safetensors ",
      set.root.string(), set.path("run"));
  CHECK(mentions(engine_cli(eval).err, "mean 0, std 1"));
  CHECK(mentions(engine_cli(eval + "--mean 0.5 --std 0.25").err, "mean 0.5, std 0.25"));
  check_fails(engine_cli(eval + "--std 0"), 2, "--std 0: values are above 0");
  CHECK_FALSE(mentions(engine_cli(train + "--hflip 0.5 --dry-run").err, "not flipped"));
}
