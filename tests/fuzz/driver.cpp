// Runs the parsers on every seed and on changes of them, without a fuzzing library:
//   fuzz [--seconds S] [--first N] [--seeds DIR] [TARGET|FILE]...
// Change N of a target is the same on every machine. A file is run once, by the target that its
// folder or the beginning of its name, up to '-', names. What a fault happens with is left as
// TARGET-crash in the working folder.
#include <fcntl.h>
#include <fmt/format.h>
#include <sanitizer/asan_interface.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <csignal>
#include <cstdlib>
#include <exception>
#include <string>

#include "engine/error.h"
#include "io/files/bytes.h"
#include "tests/fuzz/mutate.h"
#include "tests/fuzz/targets.h"

// What one input may take: gigabytes are a fault of their own.
extern "C" const char* __asan_default_options() {
  return "max_allocation_size_mb=1024:hard_rss_limit_mb=3072:detect_leaks=1";
}
extern "C" const char* __ubsan_default_options() {
  return "print_stacktrace=1";
}

namespace engine::test {
namespace {

namespace fs = std::filesystem;
using Clock = std::chrono::steady_clock;

constexpr size_t kMostBytes = 1 << 16;
constexpr unsigned kMostSeconds = 20;  // for one input

// The input under way, for the handlers below, which run when nothing else can.
struct Running {
  std::string file;
  std::span<const std::byte> bytes;
};
Running& running() {
  static Running input;
  return input;
}

void leave_input() {
  const Running& input = running();
  if (input.file.empty()) return;  // what is found lies between inputs, as leaks do
  const int file = open(input.file.c_str(), O_WRONLY | O_CREAT | O_TRUNC, 0644);
  if (file < 0 || write(file, input.bytes.data(), input.bytes.size()) < 0) return;
  close(file);
}

void end_after_too_long(int) {
  leave_input();
  _exit(1);
}

void run(const FuzzTarget& target, std::span<const std::byte> bytes) {
  // An allocation of its own, so that AddressSanitizer sees its end.
  const Seed exact(bytes.begin(), bytes.end());
  running() = {fmt::format("{}-crash", target.name), exact};
  alarm(kMostSeconds);
  try {
    target.run(exact);
  } catch (const std::exception& error) {
    leave_input();
    fmt::print(stderr, "{}: {}\n", target.name, error.what());
    std::exit(1);
  }
  alarm(0);
  running() = {};
}

std::vector<Seed> seeds_of(const FuzzTarget& target, const fs::path& folder) {
  std::vector<fs::path> files;
  for (const auto& entry : fs::directory_iterator(folder / target.name))
    files.push_back(entry.path());
  std::sort(files.begin(), files.end());
  std::vector<Seed> seeds;
  for (const fs::path& file : files) seeds.push_back(read_file(file));
  require(!seeds.empty(), Failure::usage, "{}: no seeds", (folder / target.name).string());
  return seeds;
}

struct Options {
  double seconds = 5;
  uint32_t first = 0;
  fs::path seeds = ENGINE_SOURCE_DIR "/tests/fuzz/seeds";
  std::vector<std::string> names;
};

Options parse(int count, char** words) {
  Options o;
  for (int i = 1; i < count; ++i) {
    const std::string word = words[i];
    const bool more = i + 1 < count;
    if (word == "--seconds" && more)
      o.seconds = std::atof(words[++i]);
    else if (word == "--first" && more)
      o.first = static_cast<uint32_t>(std::atoll(words[++i]));
    else if (word == "--seeds" && more)
      o.seeds = words[++i];
    else
      o.names.push_back(word);
  }
  return o;
}

void fuzz(const FuzzTarget& target, const Options& o) {
  const std::vector<Seed> seeds = seeds_of(target, o.seeds);
  for (const Seed& seed : seeds) run(target, seed);
  uint64_t inputs = 0;
  const auto began = Clock::now();
  const auto seconds = [&] { return std::chrono::duration<double>(Clock::now() - began).count(); };
  for (; seconds() < o.seconds; ++inputs) {
    Rng rng({.position = o.first + static_cast<uint32_t>(inputs)});
    run(target, mutated(seeds, rng, kMostBytes));
  }
  fmt::print("{}: {} seeds, {} changes from {}, {:.0f} per second\n", target.name, seeds.size(),
             inputs, o.first, static_cast<double>(inputs) / std::max(seconds(), 1e-9));
}

void run_file(const fs::path& file) {
  const std::string name = file.filename().string();
  const FuzzTarget* target = fuzz_target(name.substr(0, name.find('-')));
  if (!target) target = fuzz_target(fs::absolute(file).parent_path().filename().string());
  require(target != nullptr, Failure::usage, "{}: neither its name nor its folder's is a target's",
          file.string());
  run(*target, read_file(file));
  fmt::print("{}: {}: no fault\n", target->name, file.string());
}

int main(int count, char** words) {
  __asan_set_death_callback(leave_input);
  std::signal(SIGALRM, end_after_too_long);
  const Options o = parse(count, words);
  for (const std::string& name : o.names) {
    const FuzzTarget* target = fuzz_target(name);
    target ? fuzz(*target, o) : run_file(name);
  }
  if (o.names.empty())
    for (const FuzzTarget& target : fuzz_targets()) fuzz(target, o);
  return 0;
}

}  // namespace
}  // namespace engine::test

int main(int count, char** words) {
  try {
    return engine::test::main(count, words);
  } catch (const std::exception& error) {
    fmt::print(stderr, "{}\n", error.what());
    return 2;
  }
}
