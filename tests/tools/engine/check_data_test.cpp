// engine check-data as scripts see it.
#include <doctest/doctest.h>
#include <fmt/format.h>

#include <filesystem>
#include <fstream>
#include <string>

#include "io/files/csv.h"
#include "io/images/encode.h"
#include "io/images/inspect.h"
#include "tests/json.h"
#include "tests/support.h"
#include "tests/tools/engine/program.h"

using namespace engine;
using namespace engine::test;
namespace fs = std::filesystem;

namespace {

Outcome check_data(const std::string& arguments) {
  return engine_cli("check-data " + arguments);
}

void write(const fs::path& path, std::string_view bytes) {
  fs::create_directories(path.parent_path());
  std::ofstream(path, std::ios::binary).write(bytes.data(), std::streamsize(bytes.size()));
}

void draw(const fs::path& path, int width, int height, int channels, uint8_t value) {
  Image image(width, height, channels);
  std::ranges::fill(image.pixels, value);
  const auto bytes = path.extension() == ".jpg" ? encode_jpeg(image, 90) : encode_png(image);
  write(path, {reinterpret_cast<const char*>(bytes.data()), bytes.size()});
}

// A gray PNM of 16 bits.
const std::string kDeep("P5 2 2 65535\n\0\1\0\2\0\3\0\4", 13 + 8);

}  // namespace

TEST_CASE("a sound image set") {
  const TemporaryFolder folder;
  draw(folder.path() / "train/a/1.png", 30, 20, 3, 1);
  draw(folder.path() / "train/b/2.jpg", 40, 50, 3, 2);
  draw(folder.path() / "valid/b/3.png", 10, 60, 1, 3);
  const Outcome outcome = check_data(folder.path().string() + " --json");
  CHECK(outcome.code == 0);
  const auto json = parse_json<nlohmann::json>(outcome.out);
  CHECK(json["images"] == 3);
  CHECK(json["gray"] == 1);
  CHECK(json["formats"]["png"] == 2);
  CHECK(json["width"]["min"] == 10);
  CHECK(json["width"]["median"] == 30);
  CHECK(json["height"]["max"] == 60);
  CHECK(json["splits"]["train"]["a"] == 1);
  CHECK(json["splits"]["val"]["a"] == 0);
  CHECK(json["empty_classes"] == nlohmann::json::array({"val: a"}));
  const Outcome human = check_data(folder.path().string());
  CHECK(human.out.find("class") == 0);
  CHECK(human.out.find("val: a") != std::string::npos);
}

TEST_CASE("what is wrong is counted, named and exit code 8") {
  const TemporaryFolder folder;
  const fs::path root = folder.path() / "set", csv = folder.path() / "rows.csv";
  draw(root / "train/a/1.png", 30, 20, 3, 1);
  draw(root / "train/a/2.png", 31, 20, 3, 1);
  fs::copy_file(root / "train/a/2.png", root / "train/a/twin.png");
  fs::create_directories(root / "val/a");
  draw(root / "val/a/fine.png", 32, 20, 3, 1);
  write(root / "val/a/deep.pgm", kDeep);
  draw(root / "train/b/3.png", 33, 20, 3, 1);
  draw(root / "val/b/4.png", 34, 20, 3, 1);
  const std::string command = fmt::format("{} --json --csv {}", root.string(), csv.string());
  CHECK(check_data(command).code == 0);  // a twin within a part is no leak

  SUBCASE("leakage") {
    fs::copy_file(root / "train/a/1.png", root / "val/a/leak.png");
    CHECK(check_data(command).code == 0);  // a training says so and goes on
    const Outcome outcome = check_data(command + " --on-leak error");
    CHECK(outcome.code == 8);
    const auto json = parse_json<nlohmann::json>(outcome.out);
    CHECK(json["leaks"] == 1);
    CHECK(json["duplicates"] == 2);
    CHECK(json["copies"] == 4);
    CHECK(json["16_bit"] == 1);
    CHECK(outcome.err.find("leak: " + (root / "train/a/1.png").string()) != std::string::npos);
  }
  SUBCASE("unreadable") {
    fs::resize_file(root / "val/a/fine.png", 40);
    write(root / "val/a/none.jpg", "");
    const Outcome outcome = check_data(command);
    CHECK(outcome.code == 8);
    CHECK(parse_json<nlohmann::json>(outcome.out)["unreadable"] == 2);
    const Csv rows = read_csv(csv);
    REQUIRE(rows.rows.size() == 8);
    const auto at = [&](const char* name) { return size_t(rows.column(name)); };
    int errors = 0, twins = 0;
    for (const CsvRow& row : rows.rows) {
      errors += !row.fields[at("error")].empty();
      twins += !row.fields[at("copy")].empty();
      if (row.fields[at("path")].ends_with("deep.pgm")) CHECK(row.fields[at("bits")] == "16");
    }
    CHECK(errors == 2);
    CHECK(twins == 2);
  }
}

TEST_CASE("labels and usage") {
  const TemporaryFolder folder;
  draw(folder.path() / "1.png", 30, 20, 3, 1);
  draw(folder.path() / "2.png", 30, 20, 3, 2);
  draw(folder.path() / "4.png", 30, 20, 3, 4);
  const fs::path file = folder.path() / "labels.csv";
  write(file, "path,label,split\n1.png,cat,train\n4.png,dog,train\n2.png,dog,val\n");
  const Outcome outcome = check_data(fmt::format("--labels {} --json", file.string()));
  CHECK(outcome.code == 0);
  CHECK(parse_json<nlohmann::json>(outcome.out)["splits"]["val"]["dog"] == 1);
  fs::create_directory(folder.path() / "elsewhere");
  fs::rename(file, folder.path() / "elsewhere/split.csv");  // of a run: relative to the images
  const Outcome split = check_data(
      fmt::format("{0} --split-file {0}/elsewhere/split.csv --json", folder.path().string()));
  CHECK(split.code == 0);
  CHECK(parse_json<nlohmann::json>(split.out)["splits"]["train"]["cat"] == 1);
  CHECK(check_data("--labels x --split-file y").code == 2);
  write(file, "path,label\n1.png,cat\n3.png,dog\n");
  const Outcome missing = check_data("--labels " + file.string());
  CHECK(missing.code == 3);
  CHECK(missing.err.find("line 3: no file") != std::string::npos);
  CHECK(check_data("").code == 2);
  CHECK(check_data("/nonexistent").code == 3);
}

TEST_CASE("headers tell format, bits, alpha and orientation") {
  const auto info = [](std::string_view text) {
    return inspect_image(std::as_bytes(std::span(text)), "x");
  };
  CHECK(info(kDeep).bits == 16);
  CHECK(info(kDeep).width == 2);
  const auto png = encode_png(Image(7, 5, 3));
  const ImageInfo found = inspect_image(png, "x");
  CHECK(found.format == "png");
  CHECK(found.width == 7);
  CHECK(found.height == 5);
  CHECK(found.channels == 3);
  CHECK_FALSE(found.alpha);
  // The header of a PNG with 16 bits, colour type 6 (RGB and alpha).
  const std::string deep(
      "\x89PNG\r\n\x1a\n\0\0\0\x0dIHDR\0\0\0\3\0\0\0\2\x10\6\0\0\0\0\0\0\0"
      "\0\0\0\4IDAT\0\0\0\0\0\0\0\0",
      8 + 25 + 16);
  CHECK(info(deep).bits == 16);
  CHECK(info(deep).alpha);
  CHECK(info(deep).channels == 3);
  CHECK_THROWS(info("GIF"));
  CHECK_THROWS(info(""));
}
