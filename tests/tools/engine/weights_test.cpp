// Weights by their published names, on the command line.
#include <doctest/doctest.h>
#include <fmt/format.h>

#include <nlohmann/json.hpp>
#include <sstream>

#include "io/files/bytes.h"
#include "io/files/checksum.h"
#include "io/files/json.h"
#include "io/weights/manifest.h"
#include "models/models.h"
#include "tests/io/files/http_server.h"
#include "tests/support.h"
#include "tests/tools/engine/drawn_set.h"
#include "tests/tools/engine/program.h"

using namespace engine;
using namespace engine::test;
namespace fs = std::filesystem;

namespace {

// A list with one file, which a server of this machine has.
struct Published {
  TemporaryFolder folder;
  HttpServer server{[](const HttpRequest&) { return HttpReply{.body = "weights"}; }};
  fs::path list = folder.path() / "list.json", cache = folder.path() / "cache";

  Published() {
    const std::string file = fmt::format(
        R"({{"names": ["cnn.pth"], "model": "cnn", "licence": "MIT", "source": "{}",
            "sha256": "{}", "mib": 47.18, "top1": 82.0}})",
        server.url("/cnn.pth"), sha256(as_bytes(std::string("weights"))));
    write_text(list, fmt::format(R"({{"files": [{}], "models": {{"cnn": {{"tensors": 1,
                                     "counters": 0, "parameters": 1, "layout": ""}}}}}})",
                                 file));
  }
  Outcome run(const std::string& arguments) const {
    return engine_cli(fmt::format("weights {} --manifest {}", arguments, list.string()),
                      fmt::format("ENGINE_CACHE_DIR={}", cache.string()));
  }
};

}  // namespace

TEST_CASE("weights fetch prints where the file is, and weights list that it is here") {
  const Published published;
  const Outcome before = published.run("list");
  CHECK(before.code == 0);
  CHECK(mentions(before.out, "cnn.pth"));
  CHECK(mentions(before.out, "47.2 MiB"));
  CHECK(mentions(before.out, "MIT"));
  CHECK(before.out.ends_with("no\n"));
  const Outcome fetched = published.run("fetch cnn");
  CHECK(fetched.code == 0);
  CHECK(fetched.out == (published.cache / "weights/cnn.pth\n").string());
  CHECK(mentions(fetched.err, "as published"));
  CHECK(read(published.cache / "weights/cnn.pth") == "weights");
  CHECK(published.run("list").out.ends_with("yes\n"));
  check_fails(published.run("fetch dnn"), 2, "dnn: no such name");
}

TEST_CASE("models lists every model, its size and its weights in 80 columns") {
  const Outcome listed = engine_cli("models");
  CHECK(listed.code == 0);
  std::istringstream lines(listed.out);
  size_t models = 0;
  for (std::string line; std::getline(lines, line);) {
    CHECK_MESSAGE(line.size() <= 80, line);
    models += !line.starts_with(' ');
  }
  CHECK(models == 1 + model_names().size());
  for (const std::string& name : model_names()) CHECK(mentions(listed.out, name + ' '));
  CHECK(mentions(listed.out, "resnet50           25.56M   97.7  224   76.1  resnet50-0676ba61\n"));
  CHECK(mentions(listed.out, "  80.9  resnet50-11ad3fa6\n"));
  CHECK(mentions(listed.out, "efficientnet_v2_s  21.46M   82.4  384   84.2  efficientnet_v2_s-"));
  CHECK(mentions(listed.out, "mnist_cnn           1.20M    4.6   28      -  -\n"));

  const auto manifest = read_manifest(ENGINE_SOURCE_DIR "/weights/manifest.json");
  const auto json = parse_json<nlohmann::json>(engine_cli("models --json").out);
  REQUIRE(json.size() == model_names().size());
  for (const auto& model : json)
    for (const auto& file : model["weights"])  // each is a name for --weights
      CHECK(find_entry(manifest, file["name"].get<std::string>(), "")->model ==
            model["model"].get<std::string>());
}

TEST_CASE("--weights imagenet offline says what to get and where to put it, and ends with 9") {
  const TemporaryFolder folder;
  const std::string surroundings =
      fmt::format("ENGINE_CACHE_DIR={} no_proxy= https_proxy=http://127.0.0.1:{}",
                  folder.path().string(), closed_port());
  const Outcome offline = engine_cli(
      "predict --weights imagenet --model efficientnet_b3 " ENGINE_SOURCE_DIR, surroundings);
  check_fails(offline, 9, "efficientnet_b3_rwightman-b3899882.pth elsewhere and put it at");
  CHECK(mentions(offline.err, "https://download.pytorch.org/models/"));
  CHECK(mentions(offline.err, (folder.path() / "weights").string()));
}

TEST_CASE("a dry run tells of the weights that it would fetch, and does not") {
  const Drawn drawn;
  const fs::path cache = drawn.path("cache");
  const Outcome plan = engine_cli(
      fmt::format("train --data {} --model resnet18 --image-size 64 --device cpu --dry-run "
                  "--weights imagenet",
                  drawn.set.string()),
      fmt::format("ENGINE_CACHE_DIR={} https_proxy=http://127.0.0.1:{}", cache.string(),
                  closed_port()));
  CHECK_MESSAGE(plan.code == 0, plan.err);
  CHECK(mentions(plan.err, "to be fetched, 45 MiB of https://download.pytorch.org/"));
  CHECK(mentions(plan.out, "memory per rank"));
  CHECK_FALSE(fs::exists(cache / "weights"));
}

TEST_CASE("--weights with a name that means nothing here fetches nothing") {
  const auto predict = [](const std::string& flags) {
    return engine_cli("predict " ENGINE_SOURCE_DIR " " + flags);
  };
  check_fails(predict("--weights imagenet --model mnist_cnn"), 2, "engine weights list");
  check_fails(predict("--weights nothing"), 2, "no such file");
  check_fails(predict("--weights densenet121 --model efficientnet_b0"), 2,
              "these are of densenet121");
}
