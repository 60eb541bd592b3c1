#include "io/weights/zip.h"

#include <zlib.h>

#include <algorithm>

namespace engine {
namespace {

constexpr std::string_view kEndSignature = "PK\x05\x06";
constexpr uint32_t kEnd64Signature = 0x06064b50, kLocator64Signature = 0x07064b50;
constexpr uint32_t kCentralSignature = 0x02014b50, kLocalSignature = 0x04034b50;
constexpr uint64_t kEndBytes = 22, kLocatorBytes = 20, kCentralBytes = 46, kLocalBytes = 30;
constexpr uint32_t kIn64 = 0xffffffff;  // "see the zip64 record"
constexpr uint16_t kEncrypted = 1, kStored = 0;

// The end record is the last one whose comment ends exactly where the file ends.
uint64_t find_end_record(Bytes file, const std::string& path) {
  const std::string_view text = as_text(file);
  const size_t farthest = kEndBytes + 0xffff;
  const size_t stop = file.size() > farthest ? file.size() - farthest : 0;
  size_t at = text.rfind(kEndSignature);
  for (; at != std::string_view::npos && at >= stop; at = text.rfind(kEndSignature, at - 1)) {
    ByteReader in(file.subspan(at), path);
    if (in.left() >= kEndBytes) {
      in.seek(kEndBytes - 2);
      if (in.read<uint16_t>() == in.left()) return at;
    }
    if (at == 0) break;
  }
  fail(Failure::weights, "{}: no end of the zip archive: truncated", path);
}

}  // namespace

ZipArchive::ZipArchive(Bytes file, const std::string& path) : file_(file), path_(path) {
  const Directory directory = find_directory();
  ByteReader in(file_, path_);
  in.seek(directory.offset);
  in.require(directory.entries <= in.left() / kCentralBytes, "{} entries do not fit into {} bytes",
             directory.entries, in.left());
  for (uint64_t i = 0; i < directory.entries; ++i) read_entry(in);
  refuse_overlaps();
}

// Entries that share bytes would make the work of reading all of them quadratic.
void ZipArchive::refuse_overlaps() const {
  std::vector<std::pair<uint64_t, uint64_t>> spans;  // where an entry begins, and its least bytes
  for (const auto& [name, entry] : entries_)
    spans.emplace_back(entry.header, kLocalBytes + name.size() + entry.stored);
  std::ranges::sort(spans);
  for (size_t i = 1; i < spans.size(); ++i)
    require(spans[i].first - spans[i - 1].first >= spans[i - 1].second, Failure::weights,
            "{}: two entries of the archive overlap at byte {}", path_, spans[i].first);
}

ZipArchive::Directory ZipArchive::find_directory() const {
  const uint64_t end = find_end_record(file_, path_);
  ByteReader in(file_, path_);
  in.seek(end + 10);
  Directory directory = {.offset = 0, .entries = in.read<uint16_t>()};
  in.seek(end + 16);
  directory.offset = in.read<uint32_t>();
  if (end < kLocatorBytes) return directory;
  in.seek(end - kLocatorBytes);
  if (in.read<uint32_t>() != kLocator64Signature) return directory;
  in.seek(end - kLocatorBytes + 8);
  const uint64_t end64 = in.read<uint64_t>();
  in.seek(end64);
  in.require(in.read<uint32_t>() == kEnd64Signature, "no zip64 end record");
  in.seek(end64);
  in.take(32);
  directory.entries = in.read<uint64_t>();
  in.take(8);
  directory.offset = in.read<uint64_t>();
  return directory;
}

void ZipArchive::read_entry(ByteReader& in) {
  in.require(in.read<uint32_t>() == kCentralSignature, "no entry of the zip directory");
  in.take(4);
  const auto flags = in.read<uint16_t>(), method = in.read<uint16_t>();
  in.take(4);
  const auto crc = in.read<uint32_t>();
  uint64_t stored = in.read<uint32_t>(), bytes = in.read<uint32_t>();
  const auto name_bytes = in.read<uint16_t>(), extra_bytes = in.read<uint16_t>();
  const auto comment_bytes = in.read<uint16_t>();
  in.take(8);
  uint64_t header = in.read<uint32_t>();
  const std::string name(as_text(in.take(name_bytes)));
  ByteReader extra(in.take(extra_bytes), fmt::format("{}: extra field of '{}'", path_, name));
  while (extra.left() >= 4) {
    const auto id = extra.read<uint16_t>(), length = extra.read<uint16_t>();
    ByteReader field(extra.take(length), extra.what());
    if (id != 1) continue;  // 1 is zip64: the values that did not fit, in this order
    if (bytes == kIn64) bytes = field.read<uint64_t>();
    if (stored == kIn64) stored = field.read<uint64_t>();
    if (header == kIn64) header = field.read<uint64_t>();
  }
  in.take(comment_bytes);
  const bool plain = method == kStored && (flags & kEncrypted) == 0 && stored == bytes;
  const bool first = entries_.try_emplace(name, Entry{header, stored, bytes, crc, plain}).second;
  in.require(first, "'{}' is in the archive twice", name);
}

Bytes ZipArchive::read(const std::string& name) const {
  const auto found = entries_.find(name);
  require(found != entries_.end(), Failure::weights, "{}: the archive has no '{}'", path_, name);
  const Entry& entry = found->second;
  require(entry.plain, Failure::weights, "{}: '{}' is compressed or encrypted", path_, name);
  ByteReader in(file_, fmt::format("{}: '{}'", path_, name));
  in.seek(entry.header);
  in.require(in.read<uint32_t>() == kLocalSignature, "no local header");
  in.take(22);
  const auto name_bytes = in.read<uint16_t>(), extra_bytes = in.read<uint16_t>();
  in.take(uint64_t{name_bytes} + extra_bytes);
  const Bytes data = in.take(entry.bytes);
  const auto crc = crc32_z(0, reinterpret_cast<const Bytef*>(data.data()), data.size());
  in.require(crc == entry.crc, "checksum {:08x} differs from the stored {:08x}: damaged", crc,
             entry.crc);
  return data;
}

std::string ZipArchive::stem_of(std::string_view leaf) const {
  std::string stem;
  int found = 0;
  for (const auto& [name, entry] : entries_) {
    const size_t slash = name.find('/');
    if (slash == std::string::npos || std::string_view(name).substr(slash + 1) != leaf) continue;
    stem = name.substr(0, slash);
    ++found;
  }
  require(found == 1, Failure::weights, "{}: the archive has {} entries '<stem>/{}' instead of one",
          path_, found, leaf);
  return stem;
}

}  // namespace engine
