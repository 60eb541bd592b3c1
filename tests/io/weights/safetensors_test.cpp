// safetensors: round trips, a file that PyTorch opens, and every rule of the format broken once.
#include "io/weights/safetensors.h"

#include <doctest/doctest.h>
#include <sys/wait.h>

#include <array>
#include <cstdlib>

#include "engine/error.h"
#include "engine/tensor.h"
#include "tests/io/weights/weight_file_support.h"

using namespace engine;
using namespace engine::test;

namespace {

Tensor counted(DType dtype, Shape shape) {
  Tensor tensor(dtype, std::move(shape));
  for (size_t i = 0; i < tensor.bytes.size(); ++i)
    tensor.bytes[i] = static_cast<std::byte>(dtype == DType::boolean ? i % 2 : 11 * i % 64);
  return tensor;
}

TensorFile every_kind() {
  TensorFile file;
  file.tensors["z.bool"] = counted(DType::boolean, {3});
  file.tensors["a.byte"] = counted(DType::u8, {5});
  file.tensors["b.float"] = counted(DType::f32, {2, 3});
  file.tensors["c.half"] = counted(DType::f16, {7});
  file.tensors["d.bfloat"] = counted(DType::bf16, {1, 1, 3});
  file.tensors["e.double"] = counted(DType::f64, {2});
  file.tensors["f.long"] = counted(DType::i64, {});
  file.tensors["g.int"] = counted(DType::i32, {3});
  file.tensors["empty"] = counted(DType::f32, {0, 4});
  file.tensors["quote \" and é"] = counted(DType::f32, {1});
  file.metadata = {{"classes", "[\"a\",\"b\"]"}, {"model", "mnist_cnn"}};
  return file;
}

std::string container(std::string_view header, std::string_view data = "") {
  return little_endian(uint64_t{header.size()}) + std::string(header) + std::string(data);
}

struct ScratchSafetensors {
  TemporaryFolder folder;
  std::filesystem::path path = folder.path() / "file.safetensors";

  TensorFile read(std::string_view bytes) {
    write_bytes(path, bytes);
    return read_safetensors(path);
  }
  std::string error_of(std::string_view bytes) {
    return weights_error(path, [&] { read(bytes); });
  }
};

constexpr std::string_view kPython = "/usr/bin/python3";

bool python_runs(const std::string& arguments) {
  const int status = std::system(fmt::format("{} {} 2>/dev/null", kPython, arguments).c_str());
  return WIFEXITED(status) && WEXITSTATUS(status) == 0;
}

// Opens argv[1] without the safetensors module: parses the header, then calls torch.frombuffer for
// each tensor.
constexpr std::string_view kOpenWithTorch = R"(
import json, sys, torch
data = bytearray(open(sys.argv[1], 'rb').read())
size = int.from_bytes(data[:8], 'little')
header = json.loads(data[8:8 + size])
assert size % 8 == 0 and header.pop('__metadata__')['format'] == 'pt'
types = dict(F32=torch.float32, F16=torch.float16, BF16=torch.bfloat16, F64=torch.float64,
             I64=torch.int64, I32=torch.int32, U8=torch.uint8, BOOL=torch.bool)
for name, entry in header.items():
    begin, end = (8 + size + offset for offset in entry['data_offsets'])
    dtype = types[entry['dtype']]
    if begin == end: continue
    width = torch.zeros(1, dtype=dtype).element_size()
    assert begin % width == 0, name
    tensor = torch.frombuffer(data, dtype=dtype, count=(end - begin) // width, offset=begin)
    tensor = tensor.reshape(entry['shape'])
    expected = [i % 2 if dtype == torch.bool else 11 * i % 64 for i in range(end - begin)]
    same = tensor.contiguous().view(-1).numpy().tobytes() == bytes(expected) \
        if dtype != torch.bfloat16 else data[begin:end] == bytes(expected)
    assert same, name
assert len(header) == 10
)";

constexpr std::string_view kOpenWithSafetensors = R"(
import sys
from safetensors.torch import load_file
assert len(load_file(sys.argv[1])) == 10
)";

}  // namespace

TEST_CASE("what is written is read again, bit by bit") {
  ScratchSafetensors scratch;
  TensorFile file = every_kind();
  write_safetensors(scratch.path, file);
  const TensorFile again = read_safetensors(scratch.path);
  file.metadata["format"] = "pt";
  CHECK(again.metadata == file.metadata);
  REQUIRE(again.tensors.size() == file.tensors.size());
  for (const auto& [name, tensor] : file.tensors) {
    CAPTURE(name);
    CHECK(again.tensors.at(name).dtype == tensor.dtype);
    CHECK(again.tensors.at(name).shape == tensor.shape);
    CHECK(again.tensors.at(name).bytes == tensor.bytes);
  }
  const std::string first = file_text(scratch.path);
  write_safetensors(scratch.path, again);
  CHECK(file_text(scratch.path) == first);
  write_safetensors(scratch.path, TensorFile{});
  CHECK(read_safetensors(scratch.path).tensors.empty());
}

TEST_CASE("PyTorch opens what is written") {
  if (!python_runs("-c 'import torch'")) return note_skipped("no torch in /usr/bin/python3");
  ScratchSafetensors scratch;
  write_safetensors(scratch.path, every_kind());
  const std::string script = (scratch.folder.path() / "open.py").string();
  write_bytes(script, kOpenWithTorch);
  CHECK(python_runs(fmt::format("{} {}", script, scratch.path.string())));
  // Debian has no package of the module itself; if it was installed otherwise it must agree.
  if (!python_runs("-c 'import safetensors.torch'")) return;
  write_bytes(script, kOpenWithSafetensors);
  CHECK(python_runs(fmt::format("{} {}", script, scratch.path.string())));
}

TEST_CASE("other writers' choices are accepted") {
  ScratchSafetensors scratch;
  CHECK(scratch.read(container("{}")).tensors.empty());
  CHECK(scratch.read(container("{}    ")).tensors.empty());
  // The data are not aligned, keys have another order, one tensor is a scalar, and two empty
  // tensors have one offset.
  const TensorFile file =
      scratch.read(container(R"({"s":{"shape":[],"data_offsets":[0,4],"dtype":"F32"},)"
                             R"("e":{"dtype":"I64","shape":[2,0],"data_offsets":[4,4]},)"
                             R"("f":{"dtype":"F16","shape":[0],"data_offsets":[0,0]}})",
                             little_endian(2.5f)));
  CHECK(file.tensors.at("s").as<float>()[0] == 2.5f);
  CHECK(file.tensors.at("e").shape == Shape{2, 0});
}

TEST_CASE("headers that break the format are refused") {
  ScratchSafetensors scratch;
  const auto refused = [&](std::string_view bytes, const char* why) {
    CAPTURE(bytes);
    CHECK(contains(scratch.error_of(bytes), why));
  };
  refused("", "8 bytes expected, 0 left");
  refused("\x01\x02", "8 bytes expected, 2 left");
  refused(little_endian(uint64_t{100'000'001}), "header of 100000001 bytes");
  refused(little_endian(~uint64_t{0}), "header of 18446744073709551615 bytes");
  refused(little_endian(uint64_t{60}) + "{}", "60 bytes expected, 2 left");
  refused(container(""), "does not start");
  refused(container(" {}"), "does not start");
  refused(container("[]"), "does not start");
  refused(container("{"), "not valid JSON");
  refused(container("{}x"), "not valid JSON");
  refused(container("{\"\xff\":{}}"), "not valid JSON");
  refused(container(R"({"__metadata__":{"a":1}})"), "metadata 'a' is no string");
  refused(container(R"({"__metadata__":"a"})"), "__metadata__ is no object");
  refused(container(R"({"a":{"b":{"c":{}}}})"), "nests deeper than 3");
  refused(container(R"({"a":)" + std::string(100'000, '[')), "nests deeper than 3");
  std::string tokens = R"({"a":{"shape":[0)";
  for (int i = 0; i < 2'500'000; ++i) tokens += ",0";
  CHECK(contains(scratch.error_of(container(tokens + "]}}")), "more than 2500000 JSON tokens"));
  std::string many = "{";  // hours, if the work grew as the square
  constexpr int kMany = 190'000;
  for (int i = 0; i < kMany; ++i)
    many += fmt::format(R"({}"t{}":{{"dtype":"U8","shape":[1],"data_offsets":[{},{}]}})",
                        i ? "," : "", i, i, i + 1);
  CHECK(scratch.read(container(many + "}", std::string(kMany, 'x'))).tensors.size() == kMany);
}

TEST_CASE("entries that break the format are refused") {
  ScratchSafetensors scratch;
  const auto refused = [&](const std::string& entries, std::string_view data, const char* why) {
    CAPTURE(entries);
    CHECK(contains(scratch.error_of(container("{" + entries + "}", data)), why));
  };
  const auto entry = [](const char* name, const char* dtype, const char* shape,
                        const char* offsets) {
    return fmt::format(R"("{}":{{"dtype":"{}","shape":{},"data_offsets":{}}})", name, dtype, shape,
                       offsets);
  };
  const std::string good = entry("a", "F32", "[1]", "[0,4]");
  const std::string next = entry("b", "F32", "[1]", "[4,8]");
  CHECK(scratch.read(container("{" + good + "," + next + "}", "12345678")).tensors.size() == 2);
  refused(good + "," + good, "1234", "'a' appears twice");
  refused(R"("a":{"dtype":"F32","dtype":"F32","shape":[1],"data_offsets":[0,4]})", "1234",
          "'dtype' appears twice");
  refused(R"("a":{"dtype":"F32","shape":[1]})", "1234", "wants exactly");
  refused(R"("a":{"dtype":"F32","shape":[1],"data_offsets":[0,4],"more":1})", "1234",
          "wants exactly");
  refused(R"("a":[1])", "1234", "wants exactly");
  refused(entry("a", "F8_E4M3", "[4]", "[0,4]"), "1234", "type 'F8_E4M3' is not supported");
  refused(entry("a", "F4", "[8]", "[0,4]"), "1234", "type 'F4' is not supported");
  refused(entry("a", "F32", "1", "[0,4]"), "1234", "wants exactly");
  refused(entry("a", "F32", "[-1]", "[0,4]"), "1234", "-1 is not a size");
  refused(entry("a", "F32", "[1.0]", "[0,4]"), "1234", "1.0 is not a size");
  refused(entry("a", "F32", "[\\\"1\\\"]", "[0,4]"), "1234", "not valid JSON");
  refused(entry("a", "F32", "[1]", "[0,4,8]"), "1234", "wants exactly");
  refused(entry("a", "F32", "[1]", "[4,0]"), "1234", "does not fill bytes 4 to 0");
  refused(entry("a", "F32", "[2]", "[0,4]"), "1234", "F32 [2] does not fill bytes 0 to 4");
  refused(entry("a", "F32", "[9223372036854775807,2]", "[0,4]"), "1234", "does not fill");
  refused(entry("a", "F32", "[4611686018427387905]", "[0,4]"), "1234", "does not fill");
  refused(entry("a", "F32", "[99999999999999999999]", "[0,4]"), "1234", "is not a size");
  refused(good, "12345", "tensors end at byte 4 of the data, the file has 5");
  refused(good, "123", "tensors end at byte 4 of the data, the file has 3");
  refused(good + "," + entry("b", "F32", "[1]", "[5,9]"), "123456789", "begins at byte 5");
  refused(good + "," + entry("b", "F32", "[1]", "[2,6]"), "123456", "begins at byte 2");
  refused(good + "," + entry("b", "F32", "[1]", "[0,4]"), "1234", "begins at byte 0");
  refused(next, "12345678", "begins at byte 4 of the data, the one before ends at 0");
}

TEST_CASE("a damaged safetensors file is an error wherever the damage is") {
  ScratchSafetensors scratch;
  TensorFile file;
  file.tensors["weight"] = counted(DType::f32, {2, 3});
  file.tensors["counter"] = counted(DType::i64, {});
  write_safetensors(scratch.path, file);
  damage_everywhere(file_text(scratch.path),
                    [](Bytes bytes) { parse_safetensors(bytes, "damaged"); });
}

TEST_CASE("a name that is not UTF-8 is not written") {
  ScratchSafetensors scratch;
  TensorFile file;
  file.tensors["\xff"] = counted(DType::f32, {1});
  CHECK(contains(weights_error(scratch.path, [&] { write_safetensors(scratch.path, file); }),
                 "cannot write the header"));
  CHECK(std::filesystem::is_empty(scratch.folder.path()));
}
