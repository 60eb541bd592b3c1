#include "tools/train/run_identity.h"

#include <fmt/format.h>

#include <algorithm>
#include <cinttypes>
#include <cstdio>
#include <nlohmann/json.hpp>
#include <span>

#include "engine/error.h"
#include "io/files/bytes.h"
#include "io/files/checksum.h"
#include "io/files/json.h"
#include "io/weights/weight_names.h"
#include "tools/cli/terminal.h"
#include "tools/score/metadata.h"

namespace engine {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

// Of the names of files alone, in no order that labels decide.
std::string digest_of_files(const TrainingData& data) {
  std::vector<std::string> names;
  for (const Dataset* part : {&data.train, &data.validation})
    for (const Sample& sample : part->samples)
      names.push_back(fs::path(sample.path).filename().string());
  std::ranges::sort(names);
  Sha256 hash;
  for (const std::string& name : names) hash.update(as_bytes(name + '\n'));
  return hash.finish();
}

std::string digest_of_names(const TrainingData& data) {
  Sha256 hash;
  for (const Dataset* part : {&data.train, &data.validation})
    for (const Sample& sample : part->samples) {
      hash.update(as_bytes(
          fmt::format("{}\n{}\n", fs::path(sample.path).filename().string(), sample.label)));
      if (!sample.group.empty()) hash.update(as_bytes(sample.group + '\n'));
      if (!sample.labels.empty()) hash.update(std::as_bytes(std::span(sample.labels)));
    }
  return hash.finish();
}

std::map<std::string, std::string> recipe_of(const Flags& flags) {
  const json values = parse_json<json>(to_json(flags));
  std::map<std::string, std::string> recipe;
  for (const Flag& flag : flags.list())
    if (!flag.may_change) recipe[flag.key()] = print_json(values.at(flag.key()));
  return recipe;
}

std::string to_json(const std::map<std::string, std::string>& recipe) {
  json values = json::object();
  for (const auto& [flag, value] : recipe) values[flag] = parse_json<json>(value);
  return print_json(values);
}

std::map<std::string, std::string> recipe_from_json(const std::string& text, const fs::path& path) {
  const json values = json_or_null<json>(text);
  require(values.is_object(), Failure::weights, "{}: its recipe is no JSON object", path.string());
  std::map<std::string, std::string> recipe;
  for (const auto& [flag, value] : values.items()) recipe[flag] = print_json(value);
  return recipe;
}

BatchOrder batch_order_from(const std::string& text, const fs::path& path) {
  BatchOrder order;
  const int fields = std::sscanf(text.c_str(), "%d x %d x %d, seed %" SCNu64, &order.batch,
                                 &order.ranks, &order.accumulate, &order.seed);
  order.balanced = text.ends_with(", balanced");
  require(fields == 4, Failure::weights, "{}: '{}' is no order of batches", path.string(), text);
  return order;
}

CacheKind cache_kind_from(const std::string& text, const fs::path& path) {
  const auto at = std::ranges::find(kCacheKinds, text, &Choice<CacheKind>::name);
  require(at != std::end(kCacheKinds), Failure::weights, "{}: '{}' is no kind of cache",
          path.string(), text);
  return at->value;
}

void check_classes(const std::vector<std::string>& before, const std::vector<std::string>& now) {
  if (before == now) return;
  const auto differ = std::ranges::mismatch(before, now);
  const auto i = static_cast<size_t>(differ.in1 - before.begin());
  const auto name = [&](const std::vector<std::string>& names) {
    return i < names.size() ? fmt::format("\"{}\"", names[i]) : "none";
  };
  fail(Failure::data,
       "the classes are not those of the run to resume: {} against {}, and number {} is {}, not {}",
       now.size(), before.size(), i, name(now), name(before));
}

// What a flag that changes does to the rest of the run, where that is not plain.
std::string consequence(const std::string& flag, const std::map<std::string, std::string>& recipe) {
  if (flag == "watch") {
    const std::string& now = recipe.at(flag);
    const bool kept = now == "null" || now == "\"top1\"" || now == "\"loss\"";
    return kept ? "" : ": the next epoch counts as the best so far";
  }
  const auto schedule = recipe.find("schedule");
  if (flag != "epochs" || schedule == recipe.end()) return "";
  if (schedule->second != "\"cosine\"" && schedule->second != "\"one-cycle\"") return "";
  return fmt::format(": the rate is now that of a {} schedule over all of them",
                     parse_json<json>(schedule->second).get<std::string>());
}

std::string order_text(const BatchOrder& order) {
  return fmt::format("--seed {}{}", order.seed, order.balanced ? " --sampler balanced" : "");
}

// Which images validate is part of a run. Checkpoints of former versions lack these flags.
void check_fold(const RunIdentity& before, const RunIdentity& now) {
  for (const char* flag : {"folds", "fold"}) {
    const auto was = before.recipe.find(flag), is = now.recipe.find(flag);
    if (was == before.recipe.end() || is == now.recipe.end()) continue;
    require(was->second == is->second, Failure::usage, "--{} {}: the run to resume has {}", flag,
            is->second, was->second == "null" ? "none" : was->second);
  }
}

}  // namespace

std::string to_string(const BatchOrder& order) {
  return fmt::format("{} x {} x {}, seed {}{}", order.batch, order.ranks, order.accumulate,
                     order.seed, order.balanced ? ", balanced" : "");
}

RunIdentity run_identity(const TrainConfig& config, const TrainingData& data, const Flags& flags,
                         int ranks) {
  return {.model = config.model,
          .classes = data.train.classes,
          .norm_epsilon = config.norm_epsilon,
          .preprocess = config.preprocess,
          .image_names = digest_of_names(data),
          .image_files = digest_of_files(data),
          .batches = {config.batch, ranks, config.accumulate, config.seed, config.balanced},
          .recipe = recipe_of(flags),
          .images = {}};
}

std::map<std::string, std::string> to_metadata(const RunIdentity& identity) {
  std::map<std::string, std::string> metadata = {{"model", identity.model},
                                                 {"classes", to_json(identity.classes)},
                                                 {"preprocess", to_json(identity.preprocess)},
                                                 {"images", identity.image_names},
                                                 {"image_files", identity.image_files},
                                                 {"batches", to_string(identity.batches)},
                                                 {"recipe", to_json(identity.recipe)},
                                                 {"image_sizes", identity.images.sizes},
                                                 {"image_contents", identity.images.contents},
                                                 {"cache", std::string(to_string(identity.cache))}};
  if (identity.norm_epsilon) metadata[kNormEpsilon] = fmt::format("{}", *identity.norm_epsilon);
  return metadata;
}

RunIdentity run_identity_from(const std::map<std::string, std::string>& metadata,
                              const fs::path& path) {
  const auto text = [&](const char* name) -> const std::string& {
    const auto at = metadata.find(name);
    require(at != metadata.end(), Failure::weights, "{}: no checkpoint of a run: {} is missing",
            path.string(), name);
    return at->second;
  };
  const auto files = metadata.find("image_files");  // checkpoints of former versions lack it
  return {.model = text("model"),
          .classes = names_from_json(text("classes"), path),
          .norm_epsilon = norm_epsilon_of(metadata, path),
          .preprocess = preprocess_from_json(text("preprocess")),
          .image_names = text("images"),
          .image_files = files == metadata.end() ? "" : files->second,
          .batches = batch_order_from(text("batches"), path),
          .recipe = recipe_from_json(text("recipe"), path),
          .images = {.sizes = text("image_sizes"), .contents = text("image_contents")},
          .cache = cache_kind_from(text("cache"), path)};
}

void check_same_run(const RunIdentity& before, const RunIdentity& now, bool within_epoch) {
  check_classes(before.classes, now.classes);
  check_fold(before, now);
  require(before.image_names == now.image_names || before.image_files != now.image_files,
          Failure::data,
          "the labels are not those of the run to resume: the images have the same names, but some "
          "are of another class now");
  require(before.image_names == now.image_names, Failure::data,
          "the images are not those of the run to resume: some were added, removed or renamed");
  require(before.batches.same_order(now.batches) || !within_epoch, Failure::usage,
          "the checkpoint is in the middle of an epoch whose order {} gives; {} would see other "
          "images",
          order_text(before.batches), order_text(now.batches));
  if (before.batches != now.batches)
    say(fmt::format("batches of {} until now, of {} from here on", to_string(before.batches),
                    to_string(now.batches)));
  for (const auto& [flag, value] : now.recipe) {
    const auto at = before.recipe.find(flag);
    const std::string was = at == before.recipe.end() ? "null" : at->second;
    if (was != value)
      say(fmt::format("{}: {} until now, {} from here on{}", flag, was, value,
                      consequence(flag, now.recipe)));
  }
}

}  // namespace engine
