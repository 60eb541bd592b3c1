// Which cores a rank gets, on machines of several kinds.
#include "tools/machine/cores.h"

#include <doctest/doctest.h>

using namespace engine;

TEST_CASE("processes divide the cores that they may both use") {
  const std::vector<int> all = {0, 1, 2, 3, 4, 5, 6, 7}, low = {0, 1, 2, 3}, high = {4, 5, 6, 7};
  const auto share = [](const std::vector<std::vector<int>>& cores, int mine) {
    return share_of_cores(cores, mine);
  };
  CHECK(share({all}, 0) == 8);
  CHECK(share({all, all}, 0) == 4);
  CHECK(share({all, all, all}, 2) == 2);  // two are left over
  CHECK(share({low, high}, 0) == 4);      // bound by the launcher: each has its own
  CHECK(share({low, high}, 1) == 4);
  CHECK(share({low, low, high}, 1) == 2);
  CHECK(share({all, low}, 0) == 6);
  CHECK(share({{0}, {0}, {0}}, 1) == 1);  // at least one
}

TEST_CASE("parts get whole physical cores, neighbours together") {
  // Two packages of two physical cores of two hardware threads, numbered as Linux does.
  std::vector<LogicalCore> cores;
  for (int number = 0; number < 8; ++number)
    cores.push_back({.number = number, .package = number % 4 / 2, .physical = number % 2});
  CHECK(cores_of_part(cores, 0, 1).empty());
  CHECK(cores_of_part(cores, 0, 2) == std::vector<int>{0, 4, 1, 5});
  CHECK(cores_of_part(cores, 1, 2) == std::vector<int>{2, 6, 3, 7});
  CHECK(cores_of_part(cores, 2, 4) == std::vector<int>{2, 6});
  CHECK(cores_of_part(cores, 0, 3) == std::vector<int>{0, 4});
  CHECK(cores_of_part(cores, 2, 3) == std::vector<int>{2, 6, 3, 7});
  CHECK(cores_of_part(cores, 1, 8) == std::vector<int>{4});  // hardware threads
  CHECK(cores_of_part(cores, 8, 9).empty());
}

TEST_CASE("a thread runs where it is told, and what the kernel knows of the cores is asked") {
  const std::vector<int> before = allowed_cores();
  CHECK(available_cores() == static_cast<int>(before.size()));
  const std::vector<LogicalCore> cores = describe_cores(before);
  REQUIRE(cores.size() == before.size());
  for (size_t i = 0; i < cores.size(); ++i) CHECK(cores[i].number == before[i]);
  CHECK(describe_cores(std::vector{100'000})[0].physical == 100'000);  // it knows nothing
  run_on({});
  CHECK(allowed_cores() == before);
  run_on(std::vector{before.back()});
  CHECK(allowed_cores() == std::vector{before.back()});
  run_on(before);
  CHECK(allowed_cores() == before);
}
