// engine predict: inputs of every kind, lines in order, views, temperature, features, maps; and one
// bad file that costs itself alone.
#include <doctest/doctest.h>
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <filesystem>
#include <map>
#include <string>

#include "io/files/csv.h"
#include "io/images/decode.h"
#include "io/images/encode.h"
#include "io/weights/safetensors.h"
#include "tests/json.h"
#include "tests/support.h"
#include "tests/tools/engine/drawn_set.h"
#include "tests/tools/engine/program.h"
#include "tools/score/model_file.h"

using namespace engine;
using namespace engine::test;
using nlohmann::json;
namespace fs = std::filesystem;

namespace {

constexpr int kSide = 48;         // of the drawn images: nothing is resized
constexpr double kCooling = 2.5;  // the temperature of its weights

// Ten drawn images and a network that has learned nothing, whose classes have names of any kind.
struct Pictures : Drawn {
  fs::path weights = folder.path() / "weights.safetensors";
  const std::vector<std::string> classes = {"nävus", "黑色素瘤", "a, b", "d", "e"};

  explicit Pictures(const char* model = "resnet18") {
    const Preprocess preprocess{.resize_height = kSide, .crop = kSide};
    const auto backend = make_reference_backend({});
    Session session(
        make_model(model, {.classes = int(classes.size()), .height = kSide, .width = kSide}),
        *backend, {.programs = {{1, Mode::evaluate}}});
    session.initialise(3);
    TensorFile file = model_file(session.graph(), session.state(), classes, preprocess);
    file.metadata[engine::kTemperature] = fmt::format("{}", kCooling);
    write_safetensors(weights, file);
  }
  std::string flags() const {
    return fmt::format("predict --device cpu --threads 2 --workers 2 --weights {} ",
                       weights.string());
  }
  Outcome run(const std::string& more) const {
    const Outcome outcome = engine_cli(flags() + more);
    INFO(outcome.err);
    CHECK(outcome.code == 0);
    return outcome;
  }
};

std::vector<json> lines_of(const std::string& text) {
  std::vector<json> all;
  for (size_t at = 0, end; at < text.size(); at = end + 1) {
    end = text.find('\n', at);
    all.push_back(parse_json<json>(text.substr(at, end - at)));
  }
  return all;
}

std::vector<double> softmax(const json& logits, double temperature = 1) {
  std::vector<double> p;
  double sum = 0;
  for (const json& z : logits) sum += p.emplace_back(std::exp(z.get<double>() / temperature));
  for (double& value : p) value /= sum;
  return p;
}

// The values of an array, whose header must name that shape.
std::vector<float> npy_values(const fs::path& file, const std::string& shape) {
  const std::string bytes = read(file);
  REQUIRE(bytes.find("'shape': (" + shape + "), }") != std::string::npos);
  std::vector<float> values((bytes.size() - 128) / sizeof(float));
  std::memcpy(values.data(), bytes.data() + 128, values.size() * sizeof(float));
  return values;
}

}  // namespace

TEST_CASE("predict: folders, patterns and lists are the same images, on any number of ranks") {
  const Pictures scene;
  const fs::path set = scene.set / "val";
  const Outcome folder = scene.run(fmt::format("--csv -b 3 {}", set.string()));
  const Csv csv = parse_csv(folder.out, "stdout");
  REQUIRE(csv.rows.size() == 10);
  CHECK(mentions(folder.err, "10 images in "));
  CHECK(mentions(folder.err, "the limit is "));
  CHECK(scene.run(fmt::format("--csv -b 3 '{}/*/*'", set.string())).out == folder.out);
  for (const char* list : {"find {} -type f | sort |", "find {} -type f -print0 | sort -z |"}) {
    const Outcome listed = run_script(fmt::format(fmt::runtime(list), set.string()) +
                                      " \"$engine\" " + scene.flags() + " --csv -b 3 -");
    CHECK(listed.out == folder.out);
  }
  const fs::path out = scene.path("out.csv");
  CHECK(scene.run(fmt::format("-b 3 --out {} {}", out.string(), set.string())).out.empty());
  CHECK(read(out) == folder.out);

  for (const char* ranks : {"-b 1 --ranks 2", "-b 2 --ranks 3", "-b 16 --ranks 4"}) {
    CAPTURE(ranks);
    const Outcome shared = scene.run(fmt::format("--csv {} {}", ranks, set.string()));
    const Csv rows = parse_csv(shared.out, "stdout");
    REQUIRE(rows.rows.size() == csv.rows.size());
    for (size_t i = 0; i < rows.rows.size(); ++i) {
      CHECK(rows.rows[i].fields[0] == csv.rows[i].fields[0]);
      CHECK(rows.rows[i].fields[1] == csv.rows[i].fields[1]);
      CHECK(std::stod(rows.rows[i].fields[3]) ==
            doctest::Approx(std::stod(csv.rows[i].fields[3])).epsilon(1e-4));
    }
    CHECK(mentions(shared.err, " ranks; "));
  }
}

TEST_CASE("predict: the most probable classes, all probabilities, and a temperature") {
  const Pictures scene;
  const std::string image = scene.image("val", "star", 0);
  const json line = lines_of(scene.run("--json --top 3 --probabilities " + image).out).at(0);
  const std::vector<double> p = softmax(line["logits"]);
  REQUIRE(line["top"].size() == 3);
  CHECK(line["top"][0]["class"] == line["class"]);
  CHECK(line["top"][1]["probability"] <= line["top"][0]["probability"]);
  CHECK(line["probabilities"].size() == scene.classes.size());
  for (size_t c = 0; c < scene.classes.size(); ++c)
    CHECK(line["probabilities"][scene.classes[c]].get<double>() ==
          doctest::Approx(p[c]).epsilon(1e-5));
  const Outcome csv = scene.run("--csv --top 2 --probabilities " + image);
  CHECK(
      csv.out.starts_with("path,class,class_index,probability,class_2,class_index_2,"
                          "probability_2,p:nävus,p:黑色素瘤,\"p:a, b\",p:d,p:e\n"));

  const json calm = lines_of(scene.run("--json --probabilities --calibrated " + image).out).at(0);
  CHECK(calm["logits"] == line["logits"]);
  const std::vector<double> cooled = softmax(line["logits"], kCooling);
  for (size_t c = 0; c < scene.classes.size(); ++c)
    CHECK(calm["probabilities"][scene.classes[c]].get<double>() ==
          doctest::Approx(cooled[c]).epsilon(1e-5));
  CHECK(std::abs(cooled[0] - p[0]) > 1e-3);  // it does something

  check_fails(engine_cli(scene.flags() + "--reject " + image), 4, "tells no threshold");
  TensorFile file = read_safetensors(scene.weights);
  file.metadata.erase(engine::kTemperature);
  file.metadata[engine::kReject] = R"({"accuracy": 0.9, "threshold": 1, "calibrated": null})";
  write_safetensors(scene.weights, file);
  const Outcome marked = scene.run("--reject " + image);
  CHECK(mentions(marked.out, ": not answered; the most likely is "));
  CHECK(mentions(marked.err, "1 of 1 images not answered: their probability is below 1.000"));
  check_fails(engine_cli(scene.flags() + "--calibrated " + image), 4, "tells no temperature");
  check_fails(engine_cli(scene.flags() + "--probabilities " + image), 2, "--csv or --json");
}

// The views are made of files here, each of which the program reads as an image.
TEST_CASE("predict: views are averaged as probabilities") {
  const Pictures scene;
  const Image image = read_image(scene.image("val", "arrow", 0), 3);
  const auto turned = [&](int view) {
    Image out(kSide, kSide, 3);
    for (int y = 0; y < kSide; ++y)
      for (int x = 0; x < kSide; ++x) {
        int row = view & 4 ? x : y, column = view & 4 ? y : x;
        if (view & 2) row = kSide - 1 - row;
        if (view & 1) column = kSide - 1 - column;
        std::copy_n(image.row(row) + column * 3, 3, out.row(y) + x * 3);
      }
    const fs::path file = scene.path("view") + std::to_string(view) + ".png";
    write_image(file, out);
    return file.string();
  };
  std::vector<std::string> files;
  for (int view = 0; view < 8; ++view) files.push_back(turned(view));
  const std::vector<json> each =
      lines_of(scene.run(fmt::format("--json {}", fmt::join(files, " "))).out);
  REQUIRE(each.size() == 8);
  for (const auto& [flag, views] : std::map<std::string, size_t>{{"flips", 2}, {"dihedral", 8}}) {
    const json mean =
        lines_of(scene.run(fmt::format("--json --probabilities --tta {} {}", flag, files[0])).out)
            .at(0);
    for (size_t c = 0; c < scene.classes.size(); ++c) {
      double expected = 0;
      for (size_t v = 0; v < views; ++v) expected += softmax(each[v]["logits"])[c] / double(views);
      CHECK(mean["probabilities"][scene.classes[c]].get<double>() ==
            doctest::Approx(expected).epsilon(1e-5));
    }
    for (size_t c = 0; c < scene.classes.size(); ++c)  // of the image itself
      CHECK(mean["logits"][c].get<double>() ==
            doctest::Approx(each[0]["logits"][c].get<double>()).epsilon(1e-4));
  }
  CHECK(std::abs(softmax(each[0]["logits"])[0] - softmax(each[1]["logits"])[0]) > 1e-5);
}

TEST_CASE("predict: features and maps belong to the logits, and a bad file costs itself alone") {
  const Pictures scene;
  const fs::path bad = scene.image("val", "disk", 0), npy = scene.path("f.npy"),
                 maps = scene.path("maps");
  fs::resize_file(bad, 40);
  const std::string missing = scene.path("none.png");
  const Outcome outcome = engine_cli(
      scene.flags() + fmt::format("--json -b 3 --ranks 2 --embeddings {} --explain {} --tta flips "
                                  "{} {} '{}/*.gif'",
                                  npy.string(), maps.string(), (scene.set / "val").string(),
                                  missing, scene.set.string()));
  INFO(outcome.err);
  CHECK(outcome.code == 3);
  for (const std::string& name : {bad.string(), missing, std::string("*.gif: no file matches")})
    CHECK(mentions(outcome.err, name));
  const std::vector<json> lines = lines_of(outcome.out);
  REQUIRE(lines.size() == 9);

  const Csv paths = read_csv(scene.path("f.csv")), table = read_csv(maps / "maps.csv");
  REQUIRE(paths.rows.size() == 9);
  REQUIRE(table.rows.size() == 9);
  const TensorFile file = read_safetensors(scene.weights);
  const auto weight = file.tensors.at("fc.weight").as<float>(),
             bias = file.tensors.at("fc.bias").as<float>();
  constexpr size_t kFeatures = 512, kMap = 2 * 2;
  const std::vector<float> features = npy_values(npy, "9,512"),
                           values = npy_values(maps / "maps.npy", "9,2,2");
  REQUIRE(features.size() == 9 * kFeatures);
  REQUIRE(values.size() == 9 * kMap);
  for (size_t i = 0; i < 9; ++i) {
    CHECK(lines[i]["path"] == paths.rows[i].fields[0]);
    CHECK(lines[i]["path"] == table.rows[i].fields[0]);
    for (size_t c = 0; c < scene.classes.size(); ++c) {
      double logit = bias[c];
      for (size_t k = 0; k < kFeatures; ++k)
        logit += double(weight[c * kFeatures + k]) * features[i * kFeatures + k];
      CHECK(lines[i]["logits"][c].get<double>() == doctest::Approx(logit).epsilon(1e-4));
    }
    const size_t shown = lines[i]["class_index"];
    CHECK(table.rows[i].fields[3] == std::to_string(shown));
    double mean = bias[shown];
    for (size_t k = 0; k < kMap; ++k) mean += values[i * kMap + k] / double(kMap);
    CHECK(lines[i]["logits"][shown].get<double>() == doctest::Approx(mean).epsilon(1e-4));
    const Image picture = read_image(maps / table.rows[i].fields[1], 3);
    CHECK(picture.width == kSide);
  }
  CHECK(read_image(maps / "sheet.png", 3).width > 3 * 2 * 150);
  const size_t files = size_t(std::distance(fs::directory_iterator(maps), {}));
  CHECK(files == 9 + 3);  // maps.npy, maps.csv, sheet.png: no temporary
}

TEST_CASE("predict: maps of one class, and what has none") {
  const Pictures scene;
  const std::string image = scene.image("val", "star", 0);
  const auto class_of = [&](const std::string& name) {
    const fs::path folder = scene.path("one");
    fs::remove_all(folder);
    scene.run(fmt::format("--explain {} --explain-class '{}' {}", folder.string(), name, image));
    return read_csv(folder / "maps.csv").rows.at(0).fields.at(2);
  };
  CHECK(class_of("a, b") == "a, b");
  CHECK(class_of("1") == "黑色素瘤");
  const std::string explain = fmt::format("--explain {} {} ", scene.path("maps"), image);
  check_fails(engine_cli(scene.flags() + explain + "--explain-class x"), 2,
              "--explain-class x: none of the 5 classes");
  check_fails(engine_cli(scene.flags() + explain + "--explain-class 5"), 2,
              "none of the 5 classes");
  check_fails(engine_cli(scene.flags() + "--explain-class d " + image), 2, "goes with --explain");
  check_fails(engine_cli(scene.flags() + fmt::format("--explain {} {}", scene.set.string(), image)),
              2, "is not empty");
  check_fails(engine_cli(scene.flags() + "--embeddings x.txt " + image), 2, "ends in .npy");
  check_fails(engine_cli(scene.flags() + "--embeddings /nonexistent/x.npy " + image), 3,
              "/nonexistent/x");
  CHECK_FALSE(fs::exists(scene.path("maps")));
}
