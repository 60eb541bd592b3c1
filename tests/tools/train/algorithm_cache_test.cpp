// What is kept of choices made by timing.
#include "tools/train/algorithm_cache.h"

#include <fstream>

#include "tests/support.h"

using namespace engine;
using namespace engine::test;

namespace fs = std::filesystem;

TEST_CASE("choices of a machine are kept, joined and told apart") {
  const TemporaryFolder folder;
  const AlgorithmCache cache(folder.path() / "new", "H200, cuDNN 9");
  CHECK(cache.load().empty());
  cache.add({{"a", "1"}, {"b", "2"}});
  cache.add({{"b", "3"}, {"c", "4"}});
  const AlgorithmCache::Choices all = {{"a", "1"}, {"b", "3"}, {"c", "4"}};
  CHECK(AlgorithmCache(folder.path() / "new", "H200, cuDNN 9").load() == all);
  CHECK(AlgorithmCache(folder.path() / "new", "A100, cuDNN 9").load().empty());
}

TEST_CASE("a damaged cache of choices is as none, and is replaced") {
  const TemporaryFolder folder;
  const AlgorithmCache cache(folder.path(), "H200");
  for (const std::string& text :
       {std::string("{\"identity\": \"H200\", \"chosen\": {\"a\""), std::string("[1, 2]"),
        std::string("{\"identity\": \"another\", \"chosen\": {\"a\": \"1\"}}"),
        std::string("{\"identity\": \"H200\", \"chosen\": [\"a\"]}"), std::string(100'000, '['),
        std::string("{\"identity\": \"H200\", \"chosen\": {\"a\": 1}}"), std::string()}) {
    CAPTURE(text.substr(0, 60));
    fs::create_directories(cache.path().parent_path());
    std::ofstream(cache.path()) << text;
    CHECK(cache.load().empty());
    cache.add({{"b", "2"}});
    CHECK(cache.load() == AlgorithmCache::Choices{{"b", "2"}});
    fs::remove(cache.path());
  }
}

TEST_CASE("a cache of choices that cannot be written hinders nobody") {
  const TemporaryFolder folder;
  std::ofstream(folder.path() / "file") << "no folder";
  const AlgorithmCache cache(folder.path() / "file", "H200");
  cache.add({{"a", "1"}});
  CHECK(cache.load().empty());
}
