#include "tools/train/checkpoint.h"

#include <fmt/format.h>

#include <algorithm>
#include <limits>
#include <nlohmann/json.hpp>

#include "engine/error.h"
#include "io/files/bytes.h"
#include "io/files/checksum.h"
#include "io/files/json.h"
#include "io/files/utf8.h"
#include "io/weights/faults.h"
#include "io/weights/safetensors.h"
#include "io/weights/seal.h"

namespace engine {

namespace {

namespace fs = std::filesystem;
using Json = nlohmann::ordered_json;

constexpr std::string_view kPrefix = "step_", kSuffix = ".safetensors";
constexpr char kPosition[] = "position", kSeconds[] = "seconds", kDigest[] = "state_sha256",
               kFacts[] = "facts_sha256", kAlgorithms[] = "algorithms";

// Checkpoints of former versions lack what the last lines add, and keep their digest.
Json to_json(const TrainPosition& p) {
  Json json = {{"epoch", p.epoch},
               {"position", p.position},
               {"step", p.step},
               {"scheduled", p.scheduled},
               {"validated", p.validated},
               {"loss_sums", p.loss_sums},
               {"weight", p.weight},
               {"schedule",
                {{"factor", p.schedule.factor},
                 {"best", p.schedule.best},
                 {"bad_epochs", p.schedule.bad_epochs}}},
               {"early_stop",
                {{"best", p.early_stop.best},
                 {"size", p.early_stop.size},
                 {"bad_epochs", p.early_stop.bad_epochs}}},
               {"best",
                {{"epoch", p.best.epoch},
                 {"step", p.best.step},
                 {"size", p.best.size},
                 {"top1", p.best.top1},
                 {"loss", p.best.loss}}}};
  if (p.watch.empty()) return json;
  json["best"]["merit"] = p.best.merit;  // minus infinity is null
  json["watch"] = utf8_from_bytes(p.watch);
  json["plateau"] = utf8_from_bytes(p.plateau);
  return json;
}

template <class Int = int>
Int whole(const Json& j, const char* name) {
  return whole_number<Int>(j.at(name), Failure::weights, name);
}

TrainPosition position_from(const Json& j) {
  TrainPosition p;
  p.epoch = whole(j, "epoch");
  p.position = whole<int64_t>(j, "position");
  p.step = whole<int64_t>(j, "step");
  p.scheduled = whole<int64_t>(j, "scheduled");
  p.validated = whole<int64_t>(j, "validated");
  p.loss_sums = j.at("loss_sums").get<std::vector<double>>();
  p.weight = j.at("weight");
  const Json &schedule = j.at("schedule"), &early = j.at("early_stop"), &best = j.at("best");
  p.schedule.factor = schedule.at("factor");
  if (!schedule.at("best").is_null()) p.schedule.best = schedule.at("best");
  p.schedule.bad_epochs = whole(schedule, "bad_epochs");
  p.early_stop = {early.at("best"), whole(early, "size"), whole(early, "bad_epochs")};
  p.best = {whole(best, "epoch"), whole<int64_t>(best, "step"), whole(best, "size"),
            best.at("top1"), best.at("loss")};
  if (!j.contains("watch")) return p;
  const Json& merit = best.at("merit");
  p.best.merit = merit.is_null() ? -std::numeric_limits<double>::infinity() : merit.get<double>();
  p.watch = bytes_from_utf8(j.at("watch").get<std::string>());
  p.plateau = bytes_from_utf8(j.at("plateau").get<std::string>());
  return p;
}

std::vector<NamedTensor> tensors_of(const Checkpoint& c) {
  std::vector<NamedTensor> all;
  const auto add = [&](std::string_view group, const std::map<std::string, Tensor>& tensors) {
    for (const auto& [name, tensor] : tensors)
      all.push_back({fmt::format("{}/{}", group, name), &tensor});
  };
  add("model", c.model);
  add("optimizer", c.optimizer);
  add("ema", c.ema);
  return all;
}

std::string facts_digest(const std::map<std::string, std::string>& metadata) {
  Sha256 hash;
  for (const auto& [name, text] : metadata) {
    if (name == kFacts || name == "format") continue;  // write_safetensors adds "format"
    hash.update(as_bytes(fmt::format("{} {} ", name.size(), text.size())));
    hash.update(as_bytes(name));
    hash.update(as_bytes(text));
  }
  return hash.finish();
}

std::string_view take_group(std::string_view& name) {
  const size_t slash = std::min(name.find('/'), name.size());
  const std::string_view group = name.substr(0, slash);
  name.remove_prefix(std::min(slash + 1, name.size()));
  return group;
}

}  // namespace

std::string state_digest(const Checkpoint& c) {
  Sha256 hash;
  hash_tensors(hash, tensors_of(c));
  hash.update(as_bytes(print_json(to_json(c.at))));
  return hash.finish();
}

void write_checkpoint(const fs::path& path, Checkpoint c, const std::string& digest) {
  TensorFile file{.metadata = to_metadata(c.identity)};
  const auto add = [&](std::string_view group, std::map<std::string, Tensor>& tensors) {
    for (auto& [name, tensor] : tensors)
      file.tensors.emplace(fmt::format("{}/{}", group, name), std::move(tensor));
  };
  add("model", c.model);
  add("optimizer", c.optimizer);
  add("ema", c.ema);
  file.metadata[kAlgorithms] = print_json(nlohmann::json(c.algorithms));
  file.metadata[kPosition] = print_json(to_json(c.at));
  file.metadata[kSeconds] = print_json(Json(c.at.seconds));
  file.metadata[kDigest] = digest;
  file.metadata[kFacts] = facts_digest(file.metadata);
  write_safetensors(path, file);
}

Checkpoint read_checkpoint(const fs::path& path) {
  TensorFile file = read_safetensors(path);
  const auto text = [&](const char* name) {
    const auto it = file.metadata.find(name);
    require(it != file.metadata.end(), Failure::weights,
            "{}: no checkpoint of a run: {} is missing; --weights begins with weights alone",
            path.string(), name);
    return it->second;
  };
  const auto json = [&](const char* name) {
    return parse_json<Json>(text(name), Failure::weights,
                            fmt::format("{}: {}", path.string(), name));
  };
  require(text(kFacts) == facts_digest(file.metadata), Failure::weights,
          "{}: damaged: its texts do not have the SHA-256 they were written with", path.string());
  Checkpoint c;
  try {
    c.at = position_from(json(kPosition));
    c.at.seconds = json(kSeconds);
    c.identity = run_identity_from(file.metadata, path);
    c.algorithms = json(kAlgorithms).get<std::map<std::string, std::string>>();
  } catch (const Json::exception& problem) {
    fail(Failure::weights, "{}: its texts are not those of a checkpoint: {}", path.string(),
         problem.what());
  }
  for (auto& [full, tensor] : file.tensors) {
    std::string_view name = full;
    const std::string_view group = take_group(name);
    auto& into = group == "model" ? c.model : group == "optimizer" ? c.optimizer : c.ema;
    into.emplace(name, std::move(tensor));
  }
  c.digest = state_digest(c);
  require(text(kDigest) == c.digest, Failure::weights,
          "{}: damaged: its tensors do not have the SHA-256 they were written with", path.string());
  for (const auto* tensors : {&c.model, &c.optimizer, &c.ema}) {
    const std::optional<std::string> fault = fault_in(*tensors);
    require(!fault, Failure::weights, "{}: {}", path.string(), fault.value_or(""));
  }
  c.file = path;
  return c;
}

CheckpointFolder::CheckpointFolder(const fs::path& run, int keep)
    : path_(run / "ckpt"), keep_(keep) {}

std::vector<fs::path> CheckpointFolder::files() const {
  std::vector<fs::path> found;
  std::error_code error;
  for (const auto& entry : fs::directory_iterator(path_, error)) {
    const std::string name = entry.path().filename().string();
    if (name.starts_with(kPrefix) && name.ends_with(kSuffix)) found.push_back(entry.path());
  }
  // Steps beyond eight digits have longer names.
  std::sort(found.begin(), found.end(), [](const fs::path& a, const fs::path& b) {
    const std::string x = a.filename().string(), y = b.filename().string();
    return std::pair(x.size(), x) < std::pair(y.size(), y);
  });
  return found;
}

fs::path CheckpointFolder::write(Checkpoint c, const std::string& digest) const {
  const fs::path path = path_ / fmt::format("{}{:08}{}", kPrefix, c.at.step, kSuffix);
  const std::vector<fs::path> before = files();
  try {
    fs::create_directories(path_);
    write_checkpoint(path, std::move(c), digest);
  } catch (const std::exception& error) {
    const auto* ours = dynamic_cast<const Error*>(&error);
    fail(ours ? ours->kind : Failure::data, "{}; {}", error.what(),
         before.empty() ? "there is no former checkpoint"
                        : "the former checkpoint " + before.back().string() + " is intact");
  }
  remove_old(path);
  return path;
}

// Later steps are of a future that a resumed run has left.
void CheckpointFolder::remove_old(const fs::path& newest) const {
  const std::vector<fs::path> all = files();
  const auto at = std::find(all.begin(), all.end(), newest);
  for (auto it = all.begin(); it != all.end(); ++it) {
    std::error_code ignored;
    if (it > at || at - it >= keep_) fs::remove(*it, ignored);
  }
}

std::optional<Checkpoint> CheckpointFolder::newest(
    const std::function<void(const std::string&)>& say) const {
  const std::vector<fs::path> all = files();
  for (auto it = all.rbegin(); it != all.rend(); ++it) {
    try {
      return read_checkpoint(*it);
    } catch (const std::exception& error) {
      say(fmt::format("{}; trying the one before", error.what()));
      std::error_code ignored;
      fs::rename(*it, fs::path(it->string() + ".damaged"), ignored);
    }
  }
  require(all.empty(), Failure::weights, "{}: none of its {} checkpoints can be read",
          path_.string(), all.size());
  return std::nullopt;
}

void CheckpointFolder::remove_leftovers() const {
  std::error_code ignored;
  for (const auto& entry : fs::directory_iterator(path_, ignored))
    if (entry.path().extension() == ".tmp") fs::remove(entry.path(), ignored);
}

}  // namespace engine
