// The bytes of protocol buffers, and the structure of ONNX models in them.
#include "io/weights/onnx.h"

#include <bit>

#include "engine/error.h"
#include "io/files/protobuf.h"
#include "tests/support.h"

using namespace engine;

namespace {

std::string hex(std::string_view bytes) {
  std::string text;
  for (const unsigned char byte : bytes) text += fmt::format("{:02x}", byte);
  return text;
}

// The texts of all fields of one number.
std::vector<std::string_view> texts(std::string_view message, int number) {
  std::vector<std::string_view> found;
  for (const ProtoField& f : parse_message(message))
    if (f.number == number) found.push_back(f.text);
  return found;
}

std::vector<uint64_t> values(std::string_view message, int number) {
  std::vector<uint64_t> found;
  for (const ProtoField& f : parse_message(message))
    if (f.number == number) found.push_back(f.value);
  return found;
}

}  // namespace

// The bytes are those in the description of the format (protobuf.dev, "Encoding").
TEST_CASE("messages have protocol buffers' bytes") {
  ProtoWriter inner, w;
  inner.integer(1, 150);
  CHECK(hex(inner.bytes()) == "089601");
  w.message(3, inner);
  w.text(2, "testing");
  CHECK(hex(w.bytes()) == "1a03089601120774657374696e67");
  ProtoWriter negative, reals;
  negative.integer(1, -2);
  CHECK(hex(negative.bytes()) == "08feffffffffffffffff01");
  reals.real(1, 1.f);
  reals.real(16, 1.0);
  CHECK(hex(reals.bytes()) == "0d0000803f8101000000000000f03f");
}

TEST_CASE("what was written is parsed back, and damaged messages are refused") {
  ProtoWriter w;
  w.integer(1, -7);
  w.integer(1000, int64_t{1} << 62);
  w.real(2, 0.25f);
  w.real(3, -0.5);
  w.text(4, std::string(300, 'x'));
  const std::vector<ProtoField> fields = parse_message(w.bytes());
  REQUIRE(fields.size() == 5);
  CHECK(static_cast<int64_t>(fields[0].value) == -7);
  CHECK(fields[1].number == 1000);
  CHECK(fields[1].value == uint64_t{1} << 62);
  CHECK(std::bit_cast<float>(static_cast<uint32_t>(fields[2].value)) == 0.25f);
  CHECK(std::bit_cast<double>(fields[3].value) == -0.5);
  CHECK(fields[4].text == std::string(300, 'x'));
  const std::string_view bytes = w.bytes();
  CHECK_THROWS_AS(parse_message(bytes.substr(0, bytes.size() - 1)), Error);
  CHECK_THROWS_AS(parse_message("\x0b"), Error);  // a group
  std::string long_number(12, '\xff');
  long_number[0] = 8;
  CHECK_THROWS_AS(parse_message(long_number), Error);  // 77 bits
}

TEST_CASE("a model is where onnx.proto says") {
  OnnxModel model{.name = "tiny",
                  .inputs = {{"images", DType::f32, {0, 3, 8, 8}}},
                  .outputs = {{"logits", DType::f32, {0, 2}}},
                  .metadata = {{"classes", "[\"a\"]"}},
                  .producer_version = "1.2"};
  model.nodes.push_back(
      {"Conv",
       "first",
       {"images", "weight"},
       "logits",
       {{"strides", std::vector<int64_t>{2, 1}}, {"group", int64_t{3}}, {"epsilon", 0.5f}}});
  model.initializers.emplace_back("weight", Tensor(DType::f32, {2, 3}));
  model.initializers[0].second.as<float>()[5] = 4;

  const std::string bytes = onnx_bytes(model);
  CHECK(values(bytes, 1) == std::vector<uint64_t>{kOnnxIrVersion});
  CHECK(texts(bytes, 3)[0] == "1.2");
  CHECK(values(texts(bytes, 8)[0], 2) == std::vector<uint64_t>{kOnnxOpset});
  CHECK(texts(texts(bytes, 14)[0], 1)[0] == "classes");
  CHECK(texts(texts(bytes, 14)[0], 2)[0] == "[\"a\"]");

  const std::string_view graph = texts(bytes, 7)[0], node = texts(graph, 1)[0];
  CHECK(texts(graph, 2)[0] == "tiny");
  CHECK(texts(node, 1) == std::vector<std::string_view>{"images", "weight"});
  CHECK(texts(node, 2)[0] == "logits");
  CHECK(texts(node, 3)[0] == "first");
  CHECK(texts(node, 4)[0] == "Conv");
  const auto attributes = texts(node, 5);
  REQUIRE(attributes.size() == 3);
  CHECK(texts(attributes[0], 1)[0] == "strides");
  CHECK(values(attributes[0], 8) == std::vector<uint64_t>{2, 1});
  CHECK(values(attributes[0], 20)[0] == 7);
  CHECK(values(attributes[1], 3)[0] == 3);
  CHECK(values(attributes[1], 20)[0] == 2);
  CHECK(values(attributes[2], 2)[0] == std::bit_cast<uint32_t>(0.5f));
  CHECK(values(attributes[2], 20)[0] == 1);

  const std::string_view weight = texts(graph, 5)[0];
  CHECK(values(weight, 1) == std::vector<uint64_t>{2, 3});
  CHECK(values(weight, 2)[0] == 1);
  CHECK(texts(weight, 8)[0] == "weight");
  CHECK(texts(weight, 9)[0] == as_text(model.initializers[0].second.bytes));

  const std::string_view input = texts(graph, 11)[0];
  CHECK(texts(input, 1)[0] == "images");
  const std::string_view tensor = texts(texts(input, 2)[0], 1)[0];
  CHECK(values(tensor, 1)[0] == 1);
  const auto dimensions = texts(texts(tensor, 2)[0], 1);
  REQUIRE(dimensions.size() == 4);
  CHECK(texts(dimensions[0], 2)[0] == "batch");
  CHECK(values(dimensions[3], 1)[0] == 8);
  CHECK(texts(texts(graph, 12)[0], 1)[0] == "logits");

  model.initializers[0].second = Tensor(DType::bf16, {1});
  CHECK_THROWS_AS(onnx_bytes(model), Error);
}
