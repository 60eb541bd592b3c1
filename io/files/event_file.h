// TensorBoard's event files: scalars and pictures by step, and the hyper-parameters of a session as
// TensorBoard's plugin "hparams" defines them (plugin_data.proto, api.proto). One protobuf message
// per record, each record with its length and its checksums (TFRecord). They are only written here;
// TensorBoard reads them.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <fstream>
#include <span>
#include <string>
#include <string_view>
#include <variant>

namespace engine {

struct Scalar {
  std::string tag;   // "val/accuracy_top1"; the part before the slash groups the plots
  double value = 0;  // stored as float
};

// An encoded picture: PNG or JPEG.
struct EventPicture {
  std::string tag;  // "examples/train"
  int width = 0, height = 0, channels = 3;
  std::span<const std::byte> file;
};

struct HyperParameter {
  std::string name;
  std::variant<std::string, bool, double> value;
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
  // One picture of a step, flushed likewise.
  void write(int64_t step, const EventPicture& picture);
  // What a session is called, how it was asked to train, and the tags of the scalars by which
  // sessions are compared. Each file may say it once, before its session ends.
  void begin_session(std::string_view name, std::span<const HyperParameter> parameters,
                     std::span<const std::string> measures);
  void end_session(bool well);  // or failed

 private:
  void write_session(std::string_view tag, std::string_view content);
  void record(std::string_view event);

  std::filesystem::path path_;
  std::ofstream out_;
};

// CRC-32C (Castagnoli, RFC 3720), and the masked form that TFRecord stores because its bytes may
// hold checksums of their own.
uint32_t crc32c(std::span<const std::byte> bytes);
uint32_t masked_crc32c(std::span<const std::byte> bytes);

}  // namespace engine
