// Makes packs: threads decode, resize and append pictures; the header is written last.
#include <fcntl.h>
#include <fmt/format.h>
#include <sys/mman.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <cstring>

#include "engine/error.h"
#include "io/data/pack.h"
#include "io/data/pack_format.h"
#include "io/data/source_file.h"
#include "io/data/unreadable.h"
#include "io/files/descriptor.h"
#include "io/files/file_lock.h"

namespace engine {
namespace {

namespace fs = std::filesystem;

void write_at(int file, std::span<const std::byte> bytes, uint64_t offset, const fs::path& name) {
  while (!bytes.empty()) {
    const ssize_t written = pwrite(file, bytes.data(), bytes.size(), static_cast<off_t>(offset));
    if (written < 0 && errno == EINTR) continue;
    const bool full = errno == ENOSPC || errno == EDQUOT || errno == ENOMEM;
    require(written > 0, full ? Failure::memory : Failure::data,
            "{}: cannot write the pack beyond {} bytes: {}", name.string(), offset,
            std::strerror(errno));
    bytes = bytes.subspan(static_cast<size_t>(written));
    offset += static_cast<uint64_t>(written);
  }
}

template <class T>
void append(std::vector<std::byte>& bytes, const T* values, size_t count) {
  const auto* first = reinterpret_cast<const std::byte*>(values);
  bytes.insert(bytes.end(), first, first + count * sizeof(T));
}

// Fills an empty file with the pictures, the index and the header.
void write_pack(int file, const fs::path& name, std::span<const PackSource> sources,
                const PackSpec& spec, const PackOptions& options) {
  std::vector<Pack::Record> records(sources.size());
  std::atomic<uint64_t> end = 0;  // where the pixels end so far
  parallel_for(sources.size(), options.parallel, [&](size_t i) {
    const SourceFile source = source_file(sources[i]);  // before reading: a later change shows
    Pack::Record& record = records[i];
    record.size = source.size;
    record.modified = source.modified;
    SourcePicture picture;
    try {
      picture = read_source(sources[i], spec.channels);
    } catch (const Error& error) {
      if (error.kind != Failure::data) throw;
      if (!options.allow_unreadable) fail_unreadable(error);
      record.content = content_hash(sources[i]);
      return;
    }
    const Image image = pack_image(std::move(picture.image), spec);
    const auto pixels = std::as_bytes(std::span(image.pixels));
    record.content = picture.content;
    record.width = image.width;
    record.height = image.height;
    record.checksum = xxh64(pixels);
    record.offset =
        end.fetch_add((pixels.size() + kPackAlignment - 1) / kPackAlignment * kPackAlignment);
    write_at(file, pixels, kPackPixels + record.offset, name);
  });

  std::vector<std::byte> index;
  append(index, records.data(), records.size());
  for (const PackSource& source : sources) {
    const auto length = static_cast<uint32_t>(source.path.size());
    append(index, &length, 1);
    append(index, source.path.data(), length);
  }
  PackHeader header{.version = kPackVersion,
                    .resize_height = spec.resize_height,
                    .resize_width = spec.resize_width,
                    .interpolation = static_cast<int32_t>(spec.interpolation),
                    .channels = spec.channels,
                    .count = static_cast<uint32_t>(sources.size()),
                    .index_offset = kPackPixels + end,
                    .index_bytes = index.size(),
                    .index_checksum = xxh64(index)};
  std::memcpy(header.magic, kPackMagic, sizeof kPackMagic);
  header.checksum = header.own_checksum();
  write_at(file, index, header.index_offset, name);
  write_at(file, std::as_bytes(std::span(&header, 1)), 0, name);
}

// Writes a pack completely, under its name and synced to disk, or not at all.
std::shared_ptr<const Pack> write_pack_file(const fs::path& file, const fs::path& temporary,
                                            std::span<const PackSource> sources,
                                            const PackSpec& spec, const PackOptions& options) {
  const auto fail_with_errno = [&](const char* what) {
    fail(Failure::data, "{}: cannot {}: {}", file.string(), what, std::strerror(errno));
  };
  Descriptor out(
      open(temporary.c_str(), O_RDWR | O_CREAT | O_TRUNC | O_NOFOLLOW | O_CLOEXEC, 0666));
  if (out.value() < 0) fail_with_errno("create a temporary beside it");
  try {
    write_pack(out.value(), file, sources, spec, options);
    if (fsync(out.value()) != 0) fail_with_errno("sync");
    if (rename(temporary.c_str(), file.c_str()) != 0) fail_with_errno("rename to it");
  } catch (...) {
    unlink(temporary.c_str());
    throw;
  }
  const Descriptor folder(open(file.parent_path().c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (folder.value() < 0 || (fsync(folder.value()) != 0 && errno != EINVAL))
    fail_with_errno("sync its folder");
  return map_pack(out.release(), file);
}

// The pack if it serves the sources, else null; `reason` then says why not, and is empty if there
// is no pack.
std::shared_ptr<const Pack> usable_pack(const fs::path& file, std::span<const PackSource> sources,
                                        const PackSpec& spec, const PackOptions& options,
                                        std::string& reason) {
  reason.clear();
  if (!fs::exists(file)) return nullptr;
  ParallelOptions quiet = options.parallel;
  quiet.progress = nullptr;
  try {
    const auto pack = open_pack(file);
    const std::optional<std::string> why = mismatch(*pack, sources, spec, quiet);
    if (!why) return pack;
    reason = fmt::format("{}: {}", file.string(), *why);
  } catch (const Error& error) {
    if (error.kind != Failure::data) throw;
    reason = error.what();
  }
  return nullptr;
}

}  // namespace

std::shared_ptr<const Pack> build_pack(std::span<const PackSource> sources, const PackSpec& spec,
                                       const PackOptions& options) {
  Descriptor memory(memfd_create("engine-pack", MFD_CLOEXEC));
  require(memory.value() >= 0, Failure::memory, "memory for a pack: {}", std::strerror(errno));
  write_pack(memory.value(), "memory", sources, spec, options);
  return map_pack(memory.release(), {});
}

std::shared_ptr<const Pack> open_or_build_pack(const fs::path& file,
                                               std::span<const PackSource> sources,
                                               const PackSpec& spec, const PackOptions& options) {
  std::string reason;
  if (auto pack = usable_pack(file, sources, spec, options, reason)) return pack;
  std::error_code error;
  const fs::path folder = fs::absolute(file).parent_path();
  fs::create_directories(folder, error);
  require(!error, Failure::data, "{}: cannot create the cache folder: {}", folder.string(),
          error.message());
  const auto waiting = [&](const std::string& holder) {
    if (options.say)
      options.say(fmt::format("waiting for {}, which writes {}", holder, file.string()));
  };
  const FileLock lock =
      wait_for_lock(file.string() + ".lock", {.waiting = waiting, .stop = options.parallel.stop});
  // Another process may have made the pack meanwhile.
  if (auto pack = usable_pack(file, sources, spec, options, reason)) return pack;
  if (!reason.empty() && options.say) options.say(reason + "; making it anew");
  // One temporary serves, for a lock has one holder; without locks there may be several writers.
  const bool alone = lock.outcome() == FileLock::Outcome::taken;
  const std::string end = alone ? ".tmp" : fmt::format(".{}.tmp", getpid());
  return write_pack_file(fs::absolute(file), fs::absolute(file).string() + end, sources, spec,
                         options);
}

}  // namespace engine
