#include "tools/cli/byte_progress.h"

#include <fmt/format.h>

#include <algorithm>

namespace engine {
namespace {

constexpr double kMiB = 1 << 20;

}  // namespace

ByteProgress::ByteProgress(std::string title, ProgressOutput output)
    : title_(std::move(title)), line_(std::move(output)) {}

void ByteProgress::show(int64_t done, int64_t whole) {
  const double now = line_.seconds();
  if (before_ < 0) before_ = done, began_ = now;
  const bool complete = done == whole;
  if (!complete && now - shown_at_ < line_.interval()) return;
  shown_at_ = now;
  std::string line = fmt::format("{}  {:.1f}", title_, done / kMiB);
  if (whole > 0) line += fmt::format(" of {:.1f}", whole / kMiB);
  line += " MiB";
  if (const double rate = (done - before_) / std::max(now - began_, 1e-3); rate > 0) {
    line += fmt::format("  {:.1f} MiB/s", rate / kMiB);
    const auto left = static_cast<int64_t>(std::max(0., double(whole - done) / rate));
    if (whole > 0 && !complete) line += fmt::format("  eta {}:{:02}", left / 60, left % 60);
  }
  line_.show(std::move(line));
}

}  // namespace engine
