#include "tools/score/text_table.h"

#include <fmt/format.h>

#include <algorithm>
#include <string_view>

#include "io/files/utf8.h"

namespace engine {
namespace {

constexpr size_t kColumns = 80, kIndent = 2;
constexpr size_t kNamesAtLeast = 10, kNamesAtMost = 28;

int digits_of(int64_t samples) {
  return samples < 100 ? 2 : samples < 10'000 ? 3 : 4;
}

size_t characters(std::string_view text) {
  return decode_utf8(text).size();
}

// The text in so many characters: what is too long loses its end.
std::string fitted(std::string_view text, size_t width) {
  std::string result;
  const size_t count = characters(text);
  for (size_t done = 0, most = count > width ? width - 1 : count; done < most; ++done) {
    const size_t bytes = std::max<size_t>(1, utf8_length(text));
    result += text.substr(0, bytes);
    text.remove_prefix(bytes);
  }
  if (count > width) return result + "…";
  return result + std::string(width - count, ' ');
}

}  // namespace

std::string number_text(const std::optional<double>& value, int64_t samples) {
  return value && samples > 0 ? fmt::format("{:.{}f}", *value, digits_of(samples)) : "-";
}

std::string bounds_text(const FigureInterval& i, int64_t samples) {
  return fmt::format("[{:.{}f}, {:.{}f}]", i->low, digits_of(samples), i->high, digits_of(samples));
}

std::string with_bounds(const std::optional<double>& value, const FigureInterval& i,
                        int64_t samples) {
  const std::string text = number_text(value, samples);
  if (text == "-" || !i) return text;
  return fmt::format("{} {:.{}f}-{:.{}f}", text, i->low, digits_of(samples), i->high,
                     digits_of(samples));
}

std::optional<double> share_if_any(int64_t samples, double value) {
  return samples > 0 ? std::optional(value) : std::nullopt;
}

std::string Table::text() const {
  std::vector<size_t> widths(rows_[0].size());
  for (const auto& row : rows_)
    for (size_t i = 0; i < row.size(); ++i) widths[i] = std::max(widths[i], characters(row[i]));
  size_t others = kIndent;
  for (size_t i = 1; i < widths.size(); ++i) others += widths[i] += 2;
  const size_t room = others + kNamesAtLeast < kColumns ? kColumns - others : kNamesAtLeast;
  widths[0] = std::clamp(widths[0], kNamesAtLeast, std::min(room, kNamesAtMost));
  std::string text;
  for (const auto& row : rows_) {
    text += std::string(kIndent, ' ') + fitted(row[0], widths[0]);
    for (size_t i = 1; i < row.size(); ++i)
      text += std::string(widths[i] - characters(row[i]), ' ') + row[i];
    text += '\n';
  }
  return text;
}

}  // namespace engine
