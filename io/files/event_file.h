// TensorBoard's event files: scalars by step, one protobuf message per record, each record with its
// length and its checksums (TFRecord). They are only written here; TensorBoard reads them.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <fstream>
#include <span>
#include <string>
#include <string_view>

namespace engine {

struct Scalar {
  std::string tag;   // "val/accuracy_top1"; the part before the slash groups the plots
  double value = 0;  // stored as float
};

class EventFile {
 public:
  // Creates the file events.out.tfevents.<unix time>.<host>.<pid>.<n> in `folder`. TensorBoard
  // reads the files of a folder in the order of their names.
  explicit EventFile(const std::filesystem::path& folder);

  const std::filesystem::path& path() const { return path_; }

  // Voids what earlier files of the folder hold for this step and later ones. A run that was
  // restored from a checkpoint after `step - 1` steps calls this before it writes its first scalar.
  void restart(int64_t step);
  // Writes one event with all of the scalars and flushes it, so that a killed run loses nothing.
  void write(int64_t step, std::span<const Scalar> scalars);

 private:
  void record(std::string_view event);

  std::filesystem::path path_;
  std::ofstream out_;
};

// CRC-32C (Castagnoli, RFC 3720), and the masked form that TFRecord stores because its bytes may
// hold checksums of their own.
uint32_t crc32c(std::span<const std::byte> bytes);
uint32_t masked_crc32c(std::span<const std::byte> bytes);

}  // namespace engine
