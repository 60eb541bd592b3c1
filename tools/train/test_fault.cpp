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

constexpr std::pair<std::string_view, RankFault> kKinds[] = {
    {"throw", RankFault::throws},   {"stall", RankFault::stalls},
    {"skip", RankFault::skips},     {"slow-loader", RankFault::loads_slowly},
    {"kill", RankFault::is_killed}, {"stop", RankFault::is_stopped}};

void sleep(double seconds) {
  std::this_thread::sleep_for(std::chrono::duration<double>(seconds));
}

[[noreturn]] void stall() {
  for (;;) sleep(3600);
}

RankFault parse_kind(std::string_view text) {
  const auto found =
      std::ranges::find(kKinds, text, &std::pair<std::string_view, RankFault>::first);
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
    case RankFault::throws: throw std::runtime_error("ENGINE_TEST_FAULT asks for an exception");
    case RankFault::stalls: stall();
    case RankFault::is_killed: raise(SIGKILL); break;
    case RankFault::is_stopped: raise(SIGSTOP); break;
    case RankFault::skips: return true;
    case RankFault::loads_slowly:
    case RankFault::none: break;
  }
  return false;
}

Prepare TestFault::in_loading(Prepare prepare, int batch, Share share) const {
  if (kind != RankFault::loads_slowly || share.rank != rank) return prepare;
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
