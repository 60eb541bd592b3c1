// The wire format of protocol buffers, as far as ONNX models and event files need it. A message is
// its fields in order; the field numbers are those of the .proto file.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "io/files/bytes.h"

namespace engine {

// Writes one message. Repeated fields are not packed: call once per element.
class ProtoWriter {
 public:
  void integer(int field, int64_t value);               // int32, int64, enum, bool
  void real(int field, float value);                    // float
  void real(int field, double value);                   // double
  void text(int field, std::string_view value);         // string, bytes
  void message(int field, const ProtoWriter& message);  // embedded

  const std::string& bytes() const { return bytes_; }

 private:
  void key(int field, int wire);
  void varint(uint64_t value);
  std::string bytes_;
};

// One field of a message as it stands in the bytes.
struct ProtoField {
  int number = 0;
  uint64_t value = 0;     // a number, or the bits of a float or double
  std::string_view text;  // a string, bytes or a message: a part of the bytes that were parsed
};

// The fields of a message in their order. Error(data) if the bytes are no message.
std::vector<ProtoField> parse_message(std::string_view bytes);

}  // namespace engine
