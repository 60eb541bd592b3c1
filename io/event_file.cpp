#include "io/event_file.h"

#include <unistd.h>

#include <array>
#include <atomic>
#include <bit>
#include <chrono>
#include <ctime>

#include "engine/error.h"
#include "io/bytes.h"

namespace engine {
namespace {

constexpr std::array<uint32_t, 256> kTable = [] {
  std::array<uint32_t, 256> table{};
  for (uint32_t i = 0; i < 256; ++i) {
    uint32_t c = i;
    for (int bit = 0; bit < 8; ++bit)
      c = c >> 1 ^ (c & 1 ? 0x82F63B78u : 0);  // reflected 0x1EDC6F41
    table[i] = c;
  }
  return table;
}();

// ---- protobuf's wire format: a key (field number and wire type), then the value

enum Wire { kVarint = 0, kFixed64 = 1, kBytes = 2, kFixed32 = 5 };

void put_varint(std::string& out, uint64_t value) {
  for (; value >= 0x80; value >>= 7) out += static_cast<char>(value | 0x80);
  out += static_cast<char>(value);
}
void put_key(std::string& out, int field, Wire wire) {
  put_varint(out, static_cast<uint64_t>(field) << 3 | wire);
}
template <class Unsigned>
void put_little_endian(std::string& out, Unsigned value) {
  for (size_t i = 0; i < sizeof value; ++i) out += static_cast<char>(value >> 8 * i);
}
void put_integer(std::string& out, int field, int64_t value) {
  put_key(out, field, kVarint);
  put_varint(out, static_cast<uint64_t>(value));
}
void put_double(std::string& out, int field, double value) {
  put_key(out, field, kFixed64);
  put_little_endian(out, std::bit_cast<uint64_t>(value));
}
void put_float(std::string& out, int field, float value) {
  put_key(out, field, kFixed32);
  put_little_endian(out, std::bit_cast<uint32_t>(value));
}
void put_bytes(std::string& out, int field, std::string_view value) {
  put_key(out, field, kBytes);
  put_varint(out, value.size());
  out += value;
}

// Event { double wall_time = 1; int64 step = 2; string file_version = 3; Summary summary = 5;
//         SessionLog session_log = 7 }
std::string event_at(int64_t step) {
  const std::chrono::duration<double> now = std::chrono::system_clock::now().time_since_epoch();
  std::string event;
  put_double(event, 1, now.count());
  put_integer(event, 2, step);
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
  std::string event = event_at(0);
  put_bytes(event, 3, "brain.Event:2");
  record(event);
}

void EventFile::restart(int64_t step) {
  std::string log;  // SessionLog { SessionStatus status = 1 }
  constexpr int kStart = 1;
  put_integer(log, 1, kStart);
  std::string event = event_at(step);
  put_bytes(event, 7, log);
  record(event);
}

void EventFile::write(int64_t step, std::span<const Scalar> scalars) {
  std::string summary;  // Summary { repeated Value value = 1 }
  for (const Scalar& scalar : scalars) {
    std::string value;  // Value { string tag = 1; float simple_value = 2 }
    put_bytes(value, 1, scalar.tag);
    put_float(value, 2, static_cast<float>(scalar.value));
    put_bytes(summary, 1, value);
  }
  std::string event = event_at(step);
  put_bytes(event, 5, summary);
  record(event);
}

// TFRecord: length (8 bytes), its check sum (4), the bytes, theirs (4); all little-endian.
void EventFile::record(std::string_view event) {
  std::string text;
  put_little_endian(text, uint64_t{event.size()});
  put_little_endian(text, masked_crc32c(as_bytes(text)));
  text += event;
  put_little_endian(text, masked_crc32c(as_bytes(event)));
  out_.write(text.data(), static_cast<std::streamsize>(text.size()));
  out_.flush();
  require(out_.good(), Failure::data, "cannot write {}", path_.string());
}

}  // namespace engine
