#include "io/files/protobuf.h"

#include <cstring>

#include "engine/error.h"

namespace engine {
namespace {

enum Wire { kVarint = 0, kFixed64 = 1, kLength = 2, kFixed32 = 5 };

// Takes fields from the front of a message.
class Parser {
 public:
  explicit Parser(std::string_view bytes) : left_(bytes) {}
  bool done() const { return left_.empty(); }

  ProtoField field() {
    const uint64_t key = varint();
    ProtoField f{.number = static_cast<int>(key >> 3)};
    switch (key & 7) {
      case kVarint: f.value = varint(); break;
      case kFixed64: f.value = raw<uint64_t>(); break;
      case kFixed32: f.value = raw<uint32_t>(); break;
      case kLength: f.text = take(varint()); break;
      default: fail(Failure::data, "protobuf: wire type {}", key & 7);
    }
    return f;
  }

 private:
  std::string_view take(uint64_t count) {
    require(count <= left_.size(), Failure::data, "protobuf: {} bytes wanted, {} left", count,
            left_.size());
    const std::string_view taken = left_.substr(0, count);
    left_.remove_prefix(count);
    return taken;
  }

  template <class T>
  T raw() {
    T value;
    std::memcpy(&value, take(sizeof value).data(), sizeof value);
    return value;
  }

  uint64_t varint() {
    uint64_t value = 0;
    for (int shift = 0; shift < 64; shift += 7) {
      const auto byte = static_cast<unsigned char>(take(1).front());
      value |= uint64_t{byte & 0x7fu} << shift;
      if (byte < 0x80) return value;
    }
    fail(Failure::data, "protobuf: a number of more than 64 bits");
  }

  std::string_view left_;
};

}  // namespace

void ProtoWriter::varint(uint64_t value) {
  for (; value >= 0x80; value >>= 7) bytes_ += static_cast<char>(value | 0x80);
  bytes_ += static_cast<char>(value);
}

void ProtoWriter::key(int field, int wire) {
  varint(static_cast<uint64_t>(field) << 3 | static_cast<uint64_t>(wire));
}

void ProtoWriter::integer(int field, int64_t value) {
  key(field, kVarint);
  varint(static_cast<uint64_t>(value));  // a negative value takes ten bytes, as the format requires
}

void ProtoWriter::real(int field, float value) {
  key(field, kFixed32);
  append_raw(bytes_, value);
}

void ProtoWriter::real(int field, double value) {
  key(field, kFixed64);
  append_raw(bytes_, value);
}

void ProtoWriter::text(int field, std::string_view value) {
  key(field, kLength);
  varint(value.size());
  bytes_ += value;
}

void ProtoWriter::message(int field, const ProtoWriter& message) {
  text(field, message.bytes_);
}

std::vector<ProtoField> parse_message(std::string_view bytes) {
  std::vector<ProtoField> fields;
  for (Parser parser(bytes); !parser.done();) fields.push_back(parser.field());
  return fields;
}

}  // namespace engine
