#include "io/files/bytes.h"

#include <algorithm>
#include <cerrno>
#include <exception>
#include <fstream>

namespace engine {

namespace {

std::vector<std::byte> zeros(uint64_t size, const std::filesystem::path& path, Failure kind) {
  try {
    return std::vector<std::byte>(size);
  } catch (const std::exception&) {  // of memory, or of a vector's length
    fail(kind, "{}: there is no memory for its {} bytes", path.string(), size);
  }
}

}  // namespace

std::vector<std::byte> read_file(const std::filesystem::path& path, Failure kind, uint64_t most) {
  std::error_code problem;
  const bool regular = std::filesystem::is_regular_file(path, problem);
  if (problem) fail(kind, "{}: {}", path.string(), problem.message());
  require(regular, kind, "{}: not a file", path.string());
  std::ifstream file(path, std::ios::binary | std::ios::ate);
  require(file.is_open(), kind, "{}: {}", path.string(), std::strerror(errno));
  const std::streamoff size = file.tellg();
  require(size >= 0, kind, "{}: its size is not known", path.string());
  require(static_cast<uint64_t>(size) <= most, kind, "{}: {} bytes, and at most {} are read",
          path.string(), size, most);
  std::vector<std::byte> bytes = zeros(static_cast<uint64_t>(size), path, kind);
  file.seekg(0).read(reinterpret_cast<char*>(bytes.data()),
                     static_cast<std::streamsize>(bytes.size()));
  require(file.good(), kind, "{}: cannot read {} bytes", path.string(), bytes.size());
  return bytes;
}

std::optional<uint64_t> bytes_of(const Shape& shape, DType type) {
  // A dimension of 0 makes any other one harmless, so it is looked for first.
  if (std::ranges::any_of(shape, [](int64_t dim) { return dim < 0; })) return std::nullopt;
  if (std::ranges::find(shape, 0) != shape.end()) return 0;
  int64_t count = static_cast<int64_t>(size_of(type));
  for (const int64_t dim : shape)
    if (__builtin_mul_overflow(count, dim, &count)) return std::nullopt;
  return static_cast<uint64_t>(count);
}

void ByteReader::seek(uint64_t position) {
  require(position <= bytes_.size(), "cannot go to byte {} of {}", position, bytes_.size());
  position_ = position;
}

Bytes ByteReader::take(uint64_t count) {
  require(count <= left(), "{} bytes expected, {} left: truncated", count, left());
  const Bytes taken = bytes_.subspan(position_, count);
  position_ += count;
  return taken;
}

std::string_view ByteReader::line() {
  const std::string_view rest = as_text(bytes_.subspan(position_));
  const size_t end = rest.find('\n');
  require(end != std::string_view::npos, "a line without end: truncated");
  position_ += end + 1;
  return rest.substr(0, end);
}

}  // namespace engine
