#include "tools/machine/cores.h"

#include <fmt/format.h>

#include <algorithm>
#include <fstream>
#include <tuple>

namespace engine {

namespace {

int read_number(const std::string& path, int otherwise) {
  std::ifstream in(path);
  int number = 0;
  return in >> number && number >= 0 ? number : otherwise;
}

auto place_of(const LogicalCore& core) {
  return std::tuple(core.package, core.physical);
}

}  // namespace

int available_cores() {
  return static_cast<int>(allowed_cores().size());
}

std::vector<LogicalCore> describe_cores(std::span<const int> numbers) {
  std::vector<LogicalCore> cores;
  for (int number : numbers) {
    const std::string topology = fmt::format("/sys/devices/system/cpu/cpu{}/topology/", number);
    cores.push_back({.number = number,
                     .package = read_number(topology + "physical_package_id", 0),
                     .physical = read_number(topology + "core_id", number)});
  }
  return cores;
}

std::vector<int> cores_of_part(std::vector<LogicalCore> cores, int part, int parts) {
  if (parts <= 1) return {};
  std::ranges::stable_sort(cores, {}, place_of);
  std::vector<std::vector<int>> units;
  for (size_t i = 0; i < cores.size(); ++i) {
    if (i == 0 || place_of(cores[i]) != place_of(cores[i - 1])) units.emplace_back();
    units.back().push_back(cores[i].number);
  }
  if (static_cast<int>(units.size()) < parts) {
    units.clear();
    for (const LogicalCore& core : cores) units.push_back({core.number});
  }
  const int count = static_cast<int>(units.size());
  std::vector<int> numbers;
  if (count < parts) return numbers;
  for (int unit = count * part / parts; unit < count * (part + 1) / parts; ++unit)
    numbers.insert(numbers.end(), units[unit].begin(), units[unit].end());
  return numbers;
}

int share_of_cores(std::span<const std::vector<int>> cores, int mine) {
  double share = 0;
  for (int core : cores[mine])
    share +=
        1. / static_cast<double>(std::ranges::count_if(cores, [&](const std::vector<int>& others) {
          return std::ranges::find(others, core) != others.end();
        }));
  constexpr double kRounding = 1e-6;
  return std::max(1, static_cast<int>(share + kRounding));
}

}  // namespace engine
