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
