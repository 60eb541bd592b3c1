#include "io/files/event_file.h"

#include <unistd.h>

#include <array>
#include <atomic>
#include <bit>
#include <chrono>
#include <ctime>

#include "engine/error.h"
#include "io/files/bytes.h"
#include "io/files/protobuf.h"

namespace engine {
namespace {

constexpr std::array<uint32_t, 256> kTable = [] {
  std::array<uint32_t, 256> table{};
  for (uint32_t i = 0; i < 256; ++i) {
    uint32_t c = i;
    for (int bit = 0; bit < 8; ++bit)
      c = c >> 1 ^ (c & 1 ? 0x82F63B78u : 0);  // the polynomial 0x1EDC6F41, reflected
    table[i] = c;
  }
  return table;
}();

// Event { double wall_time = 1; int64 step = 2; string file_version = 3; Summary summary = 5;
//         SessionLog session_log = 7 }
ProtoWriter event_at(int64_t step) {
  const std::chrono::duration<double> now = std::chrono::system_clock::now().time_since_epoch();
  ProtoWriter event;
  event.real(1, now.count());
  event.integer(2, step);
  return event;
}

}  // namespace

uint32_t crc32c(std::span<const std::byte> bytes) {
  uint32_t c = ~0u;
  for (std::byte b : bytes) c = kTable[(c ^ static_cast<uint8_t>(b)) & 0xFF] ^ c >> 8;
  return ~c;
}

uint32_t masked_crc32c(std::span<const std::byte> bytes) {
  return std::rotr(crc32c(bytes), 15) + 0xA282EAD8u;
}

EventFile::EventFile(const std::filesystem::path& folder) {
  static std::atomic<int> files = 0;
  char host[256] = {};
  gethostname(host, sizeof host - 1);
  path_ = folder / fmt::format("events.out.tfevents.{:010}.{}.{}.{}", std::time(nullptr), host,
                               getpid(), files++);
  out_.open(path_, std::ios::binary);
  ProtoWriter event = event_at(0);
  event.text(3, "brain.Event:2");
  record(event.bytes());
}

void EventFile::restart(int64_t step) {
  ProtoWriter log;  // SessionLog { SessionStatus status = 1 }
  constexpr int kStart = 1;
  log.integer(1, kStart);
  ProtoWriter event = event_at(step);
  event.message(7, log);
  record(event.bytes());
}

void EventFile::write(int64_t step, std::span<const Scalar> scalars) {
  ProtoWriter summary;  // Summary { repeated Value value = 1 }
  for (const Scalar& scalar : scalars) {
    ProtoWriter value;  // Value { string tag = 1; float simple_value = 2 }
    value.text(1, scalar.tag);
    value.real(2, static_cast<float>(scalar.value));
    summary.message(1, value);
  }
  ProtoWriter event = event_at(step);
  event.message(5, summary);
  record(event.bytes());
}

void EventFile::write(int64_t step, const EventPicture& picture) {
  ProtoWriter image;  // Image { int32 height = 1; width = 2; colorspace = 3; bytes encoded = 4 }
  image.integer(1, picture.height);
  image.integer(2, picture.width);
  image.integer(3, picture.channels);
  image.text(4, as_text(picture.file));
  ProtoWriter value;  // Value { string tag = 1; Image image = 4 }
  value.text(1, picture.tag);
  value.message(4, image);
  ProtoWriter summary;
  summary.message(1, value);
  ProtoWriter event = event_at(step);
  event.message(5, summary);
  record(event.bytes());
}

// HParamsPluginData { int32 version = 1; Experiment experiment = 2;
//                     SessionStartInfo session_start_info = 3; SessionEndInfo = 4 }
// Experiment { double time_created_secs = 3; repeated HParamInfo = 4; repeated MetricInfo = 5 }
// HParamInfo { string name = 1; DataType type = 4 }, MetricInfo { MetricName name = 1 }
// MetricName { string group = 1; string tag = 2 }
// SessionStartInfo { map<string, google.protobuf.Value> hparams = 1; string group_name = 4;
//                    double start_time_secs = 5 }
// Value { double number_value = 2; string string_value = 3; bool bool_value = 4 }
void EventFile::begin_session(std::string_view name, std::span<const HyperParameter> parameters,
                              std::span<const std::string> measures) {
  const std::chrono::duration<double> now = std::chrono::system_clock::now().time_since_epoch();
  ProtoWriter experiment, start;
  experiment.real(3, now.count());
  for (const HyperParameter& parameter : parameters) {
    constexpr int kString = 1, kBool = 2, kDouble = 3;
    ProtoWriter info, value, entry;  // a map is a repeated message of key = 1 and value = 2
    info.text(1, parameter.name);
    if (const auto* text = std::get_if<std::string>(&parameter.value)) {
      info.integer(4, kString);
      value.text(3, *text);
    } else if (const auto* yes = std::get_if<bool>(&parameter.value)) {
      info.integer(4, kBool);
      value.integer(4, *yes);
    } else {
      info.integer(4, kDouble);
      value.real(2, std::get<double>(parameter.value));
    }
    experiment.message(4, info);
    entry.text(1, parameter.name);
    entry.message(2, value);
    start.message(1, entry);
  }
  for (const std::string& tag : measures) {
    ProtoWriter metric, info;
    metric.text(2, tag);
    info.message(1, metric);
    experiment.message(5, info);
  }
  start.text(4, name);
  start.real(5, now.count());
  ProtoWriter of_experiment, of_session;
  of_experiment.message(2, experiment);
  of_session.message(3, start);
  write_session("_hparams_/experiment", of_experiment.bytes());
  write_session("_hparams_/session_start_info", of_session.bytes());
}

void EventFile::end_session(bool well) {
  constexpr int kSuccess = 1, kFailure = 2;
  const std::chrono::duration<double> now = std::chrono::system_clock::now().time_since_epoch();
  ProtoWriter end, data;  // SessionEndInfo { Status status = 1; double end_time_secs = 2 }
  end.integer(1, well ? kSuccess : kFailure);
  end.real(2, now.count());
  data.message(4, end);
  write_session("_hparams_/session_end_info", data.bytes());
}

// The plugin reads the content of a summary's metadata, and wants a tensor beside it.
// Value { string tag = 1; TensorProto tensor = 8; SummaryMetadata metadata = 9 }
// SummaryMetadata { PluginData { string plugin_name = 1; bytes content = 2 } plugin_data = 1 }
void EventFile::write_session(std::string_view tag, std::string_view content) {
  ProtoWriter plugin, metadata, tensor, shape, side, value, summary;
  plugin.text(1, "hparams");
  plugin.text(2, content);
  metadata.message(1, plugin);
  constexpr int kFloat = 1;  // TensorProto { DataType dtype = 1; shape = 2; float float_val = 5 }
  side.integer(1, 1);
  shape.message(2, side);
  tensor.integer(1, kFloat);
  tensor.message(2, shape);
  tensor.real(5, 0.f);
  value.text(1, tag);
  value.message(8, tensor);
  value.message(9, metadata);
  summary.message(1, value);
  ProtoWriter event = event_at(0);
  event.message(5, summary);
  record(event.bytes());
}

// A TFRecord is the length (8 bytes), its checksum (4), the bytes and their checksum (4), all
// little-endian.
void EventFile::record(std::string_view event) {
  std::string text;
  append_raw(text, uint64_t{event.size()});
  append_raw(text, masked_crc32c(as_bytes(text)));
  text += event;
  append_raw(text, masked_crc32c(as_bytes(event)));
  out_.write(text.data(), static_cast<std::streamsize>(text.size()));
  out_.flush();
  require(out_.good(), Failure::data, "cannot write {}", path_.string());
}

}  // namespace engine
