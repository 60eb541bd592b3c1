#include "tools/train/run_directory.h"

#include <fmt/chrono.h>

#include <cerrno>
#include <chrono>
#include <cstring>
#include <iterator>
#include <nlohmann/json.hpp>
#include <system_error>
#include <vector>

#include "engine/error.h"
#include "io/files/atomic_file.h"
#include "io/files/json.h"
#include "io/files/utf8.h"
#include "io/images/encode.h"
#include "tools/cli/shell.h"
#include "tools/machine/environment.h"
#include "tools/train/run_flags.h"

namespace engine {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::ordered_json;

constexpr int kSchema = 1;  // of the lines of metrics.jsonl
constexpr char kMetrics[] = "metrics.jsonl", kResultsFile[] = "results.csv", kNotes[] = "log.txt";
// The first seven are names that existing tools parse.
constexpr char kHeader[] =
    "epoch,time,train/loss,metrics/accuracy_top1,metrics/accuracy_top5,val/loss,lr/pg0,"
    "metrics/auc_macro,step,images_per_second,wait_share,cpu/cores,cpu/host,cpu/memory_gib,"
    "gpu/utilisation,gpu/memory_gib,gpu/watts,gpu/celsius,gpu/energy_joules,epoch_seconds";

// 2025-03-01T12:34:56.789Z
std::string now_utc() {
  const auto now =
      std::chrono::time_point_cast<std::chrono::milliseconds>(std::chrono::system_clock::now());
  const auto milliseconds = now.time_since_epoch().count() % 1000;
  return fmt::format("{:%Y-%m-%dT%H:%M:%S}.{:03}Z",
                     fmt::gmtime(std::chrono::system_clock::to_time_t(now)), milliseconds);
}

// The whole lines of a file: what a killed process left of its last one is not among them.
std::vector<std::string> whole_lines(const fs::path& file) {
  std::ifstream in(file, std::ios::binary);
  const std::string text{std::istreambuf_iterator<char>(in), {}};
  std::vector<std::string> lines;
  for (size_t begin = 0, end; (end = text.find('\n', begin)) != std::string::npos; begin = end + 1)
    lines.push_back(text.substr(begin, end - begin));
  return lines;
}

bool happened_by(const std::string& line, int epochs, int64_t steps) {
  const Json event = json_or_null<Json>(line);
  if (!event.is_object()) return false;
  const auto number = [&](const char* name) {
    const auto at = event.find(name);
    return at != event.end() && at->is_number_integer() ? at->get<int64_t>() : 0;
  };
  const auto kind = event.find("event");
  const bool of_epoch = kind != event.end() && *kind == "epoch";
  return of_epoch ? number("epoch") <= epochs : number("step") <= steps;
}

std::string join_lines(const std::vector<std::string>& lines) {
  return lines.empty() ? "" : fmt::format("{}\n", fmt::join(lines, "\n"));
}

// What an epoch took of the machine, by the names of the columns of results.csv.
std::vector<Scalar> machine_scalars(const MachineUse& use) {
  const GpuReading none{NAN, NAN, NAN, NAN, NAN};
  const GpuReading& gpu = use.gpu ? *use.gpu : none;
  return {
      {"cpu/cores", use.process_cores},   {"cpu/host", use.host_cpu},
      {"cpu/memory_gib", use.memory_gib}, {"gpu/utilisation", gpu.utilisation},
      {"gpu/memory_gib", gpu.memory_gib}, {"gpu/watts", gpu.watts},
      {"gpu/celsius", gpu.celsius},       {"gpu/energy_joules", gpu.joules > 0 ? gpu.joules : NAN}};
}

}  // namespace

RunDirectory RunDirectory::create(RunLock lock) {
  const fs::path path = lock.path();
  std::error_code error;
  fs::create_directories(path / "weights", error);
  require(!error, Failure::usage, "--out {}: cannot create {}: {}", path.string(),
          (path / "weights").string(), error.message());
  return RunDirectory(path, std::move(lock));
}

RunDirectory RunDirectory::kept_elsewhere(const fs::path& path) {
  return RunDirectory(path, std::nullopt);
}

RunDirectory::RunDirectory(fs::path path, std::optional<RunLock> lock)
    : path_(std::move(path)), lock_(std::move(lock)) {
  if (!lock_) return;
  events_.emplace(path_);
  if (!fs::exists(path_ / kResultsFile)) replace(kResultsFile, fmt::format("{}\n", kHeader));
  open_logs();
}

void RunDirectory::keep() {
  if (lock_) lock_->keep();
}

fs::path RunDirectory::weights(std::string_view name) const {
  return path_ / "weights" / fmt::format("{}.safetensors", name);
}

void RunDirectory::write_args(const Flags& flags) {
  note_start(first_free(path_, "args", ".json"), to_json(flags) + '\n');
}

void RunDirectory::write_command(const Command& command) {
  std::string text =
      fmt::format("cd {}\nengine {}", shell_word(fs::current_path().string()), command.verb);
  for (const std::string& argument : command.arguments) text += ' ' + shell_word(argument);
  note_start(first_free(path_, "command", ".txt"), text + '\n');
}

void RunDirectory::note_start(const std::string& name, std::string_view text) {
  replace(name, text);
  start_files_.push_back(path_ / name);
}

void RunDirectory::take_back_start() {
  std::error_code error;
  if (lock_)
    for (const fs::path& file : start_files_) fs::remove(file, error);
}

void RunDirectory::write_environment(const Json& facts) {
  const Host host = this_host();
  Json json = {{"engine", kBuild.version},
               {"git", kBuild.git},
               {"build", kBuild.type},
               {"compiler", kBuild.compiler},
               {"started", now_utc()},
               {"host", host.name},
               {"os", host.os},
               {"kernel", host.kernel},
               {"cpu", host.cpu},
               {"cores", host.cores},
               {"memory_gib", host.memory_gib}};
  for (const auto& [name, version] : library_versions()) json["libraries"][name] = version;
  for (const auto& [name, value] : launch_variables()) json["variables"][name] = value;
  json.update(facts);
  replace("env.json", print_json(json, 2) + '\n');
}

void RunDirectory::write_classes(std::span<const std::string> classes) {
  replace("classes.txt", join_lines({classes.begin(), classes.end()}));
}

void RunDirectory::write_split(std::string_view csv) {
  replace("split.csv", csv);
}

void RunDirectory::begin_session(const Flags& flags) {
  if (!lock_) return;
  std::vector<HyperParameter> parameters;
  const Json chosen = parse_json<Json>(to_json(flags));
  for (const auto& [name, value] : chosen.items()) {
    if (value.is_string() && !value.get<std::string>().empty())
      parameters.push_back({name, value.get<std::string>()});
    else if (value.is_boolean())
      parameters.push_back({name, value.get<bool>()});
    else if (value.is_number())
      parameters.push_back({name, value.get<double>()});
  }
  const std::string measures[] = {"val/accuracy_top1", "val/loss", "val/auc_macro",
                                  "epoch/train_loss"};
  events_->begin_session(utf8_from_bytes(path_.filename().string()), parameters, measures);
}

void RunDirectory::end_session(bool well) {
  if (lock_) events_->end_session(well);
}

void RunDirectory::log_picture(int64_t step, std::string_view tag, const Image& picture) {
  if (!lock_) return;
  const std::vector<std::byte> file = encode_png(picture);
  events_->write(step, {.tag = std::string(tag),
                        .width = picture.width,
                        .height = picture.height,
                        .channels = picture.channels,
                        .file = file});
}

void RunDirectory::write_algorithms(const std::map<std::string, std::string>& algorithms) {
  replace("algorithms.json", print_json(Json(algorithms), 2) + '\n');
}

void RunDirectory::continue_after(int epochs, int64_t steps) {
  if (!lock_) return;
  metrics_.close();
  results_.close();
  std::vector<std::string> events, rows = {kHeader};
  for (std::string& line : whole_lines(path_ / kMetrics))
    if (happened_by(line, epochs, steps)) events.push_back(std::move(line));
  for (std::string& row : whole_lines(path_ / kResultsFile)) {
    int epoch = 0;
    if (std::sscanf(row.c_str(), "%d,", &epoch) != 1 || epoch > epochs) continue;
    rows.push_back(std::move(row));
  }
  replace(kMetrics, join_lines(events));
  replace(kResultsFile, join_lines(rows));
  events_->restart(steps + 1);
  open_logs();
}

void RunDirectory::log(std::string_view event, const Json& fields) {
  Json json = {{"schema", kSchema}, {"time", now_utc()}, {"event", event}};
  json.update(fields);
  append(metrics_, kMetrics, print_json(json));
}

void RunDirectory::log_step(int epoch, int64_t step, const Json& fields) {
  Json json = {{"epoch", epoch}, {"step", step}};
  json.update(fields);
  log("step", json);
  if (!lock_) return;
  std::vector<Scalar> scalars;
  for (const auto& [name, value] : fields.items())
    if (value.is_number() && std::isfinite(value.get<double>()))
      scalars.push_back({"train/" + name, value.get<double>()});
  events_->write(step, scalars);
}

void RunDirectory::log_epoch(const EpochResult& r) {
  if (!lock_) return;
  const double auc = r.auc_macro.value_or(NAN);
  std::string row =
      fmt::format("{},{:.3f},{:.6g},{:.6g},{:.6g},{:.6g},{:.6g},{:.6g},{},{:.6g},{:.6g}", r.epoch,
                  r.seconds, r.train_loss, r.top1, r.top5, r.val_loss, r.lr, auc, r.step,
                  r.images_per_second, r.wait_share);
  Json event = {{"epoch", r.epoch},
                {"step", r.step},
                {"seconds", r.seconds},
                {"epoch_seconds", r.use.seconds},
                {"train_loss", r.train_loss},
                {"val_loss", r.val_loss},
                {"top1", r.top1},
                {"top5", r.top5},
                {"auc_macro", auc},
                {"lr", r.lr},
                {"images_per_second", r.images_per_second},
                {"wait_share", r.wait_share},
                {"watch", utf8_from_bytes(to_string(r.watch))},
                {"watched", r.watched ? Json(*r.watched) : Json()}};
  std::vector<Scalar> scalars = {{"epoch/train_loss", r.train_loss},
                                 {"val/loss", r.val_loss},
                                 {"val/accuracy_top1", r.top1},
                                 {"val/accuracy_top5", r.top5},
                                 {"val/auc_macro", auc},
                                 {"epoch/number", double(r.epoch)},
                                 {"epoch/lr", r.lr},
                                 {"epoch/seconds", r.use.seconds},
                                 {"epoch/images_per_second", r.images_per_second},
                                 {"epoch/wait_share", r.wait_share}};
  if (!watched_text(r.watch, r.watched.value_or(NAN)).empty())
    scalars.push_back({"val/" + utf8_from_bytes(to_string(r.watch)), *r.watched});
  for (const Scalar& scalar : machine_scalars(r.use)) {
    row += fmt::format(",{:.6g}", scalar.value);
    if (std::isfinite(scalar.value)) event[scalar.tag] = scalar.value;
    scalars.push_back(scalar);
  }
  row += fmt::format(",{:.6g}", r.use.seconds);
  std::erase_if(scalars, [](const Scalar& s) { return !std::isfinite(s.value); });
  append(results_, kResultsFile, row);
  log("epoch", event);
  events_->write(r.step, scalars);
}

void RunDirectory::note(std::string_view line) {
  append(notes_, kNotes, fmt::format("{} {}", now_utc(), line));
}

void RunDirectory::open_logs() {
  metrics_.open(path_ / kMetrics, std::ios::app | std::ios::binary);
  results_.open(path_ / kResultsFile, std::ios::app | std::ios::binary);
  if (!notes_.is_open()) notes_.open(path_ / kNotes, std::ios::app | std::ios::binary);
  require(metrics_.is_open() && results_.is_open() && notes_.is_open(), Failure::usage,
          "--out {}: cannot write to it", path_.string());
}

void RunDirectory::replace(std::string_view name, std::string_view text) const {
  if (!lock_) return;
  write_file_atomically(path_ / name, text);
}

void RunDirectory::append(std::ofstream& log, const char* name, std::string_view line) {
  if (!lock_) return;
  const std::scoped_lock lock(*appending_);
  log << line << '\n' << std::flush;
  require(log.good(), Failure::data, "{}: cannot write: {}", (path_ / name).string(),
          std::strerror(errno));
}

}  // namespace engine
