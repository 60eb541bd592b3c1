#include "tools/train/divergence.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <nlohmann/json.hpp>
#include <span>

#include "io/files/bytes.h"
#include "io/files/json.h"

namespace engine {
namespace {

using nlohmann::json;

std::string to_text(const Divergence& d) {
  const json values = {{"epoch", d.epoch}, {"position", d.position}, {"update", d.update},
                       {"rate", d.rate},   {"what", d.what},         {"rank", d.rank},
                       {"first", d.first}, {"images", d.images}};
  return print_json(values);
}

Divergence from_text(std::span<const std::byte> bytes) {
  const json values = parse_json<json>(as_text(bytes));
  return {.epoch = values.at("epoch"),
          .position = values.at("position"),
          .update = values.at("update"),
          .rate = values.at("rate"),
          .what = values.at("what"),
          .rank = values.at("rank"),
          .first = values.at("first"),
          .images = values.at("images")};
}

}  // namespace

std::optional<Divergence> earliest(const Communicator& c, const std::optional<Divergence>& own) {
  const std::string text = own ? to_text(*own) : "";
  std::optional<Divergence> found;
  for (const std::vector<std::byte>& bytes : c.group->gather(c.rank, as_bytes(text))) {
    if (bytes.empty()) continue;
    Divergence other = from_text(bytes);
    const auto order = [](const Divergence& d) { return std::pair(d.update, d.first.empty()); };
    if (!found || order(other) < order(*found)) found = std::move(other);
  }
  return found;
}

std::string to_string(const Divergence& d) {
  constexpr size_t kShown = 8;
  const auto shown = std::span(d.images).first(std::min(d.images.size(), kShown));
  std::string text = fmt::format("epoch {}, step {}: {}; ", d.epoch + 1, d.update, d.what);
  text += d.first.empty() ? "taken again, every result of a rank alone is finite"
                          : fmt::format("the first result that is not finite: {}", d.first);
  text += fmt::format("; images of rank {}: {}", d.rank, fmt::join(shown, ", "));
  if (d.images.size() > kShown)
    text += fmt::format(" and {} more, see metrics.jsonl", d.images.size() - kShown);
  return text + "; a smaller --lr may help";
}

}  // namespace engine
