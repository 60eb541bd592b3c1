// Files of torch.save, compared with values known in advance, and what a hostile file may try.
#include "io/weights/pth.h"

#include <doctest/doctest.h>

#include "engine/error.h"
#include "io/weights/weights.h"
#include "tests/io/weights/weight_file_support.h"

using namespace engine;
using namespace engine::test;

namespace {

struct Golden {
  int k;  // see tools/compare/make_weight_goldens.py
  const char* name;
  DType dtype;
  Shape shape;
};

const std::vector<Golden> kGoldens = {
    {0, "weight", DType::f32, {2, 3, 4}},
    {1, "half", DType::f16, {5}},
    {2, "bfloat", DType::bf16, {5}},
    {3, "double", DType::f64, {3}},
    {4, "counter", DType::i64, {}},
    {5, "int", DType::i32, {4}},
    {6, "byte", DType::u8, {4}},
    {7, "flags", DType::boolean, {6}},
    {8, "empty", DType::f32, {0, 3}},
    {9, "transposed", DType::f32, {3, 5}},
    {10, "channels_last", DType::f32, {2, 3, 2, 2}},
    {11, "shared.first", DType::f32, {8}},
    {12, "shared.strided", DType::f32, {2, 5}},
    {13, "expanded", DType::f32, {3, 2}},
    {14, "parameter", DType::f32, {2, 2}},
};

double expected_value(const Golden& golden, int64_t i) {
  const int64_t raw = (7 * i + 13 * golden.k) % 61;
  switch (golden.dtype) {
    case DType::boolean: return static_cast<double>(raw % 2);
    case DType::i64:
    case DType::i32:
    case DType::u8: return static_cast<double>(raw);
    default: return golden.k == 13 ? -1.75 : static_cast<double>(raw) * 0.25 - 5;
  }
}

void check_goldens(const TensorFile& file) {
  CHECK(file.tensors.size() == kGoldens.size());
  for (const Golden& golden : kGoldens) {
    CAPTURE(golden.name);
    REQUIRE(file.tensors.contains(golden.name));
    const Tensor& tensor = file.tensors.at(golden.name);
    CHECK(tensor.dtype == golden.dtype);
    REQUIRE(tensor.shape == golden.shape);
    REQUIRE(tensor.bytes.size() == static_cast<size_t>(tensor.size()) * size_of(tensor.dtype));
    const Tensor values = convert(tensor, DType::f64);
    for (int64_t i = 0; i < tensor.size(); ++i)
      CHECK(values.as<double>()[static_cast<size_t>(i)] == expected_value(golden, i));
  }
}

// ---- pickles written by hand in the older container, which needs no archive around them

std::string text(std::string_view value) {
  return fmt::format("X{}{}", little_endian(static_cast<uint32_t>(value.size())), value);
}
std::string number(int32_t value) {
  return fmt::format("J{}", little_endian(value));
}
std::string largest_number() {
  return fmt::format("\x8a\x08{}", little_endian(INT64_MAX));
}
std::string global(std::string_view module, std::string_view name) {
  return fmt::format("c{}\n{}\n", module, name);
}
std::string tuple(std::string_view items) {
  return fmt::format("({}t", items);
}
std::string storage(std::string_view key, std::string_view elements, std::string_view view = "N") {
  return tuple(text("storage") + global("torch", "FloatStorage") + text(key) + text("cpu") +
               std::string(elements) + std::string(view)) +
         "Q";
}
std::string tensor(std::string_view storage, std::string_view offset, std::string_view shape,
                   std::string_view stride) {
  return global("torch._utils", "_rebuild_tensor") +
         tuple(fmt::format("{}{}{}{}", storage, offset, tuple(shape), tuple(stride))) + "R";
}
std::string dict(std::string_view items) {
  return fmt::format("}}({}u", items);
}
std::string legacy(std::string_view object, std::string_view keys, std::string_view data) {
  using namespace std::string_literals;
  return "\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19.\x80\x02M\xe9\x03.\x80\x02}."s +
         "\x80\x02" + std::string(object) + ".\x80\x02](" + std::string(keys) + "e." +
         std::string(data);
}
std::string floats(std::initializer_list<float> values) {
  std::string bytes = little_endian(static_cast<int64_t>(values.size()));
  for (const float value : values) bytes += little_endian(value);
  return bytes;
}

struct ScratchPth {
  TemporaryFolder folder;
  std::filesystem::path path = folder.path() / "file.pth";

  TensorFile read(std::string_view bytes) {
    write_bytes(path, bytes);
    return read_weights(path);
  }
  std::string error_of(std::string_view bytes) {
    return weights_error(path, [&] { read(bytes); });
  }
  std::string error_of_object(std::string_view object) {
    return error_of(legacy(object, text("0"), floats({1, 2, 3, 4})));
  }
};

void replace(std::string& bytes, std::string_view from, std::string_view to) {
  const size_t at = bytes.find(from);
  REQUIRE(at != std::string::npos);
  bytes.replace(at, from.size(), to);
}

}  // namespace

TEST_CASE("torch.save's containers give every value of every element type and memory layout") {
  for (const char* name :
       {"weights_zip.pth", "weights_zip64.pth", "weights_protocol4.pth", "weights_legacy.pth"}) {
    CAPTURE(name);
    check_goldens(read_pth(golden(name)));
  }
}

TEST_CASE("the state dict is found inside a checkpoint and loses its prefixes") {
  for (const char* name : {"weights_nested_zip.pth", "weights_nested_legacy.pth"}) {
    CAPTURE(name);
    CHECK(read_pth(golden(name)).tensors.contains("module._orig_mod.weight"));
    const TensorFile file = read_weights(golden(name));
    check_goldens(file);
    CHECK(file.metadata.at("arch") == "densenet121");
  }
}

TEST_CASE("averages are taken first, the choice is said, and a key makes another") {
  ScratchPth scratch;
  const auto part = [](const char* key, int offset) {
    return text(key) +
           dict(text("x") + tensor(storage("0", number(4)), number(offset), number(1), number(1)));
  };
  const auto first = [&](const std::string& items) {
    const TensorFile file = scratch.read(legacy(dict(items), text("0"), floats({10, 11, 12, 13})));
    return file.tensors.at("x").as<float>()[0];
  };
  CHECK(first(part("model", 1) + part("state_dict", 0)) == 10);
  CHECK(first(part("model_ema", 2) + part("model", 1) + part("state_dict", 0)) == 12);
  CHECK(first(part("model_ema", 2) + part("state_dict_ema", 3)) == 13);
  CHECK(first(text("state_dict") + dict(text("epoch") + number(1)) + part("model", 1)) == 11);
  CHECK(first(part("optimizer", 0) + text("x") +
              tensor(storage("0", number(4)), number(3), number(1), number(1))) == 13);
  for (const char* key : {"ema", "params_ema", "net", "params", "weights", "model_state_dict"})
    CHECK(first(part("optimizer", 1) + part(key, 2)) == 12);

  const std::string bytes =
      legacy(dict(part("state_dict", 0) + part("state_dict_ema", 1) + part("mine", 2)), text("0"),
             floats({10, 11, 12, 13}));
  std::vector<std::string> said;
  const auto with_key = [&](const std::string& key) {
    said.clear();
    const ReadOptions options{.key = key,
                              .say = [&](const std::string& line) { said.push_back(line); }};
    return parse_pth(as_bytes(bytes), "f", options).tensors.at("x").as<float>()[0];
  };
  CHECK(with_key("") == 11);
  CHECK(said == std::vector<std::string>{"f: takes the weights of 'state_dict_ema'; "
                                         "--weights-key chooses another: state_dict"});
  CHECK(with_key("state_dict") == 10);
  CHECK(with_key("mine") == 12);
  CHECK(said.empty());
  CHECK_THROWS_WITH_AS(with_key("model"),
                       "--weights-key model: f has tensors in these members: mine, state_dict, "
                       "state_dict_ema",
                       Error);
}

TEST_CASE("files of Python 2 and of the first PyTorch versions") {
  ScratchPth scratch;
  const std::string pair = "](U\x01w" +
                           tensor(storage("0", number(4), tuple(text("v") + number(1) + number(3))),
                                  number(1), number(2), number(1)) +
                           "e";
  const std::string object = global("collections", "OrderedDict") + tuple("](" + pair + "e") + "R";
  const TensorFile file = scratch.read(legacy(object, text("0"), floats({10, 11, 12, 13})));
  REQUIRE(file.tensors.at("w").shape == Shape{2});
  CHECK(file.tensors.at("w").as<float>()[0] == 12);
  CHECK(file.tensors.at("w").as<float>()[1] == 13);
}

TEST_CASE("a pickle that wants to run something is read, named, and nothing runs") {
  ScratchPth scratch;
  const std::filesystem::path trace = scratch.folder.path() / "trace";
  const std::string command = tuple(text("touch " + trace.string()));
  const std::string call = global("os", "system") + command + "R";
  const std::string split = "\x8c\x02os\x8c\x06system\x93" + command + "R";
  const std::string one =
      text("w") + tensor(storage("0", number(4)), number(0), number(4), number(1));
  for (const std::string& evil : {call, split}) {
    write_bytes(scratch.path,
                legacy(dict(text("x") + evil + one), text("0"), floats({1, 2, 3, 4})));
    std::vector<std::string> said;
    const TensorFile file =
        read_weights(scratch.path, {.say = [&](const std::string& line) { said.push_back(line); }});
    CHECK(file.tensors.size() == 1);
    REQUIRE(said.size() == 1);
    CHECK(said[0].ends_with("passes over objects that are no tensors and runs nothing: os.system"));
    CHECK_FALSE(std::filesystem::exists(trace));
  }
  CHECK(contains(scratch.error_of_object(call), "an object of os.system, no dict of tensors"));
  CHECK(contains(scratch.error_of_object("ios\nsystem\n"), "opcode 0x69"));  // INST
}

// Objects beside the weights, as schedulers, counters and users' classes write them.
TEST_CASE("objects that are no tensors are passed over") {
  using namespace std::string_literals;
  ScratchPth scratch;
  const std::string one =
      text("w") + tensor(storage("0", number(4)), number(0), number(4), number(1));
  const std::string made = global("torch.optim.lr_scheduler", "OneCycleLR") + ")\x81";
  const std::string objects[] = {
      global("__builtin__", "set") + "]" + text("a") + "a\x85R",
      "\x8f(" + text("a") + "\x90",
      "(" + text("a") + "\x91",
      global("collections", "Counter") + "}" + number(3) + number(1) + "s\x85R",
      global("torch", "float16"),
      global("torch.torch_version", "TorchVersion") + text("2.1") + "\x85\x81",
      made + dict(text("lr") + number(1)) + "b",
      global("__builtin__", "getattr") + made + text("_annealing_cos") + "\x86R",
      global("__builtin__", "getattr") + made + text("step") + "\x86R)R",
      global("__main__", "Config") + ")" + dict("") + "\x92" + "(" + text("a") + number(1) + "u",
      global("collections", "deque") + ")R" + number(1) + "a",
      "\x8b\x09\0\0\0\1\2\3\4\5\6\7\10\11"s,
      "\x96\x01\0\0\0\0\0\0\0a"s,
      number(1) + "2" + "\x86",
      number(1) + "(" + number(2) + "1",
  };
  for (const std::string& object : objects) {
    CAPTURE(object);
    const std::string bytes =
        legacy(dict(text("other") + object + one), text("0"), floats({1, 2, 3, 4}));
    CHECK(scratch.read(bytes).tensors.at("w").as<float>()[3] == 4);
  }
}

TEST_CASE("tensors of element types that weights do not have are passed over and said") {
  const auto typed = [](const char* type, const char* key) {
    return tensor(
        tuple(text("storage") + global("torch", type) + text(key) + text("cpu") + number(2)) + "Q",
        number(0), number(2), number(1));
  };
  const std::string bytes =
      legacy(dict(text("a") + typed("CharStorage", "0") + text("b") + typed("FloatStorage", "1")),
             text("0") + text("1"), little_endian(int64_t{2}) + "xy" + floats({5, 6}));
  std::vector<std::string> said;
  const TensorFile file = parse_pth(
      as_bytes(bytes), "f", {.say = [&](const std::string& line) { said.push_back(line); }});
  REQUIRE(file.tensors.size() == 1);
  CHECK(file.tensors.at("b").as<float>()[1] == 6);
  CHECK(said == std::vector<std::string>{
                    "f: passes over 1 tensors of element types that weights do not have: a"});
}

// The work and the memory of reading follow from the bytes of the file, whatever it repeats.
TEST_CASE("what repeats in a file is read once") {
  const std::string one = tensor(storage("0", number(4)), number(0), number(4), number(1));
  std::string items = text("x") + "q\1" + one + "q\2";
  for (int i = 0; i < 500'000; ++i) items += "h\1h\2";
  CHECK(parse_pth(as_bytes(legacy(dict(items), text("0"), floats({1, 2, 3, 4}))), "f")
            .tensors.size() == 1);
  std::string names;
  for (int i = 0; i < 200'001; ++i) names += text(std::to_string(i)) + (i ? "h\2" : one + "q\2");
  CHECK_THROWS_WITH_AS(parse_pth(as_bytes(legacy(dict(names), text("0"), "")), "f"),
                       "f: more than 200000 tensors", Error);
}

TEST_CASE("tensors that leave their storage are refused") {
  ScratchPth scratch;
  const auto refused = [&](const std::string& offset, const std::string& shape,
                           const std::string& stride, const char* why) {
    const std::string one = tensor(storage("0", number(4)), offset, shape, stride);
    CHECK(contains(scratch.error_of_object(dict(text("x") + one)), why));
  };
  const std::string huge = largest_number();
  refused(number(0), number(5), number(1), "leave its storage of 4 elements");
  refused(number(3), number(2), number(1), "leave its storage");
  refused(number(0), number(2), number(4), "leave its storage");
  refused(huge, number(2), number(1), "leave its storage");
  refused(number(0), number(2) + number(3), huge + huge, "leave its storage");
  refused(number(0), huge + huge, number(0) + number(0), "leave its storage");
  refused(number(0), number(1 << 30), number(0), "must not describe more");
  refused(number(-1), number(1), number(1), "no number of elements");
  refused(number(0), number(-1), number(1), "no number of elements");
  refused(number(0), number(2), number(-1), "no number of elements");
  refused(number(0), number(2), number(1) + number(1), "1 dimensions and 2 strides");
  std::string many;
  for (int i = 0; i < 17; ++i) many += number(1);
  refused(number(0), many, many, "malformed");
}

TEST_CASE("storages that are not what they say are refused") {
  ScratchPth scratch;
  const auto with = [](const std::string& storage) {
    return dict(text("x") + tensor(storage, number(0), number(1), number(1)));
  };
  const auto refused = [&](const std::string& storage, const char* why) {
    CHECK(contains(scratch.error_of_object(with(storage)), why));
  };
  refused(storage("0", number(5)), "has 4 elements instead of 5");
  refused(storage("0", largest_number()), "too large");
  refused(storage("0", number(4), tuple(text("v") + number(3) + number(2))), "leaves its storage");
  refused(storage("0", text("four")), "no number of elements");
  refused(text("0") + "Q", "not well-formed");
  refused(number(0), "not well-formed");
  const std::string object = with(storage("0", number(4)));
  const std::string data = floats({1, 2, 3, 4});
  CHECK(contains(scratch.error_of(legacy(object, text("1"), data)), "nothing refers to"));
  CHECK(contains(scratch.error_of(legacy(object, "", "")), "storage '0' is missing"));
  CHECK(contains(scratch.error_of(legacy(object, text("0") + text("0"), data + data)), "twice"));
  CHECK(contains(scratch.error_of(legacy(object, text("0"), data + "x")), "1 bytes follow"));
  CHECK(contains(scratch.error_of(legacy(object, text("0"), data.substr(0, 20))), "truncated"));
}

TEST_CASE("pickles with a broken stack are refused") {
  ScratchPth scratch;
  const auto refused = [&](const std::string& object, const char* why) {
    CAPTURE(why);
    CHECK(contains(scratch.error_of_object(object), why));
  };
  refused("", "stack has 0 values");
  refused("NN", "leaves 1 values");
  refused("(N", "leaves 0 values");
  refused("t", "no mark");
  refused("N(s", "stack has 0 values");
  refused("]NNs", "no dict on top");  // a SETITEM on a list
  refused("}Na", "no list on top");
  refused("}(Nu", "key without a value");
  refused("h\x07", "memo 7 was never written");
  refused("NNR", "call without");
  refused("NNb", "attributes for something");
  refused("\x80\x07", "protocol 7");
  refused("X\xff\xff\xff\x7f", "truncated");
  refused("N", "no dict of tensors");
  refused("}", "holds no tensors");
  refused("]" + std::string(1'000'000, '\x85'), "more than 1000000 pickle values");
  refused("]" + std::string(4'000'000, '2'), "more than 4000000 pickle opcodes");
}

TEST_CASE("a pickle may contain itself") {
  ScratchPth scratch;
  const std::string one = tensor(storage("0", number(4)), number(0), number(4), number(1));
  const TensorFile file =
      scratch.read(legacy("}q\x01(" + text("state_dict") + "h\x01" + text("x") + one + "u",
                          text("0"), floats({1, 2, 3, 4})));
  CHECK(file.tensors.size() == 1);
}

TEST_CASE("archives that torch.save does not write are refused") {
  ScratchPth scratch;
  const std::string good = file_text(golden("weights_zip.pth"));
  check_goldens(scratch.read(good));
  std::string changed = good;
  replace(changed, "weight\x71", "weighs\x71");
  CHECK(contains(scratch.error_of(changed), "checksum"));
  changed = good;
  replace(changed, "PK\x01\x02", "PK\x01\x03");
  CHECK(contains(scratch.error_of(changed), "no entry of the zip directory"));
  changed = good;
  changed[changed.find("PK\x01\x02") + 10] = 8;  // deflated
  CHECK(contains(scratch.error_of(changed), "compressed"));
  changed = good;
  changed[changed.find("PK\x01\x02") + 8] |= 1;
  CHECK(contains(scratch.error_of(changed), "encrypted"));
  changed = good;
  changed[changed.rfind("/data/1P") + 6] = '0';
  CHECK(contains(scratch.error_of(changed), "twice"));
  changed = good;  // the second entry of the directory says that it lies where the first one does
  const size_t second = changed.find("PK\x01\x02", changed.find("PK\x01\x02") + 1);
  changed.replace(second + 42, 4, 4, '\0');
  CHECK(contains(scratch.error_of(changed), "overlap"));
  changed = good;
  changed[changed.rfind("/data.pkl") + 1] = 'D';
  CHECK(contains(scratch.error_of(changed), "0 entries '<stem>/data.pkl'"));
}

TEST_CASE("a damaged torch file is an error wherever the damage is") {
  for (const char* name : {"weights_zip.pth", "weights_zip64.pth", "weights_legacy.pth",
                           "weights_nested_legacy.pth"}) {
    CAPTURE(name);
    damage_everywhere(file_text(golden(name)), [&](Bytes bytes) { parse_pth(bytes, name); });
  }
}

TEST_CASE("a real checkpoint has its tensors and parameters") {
  const auto data = test_data();
  if (!data) return note_skipped("no test data");
  const TensorFile file = read_weights(*data / "efficientnet_b3_cattle15.pth");
  CHECK(file.tensors.size() == 574);
  CHECK(count_parameters(file) == 10'719'287);
  CHECK(file.tensors.at("features.0.0.weight").shape == Shape{40, 3, 3, 3});
  CHECK(file.tensors.at("classifier.1.weight").shape == Shape{15, 1536});
  CHECK(file.tensors.at("features.0.1.num_batches_tracked").dtype == DType::i64);
}
