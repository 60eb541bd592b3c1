#include "tools/train/test_fault.h"

#include <fmt/format.h>

#include <algorithm>
#include <atomic>
#include <charconv>
#include <chrono>
#include <csignal>
#include <iterator>
#include <memory>
#include <sstream>
#include <stdexcept>
#include <string>
#include <thread>
#include <utility>

#include "engine/error.h"

namespace engine {

namespace {

constexpr std::pair<std::string_view, FaultKind> kKinds[] = {
    {"throw", FaultKind::throws},   {"stall", FaultKind::stalls},
    {"skip", FaultKind::skips},     {"slow-loader", FaultKind::loads_slowly},
    {"kill", FaultKind::is_killed}, {"stop", FaultKind::is_stopped}};

void sleep(double seconds) {
  std::this_thread::sleep_for(std::chrono::duration<double>(seconds));
}

[[noreturn]] void stall() {
  for (;;) sleep(3600);
}

FaultKind parse_kind(std::string_view text) {
  const auto found =
      std::ranges::find(kKinds, text, &std::pair<std::string_view, FaultKind>::first);
  require(found != std::end(kKinds), Failure::usage, "ENGINE_TEST_FAULT: no kind '{}'", text);
  return found->second;
}

template <class T>
T parse(std::string_view text) {
  T value{};
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  require(error == std::errc() && end == text.data() + text.size() && value >= 0, Failure::usage,
          "ENGINE_TEST_FAULT: '{}' is no number", text);
  return value;
}

}  // namespace

bool TestFault::in_step(int at_rank, int64_t at_step) const {
  if (at_rank != rank || at_step != step) return false;
  switch (kind) {
    case FaultKind::throws: throw std::runtime_error("ENGINE_TEST_FAULT asks for an exception");
    case FaultKind::stalls: stall();
    case FaultKind::is_killed: raise(SIGKILL); break;
    case FaultKind::is_stopped: raise(SIGSTOP); break;
    case FaultKind::skips: return true;
    case FaultKind::loads_slowly:
    case FaultKind::none: break;
  }
  return false;
}

Prepare TestFault::in_loading(Prepare prepare, int batch, Share share) const {
  if (kind != FaultKind::loads_slowly || share.rank != rank) return prepare;
  const int64_t first = (step - 1) * batch * share.ranks, last = first + batch * share.ranks;
  const auto done = std::make_shared<std::atomic<bool>>(false);
  return [=, seconds = seconds, prepare = std::move(prepare)](size_t index, const RandomKey& key) {
    if (key.epoch == 0 && key.position >= first && key.position < last && !done->exchange(true))
      sleep(seconds);
    return prepare(index, key);
  };
}

TestFault parse_test_fault(const char* text) {
  TestFault fault;
  if (!text) return fault;
  std::istringstream words{std::string(text)};
  for (std::string word; std::getline(words, word, ',');) {
    const size_t equals = std::min(word.find('='), word.size());
    const std::string name = word.substr(0, equals),
                      value = word.substr(std::min(equals + 1, word.size()));
    if (name == "kind")
      fault.kind = parse_kind(value);
    else if (name == "rank")
      fault.rank = parse<int>(value);
    else if (name == "step")
      fault.step = parse<int64_t>(value);
    else if (name == "seconds")
      fault.seconds = parse<double>(value);
    else
      fail(Failure::usage, "ENGINE_TEST_FAULT: '{}' is not known", word);
  }
  return fault;
}

}  // namespace engine
