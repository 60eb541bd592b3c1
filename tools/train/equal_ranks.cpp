#include "tools/train/equal_ranks.h"

#include <fmt/format.h>

#include <algorithm>
#include <nlohmann/json.hpp>
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

// "--batch-size" of the key "--batch_size".
std::string flag_text(std::string name) {
  if (name.starts_with("--")) std::ranges::replace(name, '_', '-');
  return name;
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
  facts.erase("recipe");
  for (const auto& [flag, value] : identity.recipe) facts["--" + flag] = value;
  facts["checkpoint"] = checkpoint ? checkpoint->digest : "none";
  // No part of the recipe, but decisive for when all ranks do something together.
  const auto values = parse_json<nlohmann::json>(to_json(flags));
  for (const char* flag : {"max_steps", "max_time", "checkpoint_every", "lr_find", "lr_find_steps"})
    facts["--" + std::string(flag)] = print_json(values.at(flag));
  const auto all = from_every_process(ranks, print_json(nlohmann::json(facts)));
  const auto first = parse_json<nlohmann::json>(all[0]);
  for (size_t process = 1; process < all.size(); ++process) {
    const auto other = parse_json<nlohmann::json>(all[process]);
    for (const auto& [name, value] : first.items())
      require(other.at(name) == value, Failure::usage,
              "process {} does not do what process 0 does: {} is {}, not {}", process,
              flag_text(name), other.at(name).get<std::string>(), value.get<std::string>());
  }
}

}  // namespace engine
