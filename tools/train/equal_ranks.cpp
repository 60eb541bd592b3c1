#include "tools/train/equal_ranks.h"

#include <fmt/format.h>

#include <algorithm>
#include <iterator>
#include <nlohmann/json.hpp>
#include <string_view>
#include <vector>

#include "engine/error.h"
#include "io/files/bytes.h"
#include "io/files/checksum.h"
#include "io/files/json.h"
#include "tools/machine/processes.h"

namespace engine {

namespace {

// Of fast checksums of the tensors: ranks differ by accident, not on purpose.
std::string digest(const Graph& graph, const std::map<std::string, Tensor>& state) {
  Sha256 hash;
  for (const Parameter& p : graph.parameters) {
    if (!p.trained()) continue;
    const uint64_t sum = xxh64(state.at(p.name).bytes);
    hash.update(std::as_bytes(std::span(&sum, 1)));
  }
  return hash.finish();
}

// Whether processes that differ in it would do other things. Those of a run that may change are no
// part of its recipe, but some decide when all ranks do something together.
bool is_common(const Flag& flag) {
  constexpr std::string_view kTogether[] = {"--max-steps", "--max-time", "--checkpoint-every",
                                            "--lr-find", "--lr-find-steps"};
  return !flag.may_change || std::ranges::find(kTogether, flag.name()) != std::end(kTogether);
}

}  // namespace

void check_equal_weights(const Communicator& c, const Graph& graph,
                         const std::map<std::string, Tensor>& state, int64_t step) {
  if (c.ranks() == 1) return;
  const auto all = c.group->gather(c.rank, as_bytes(digest(graph, state)));
  std::string others;
  for (int rank = 1; rank < c.ranks(); ++rank)
    if (all[rank] != all[0]) others += fmt::format(" {}", rank);
  require(others.empty(), Failure::collective,
          "step {}: these ranks have other weights than rank 0:{}", step, others);
}

void check_equal_runs(const Ranks& ranks, const RunIdentity& identity, const Flags& flags,
                      const std::optional<Checkpoint>& checkpoint) {
  if (!ranks.wire) return;
  auto facts = to_metadata(identity);
  facts.erase("recipe");  // it is told flag by flag
  facts["checkpoint"] = checkpoint ? checkpoint->digest : "none";
  const auto values = parse_json<nlohmann::json>(to_json(flags));
  for (const Flag& flag : flags.list())
    if (is_common(flag)) facts[flag.name()] = print_json(values.at(flag.key()));
  const auto all = from_every_process(ranks, print_json(nlohmann::json(facts)));
  const auto first = parse_json<nlohmann::json>(all[0]);
  for (size_t process = 1; process < all.size(); ++process) {
    const auto other = parse_json<nlohmann::json>(all[process]);
    for (const auto& [name, value] : first.items())
      require(other.at(name) == value, Failure::usage,
              "process {} does not do what process 0 does: {} is {}, not {}", process, name,
              other.at(name).get<std::string>(), value.get<std::string>());
  }
}

}  // namespace engine
