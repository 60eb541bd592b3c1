#include "io/files/npy.h"

#include <fmt/ranges.h>

#include <bit>

#include "engine/error.h"

namespace engine {

static_assert(std::endian::native == std::endian::little);

std::string npy_header(std::span<const int64_t> shape) {
  constexpr size_t kPrefix = 10, kUnit = 64;  // magic, version and length; of the alignment
  // A tuple of one number has a comma behind it. The first is padded to the digits of any int64_t.
  std::string text = fmt::format("{{'descr': '<f4', 'fortran_order': False, 'shape': ({},{}), }}",
                                 shape[0], fmt::join(shape.subspan(1), ","));
  const size_t most_digits = 19, digits = std::to_string(shape[0]).size();
  const size_t most = kPrefix + text.size() + 1 + (most_digits - digits);
  const size_t whole = std::max(2 * kUnit, (most + kUnit - 1) / kUnit * kUnit);
  text.resize(whole - kPrefix - 1, ' ');
  text += '\n';
  const auto length = static_cast<uint16_t>(text.size());
  std::string header("\x93NUMPY\x01\x00", 8);
  header += static_cast<char>(length & 0xFF);
  header += static_cast<char>(length >> 8);
  return header + text;
}

NpyWriter::NpyWriter(const std::filesystem::path& path, std::vector<int64_t> row)
    : row_(std::move(row)), file_(path) {
  require(file_.can_overwrite(), Failure::usage, "{}: a device or a pipe; a file is wanted",
          path.string());
  for (const int64_t size : row_) row_size_ *= static_cast<size_t>(size);
  file_.write(header());
}

std::string NpyWriter::header() const {
  std::vector<int64_t> shape{rows_};
  shape.insert(shape.end(), row_.begin(), row_.end());
  return npy_header(shape);
}

void NpyWriter::append(std::span<const float> values) {
  require(values.size() % row_size_ == 0, Failure::internal, "{} values are no rows of {}",
          values.size(), row_size_);
  file_.write(std::as_bytes(values));
  rows_ += static_cast<int64_t>(values.size() / row_size_);
}

void NpyWriter::commit() {
  const std::string whole = header();
  file_.overwrite(0, std::as_bytes(std::span(whole)));
  file_.commit();
}

}  // namespace engine
