// Images that ranks do not divide evenly, and trainings on them that are compared to the bit.
#pragma once

#include <doctest/doctest.h>
#include <fmt/format.h>

#include <filesystem>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "tests/support.h"
#include "tests/tools/engine/program.h"

namespace engine::test {

// Images whose number no world size from 2 to 5 divides, in classes of several sizes.
struct OddSet {
  TemporaryFolder folder;
  std::string set = folder.path() / "set";

  OddSet() {
    REQUIRE(engine_cli(fmt::format("draw digits --out {} --train 4 --val 2", set)).code == 0);
    for (const char* gone :
         {"train/1/00000.png", "train/1/00001.png", "train/5/00000.png", "val/7/00001.png"})
      REQUIRE(std::filesystem::remove(std::filesystem::path(set) / gone));
  }
  std::string out(const std::string& name) const { return folder.path() / name; }
  std::string train(const std::string& name, const std::string& more = "") const {
    return fmt::format(
        "train --data {} --out {} --model mnist_cnn --image-size 12 --device cpu --cache none "
        "--epochs 2 --aug light --optimizer adam --batch-size 3 --ema 0.9 --collective-timeout 60 "
        "{}",
        set, out(name), more);
  }
};

// SHA-256 of the state at the end, and what it was at each checkpoint before.
inline std::vector<std::string> digests(const std::string& run) {
  std::vector<std::string> found;
  for (const nlohmann::json& event : events(run, "checkpoint"))
    found.push_back(event.at("state_sha256"));
  return found;
}

// The trainings ended, and came by, the same bits.
inline void check_alike(const OddSet& odd, const std::string& one, const std::string& other) {
  CAPTURE(other);
  const auto expected = digests(odd.out(one)), got = digests(odd.out(other));
  CHECK(expected.size() >= 2);
  CHECK(got == expected);
  CHECK(figures(odd.out(other)) == figures(odd.out(one)));
  for (const char* file :
       {"weights/best.safetensors", "weights/last.safetensors", "predictions.csv", "metrics.json"})
    CHECK(read(std::filesystem::path(odd.out(other)) / file) ==
          read(std::filesystem::path(odd.out(one)) / file));
}

}  // namespace engine::test
