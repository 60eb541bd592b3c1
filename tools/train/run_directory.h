// The folder of a training run: what was asked for (args.json), what it ran on (env.json), the
// classes, the algorithms chosen, what happened (metrics.jsonl, results.csv, log.txt, TensorBoard's
// events) and where the weights go. Whole files are replaced atomically; logs grow by whole lines.
#pragma once

#include <filesystem>
#include <fstream>
#include <map>
#include <memory>
#include <mutex>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <span>
#include <string>
#include <string_view>

#include "io/files/event_file.h"
#include "io/images/image.h"
#include "tools/cli/options.h"
#include "tools/machine/monitor.h"
#include "tools/train/run_lock.h"
#include "tools/train/watch.h"

namespace engine {

// A row of results.csv.
struct EpochResult {
  int epoch = 0;       // from 1
  double seconds = 0;  // since training began, interruptions left out
  double train_loss = 0, val_loss = 0;
  double top1 = 0, top5 = 0;        // shares of the validation images, 0 to 1
  std::optional<double> auc_macro;  // nothing where a class has no image
  double lr = 0;                    // of the epoch's last step
  int64_t step = 0;                 // steps done in all: the place in TensorBoard's plots
  double images_per_second = 0, wait_share = 0;  // wait: share of the time spent waiting for data
  MachineUse use;                                // during training, of Monitor::take()
  Watch watch = {};
  std::optional<double> watched = {};  // nothing where it is not defined
};

class RunDirectory {
 public:
  // In the folder that is locked, for as long as this lives.
  static RunDirectory create(RunLock lock);
  // The folder that another process keeps: it has paths, and writes nothing.
  static RunDirectory kept_elsewhere(const std::filesystem::path& path);

  const std::filesystem::path& path() const { return path_; }
  // There is something to lose from now on; else the destructor removes what came into a folder
  // that was empty.
  void keep();
  // "best" → …/weights/best.safetensors
  std::filesystem::path weights(std::string_view name) const;

  // args.json, or a numbered file beside those of former starts (run_flags.h).
  void write_args(const Flags& flags);
  // command.txt, numbered likewise: the folder and the command, quoted for a shell.
  void write_command(const Command& command);
  // env.json: build, libraries and host, and the caller's own facts (devices, driver, …).
  void write_environment(const nlohmann::ordered_json& facts);
  void write_classes(std::span<const std::string> classes);
  void write_split(std::string_view csv);  // split.csv: which sample is in which part
  // For TensorBoard: the flags as hyper-parameters, with the measures that runs are compared by;
  // begun once, ended where training ends or fails.
  void begin_session(const Flags& flags);
  void end_session(bool well);
  // For TensorBoard: a picture of a step, as PNG.
  void log_picture(int64_t step, std::string_view tag, const Image& picture);
  void write_algorithms(const std::map<std::string, std::string>& algorithms);

  // Continues after `epochs` whole epochs and `steps` steps in all: what was logged beyond them
  // goes. Events "epoch" belong to their member "epoch", others to their member "step", if they
  // have it.
  void continue_after(int epochs, int64_t steps);

  // Appends a line to metrics.jsonl: schema, time, event, then `fields`. Any thread may call it.
  void log(std::string_view event, const nlohmann::ordered_json& fields);
  // Logs an event "step" with `epoch`, `step` and `fields`; those of them that are finite numbers
  // are TensorBoard's scalars too, as "train/<name>". Callers choose how often.
  void log_step(int epoch, int64_t step, const nlohmann::ordered_json& fields);
  // Logs a row of results.csv, an event "epoch" and scalars.
  void log_epoch(const EpochResult& result);
  // Appends a line to log.txt, with the time: what was said to the user.
  void note(std::string_view line);

  // Removes what write_args() and write_command() wrote: of a start that came to nothing, whose
  // flags are not those to go on with.
  void take_back_start();

 private:
  void note_start(const std::string& name, std::string_view text);
  RunDirectory(std::filesystem::path path, std::optional<RunLock> lock);
  void open_logs();
  void replace(std::string_view name, std::string_view text) const;
  void append(std::ofstream& log, const char* name, std::string_view line);

  std::filesystem::path path_;
  std::optional<RunLock> lock_;  // without it nothing is written
  std::vector<std::filesystem::path> start_files_;
  std::ofstream metrics_, results_, notes_;
  std::optional<EventFile> events_;  // with lock_
  std::unique_ptr<std::mutex> appending_ = std::make_unique<std::mutex>();
};

}  // namespace engine
