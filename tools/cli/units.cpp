#include "tools/cli/units.h"

#include <fmt/format.h>

namespace engine {

std::string duration_text(double seconds) {
  const auto text = [](double value, const char* unit) {
    return fmt::format("{:.{}f} {}", value, value < 9.95 ? 1 : 0, unit);
  };
  if (seconds < 90) return text(seconds, "s");
  return seconds < 5400 ? text(seconds / 60, "min") : text(seconds / 3600, "h");
}

}  // namespace engine
