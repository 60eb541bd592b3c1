#include "io/files/event_file.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <bit>
#include <cstring>
#include <set>

#include "io/files/bytes.h"
#include "io/files/protobuf.h"
#include "tests/support.h"

using namespace engine;
using namespace engine::test;

namespace {

// Reads the events of a file and compares their checksums.
std::vector<std::string> records(const std::filesystem::path& path) {
  const std::vector<std::byte> bytes = read_file(path);
  ByteReader in(bytes, path.string());
  std::vector<std::string> events;
  while (in.left() > 0) {
    const Bytes length = in.take(8);
    CHECK(in.read<uint32_t>() == masked_crc32c(length));
    uint64_t size = 0;
    std::memcpy(&size, length.data(), sizeof size);
    const Bytes event = in.take(size);
    CHECK(in.read<uint32_t>() == masked_crc32c(event));
    events.emplace_back(as_text(event));
  }
  return events;
}

// An event without the time, which is the first field: a key of one byte and eight bytes more.
std::string after_time(const std::string& event) {
  CHECK(event[0] == 0x09);
  return event.substr(9);
}

}  // namespace

TEST_CASE("CRC-32C of RFC 3720, appendix B.4") {
  std::vector<std::byte> bytes(32);
  CHECK(crc32c(bytes) == 0x8A9136AAu);
  for (size_t i = 0; i < 32; ++i) bytes[i] = std::byte(i);
  CHECK(crc32c(bytes) == 0x46DD794Eu);
  CHECK(crc32c(as_bytes("123456789")) == 0xE3069283u);
}

TEST_CASE("events are the bytes that protobuf would write") {
  const TemporaryFolder folder;
  EventFile file(folder.path());
  const Scalar scalars[] = {{"a/b", 1.5}, {"c", -2}};
  file.write(300, scalars);
  file.restart(5);
  const std::vector<std::string> events = records(file.path());
  REQUIRE(events.size() == 3);
  CHECK(after_time(events[0]) == std::string("\x10\x00\x1a\x0d", 4) + "brain.Event:2");
  CHECK(after_time(events[1]) == std::string("\x10\xac\x02"      // step 300
                                             "\x2a\x16"          // summary, 22 bytes
                                             "\x0a\x0a\x0a\x03"  // value, 10 bytes: tag, 3 bytes
                                             "a/b"
                                             "\x15\x00\x00\xc0\x3f"  // 1.5f
                                             "\x0a\x08\x0a\x01"
                                             "c"
                                             "\x15\x00\x00\x00\xc0",
                                             27));
  CHECK(after_time(events[2]) == std::string("\x10\x05\x3a\x02\x08\x01", 6));  // session log: START
}

namespace {

// The text of a field of a message, and of fields within it.
std::string within(std::string_view message, std::initializer_list<int> path) {
  for (const int number : path) {
    const std::vector<ProtoField> fields = parse_message(message);
    const auto at = std::ranges::find(fields, number, &ProtoField::number);
    REQUIRE(at != fields.end());
    message = at->text;
  }
  return std::string(message);
}

}  // namespace

TEST_CASE("pictures and hyper-parameters are in the places that TensorBoard reads") {
  const TemporaryFolder folder;
  EventFile file(folder.path());
  const std::byte png[] = {std::byte{1}, std::byte{2}, std::byte{3}};
  file.write(7, {.tag = "examples/train", .width = 300, .height = 2, .channels = 3, .file = png});
  const HyperParameter chosen[] = {{"lr", 0.5}, {"model", std::string("b3")}, {"ema", true}};
  const std::string measures[] = {"val/loss"};
  file.begin_session("run", chosen, measures);
  file.end_session(false);
  const std::vector<std::string> events = records(file.path());
  REQUIRE(events.size() == 5);
  CHECK(within(events[1], {5, 1, 1}) == "examples/train");
  CHECK(within(events[1], {5, 1, 4, 4}) == "\x01\x02\x03");
  const std::string image = within(events[1], {5, 1, 4});
  CHECK(parse_message(image)[0].value == 2);
  CHECK(parse_message(image)[1].value == 300);
  CHECK(within(events[2], {5, 1, 1}) == "_hparams_/experiment");
  CHECK(within(events[2], {5, 1, 9, 1, 1}) == "hparams");
  CHECK(within(events[2], {5, 1, 9, 1, 2, 2, 4, 1}) == "lr");
  CHECK(within(events[2], {5, 1, 9, 1, 2, 2, 5, 1, 2}) == "val/loss");
  CHECK(within(events[3], {5, 1, 9, 1, 2, 3, 1, 1}) == "lr");
  CHECK(within(events[3], {5, 1, 9, 1, 2, 3, 4}) == "run");
  const std::string value = within(events[3], {5, 1, 9, 1, 2, 3, 1, 2});
  CHECK(parse_message(value)[0].number == 2);
  CHECK(std::bit_cast<double>(parse_message(value)[0].value) == 0.5);
  CHECK(parse_message(within(events[4], {5, 1, 9, 1, 2, 4}))[0].value == 2);  // failed
}

TEST_CASE("names are TensorBoard's, and each file has its own") {
  const TemporaryFolder folder;
  std::set<std::string> names;
  for (int i = 0; i < 3; ++i) names.insert(EventFile(folder.path()).path().filename().string());
  CHECK(names.size() == 3);
  for (const std::string& name : names) CHECK(name.starts_with("events.out.tfevents."));
}

TEST_CASE("a folder that is not there is an error that names the file") {
  const TemporaryFolder folder;
  CHECK_THROWS_WITH_AS(EventFile(folder.path() / "none"),
                       doctest::Contains("none/events.out.tfevents."), Error);
}
