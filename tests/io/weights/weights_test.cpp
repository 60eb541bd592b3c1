// How files are told apart, names, the fit to a model, the manifest, checksums, and atomic writing.
#include "io/weights/weights.h"

#include <doctest/doctest.h>
#include <sys/resource.h>
#include <sys/stat.h>

#include <cmath>
#include <csignal>
#include <fstream>
#include <limits>
#include <set>

#include "engine/error.h"
#include "io/files/atomic_file.h"
#include "io/files/checksum.h"
#include "io/weights/faults.h"
#include "io/weights/manifest.h"
#include "io/weights/safetensors.h"
#include "io/weights/weight_names.h"
#include "tests/io/weights/weight_file_support.h"

using namespace engine;
using namespace engine::test;

namespace {

namespace fs = std::filesystem;

TensorFile named(const std::vector<std::string>& names) {
  TensorFile file;
  for (const std::string& name : names) file.tensors[name] = Tensor(DType::f32, {1});
  return file;
}

std::set<std::string> names_of(const TensorFile& file) {
  std::set<std::string> names;
  for (const auto& [name, tensor] : file.tensors) names.insert(name);
  return names;
}

std::set<std::string> normalised(const std::vector<std::string>& names, std::string_view model) {
  TensorFile file = named(names);
  normalise_names(file, model);
  return names_of(file);
}

const std::vector<ManifestEntry>& manifest() {
  static const std::vector<ManifestEntry> entries =
      read_manifest(fs::path(ENGINE_SOURCE_DIR) / "weights/manifest.json");
  return entries;
}

const ManifestEntry& entry_of(std::string_view model) {
  for (const ManifestEntry& entry : manifest())
    if (entry.model == model) return entry;
  FAIL("no such model in the manifest: " << model);
  return manifest().front();
}

// The names that timm gives to EfficientNet B3's tensors, made from the network's table of repeats.
TensorFile timm_b3(const TensorFile& torchvision) {
  const auto renamed = [](std::string name) {
    const std::vector<std::pair<std::string, std::string>> first = {
        {"block.0.0", "conv_dw"},          {"block.0.1", "bn1"},
        {"block.1.fc1", "se.conv_reduce"}, {"block.1.fc2", "se.conv_expand"},
        {"block.2.0", "conv_pw"},          {"block.2.1", "bn2"}};
    const std::vector<std::pair<std::string, std::string>> later = {
        {"block.0.0", "conv_pw"},          {"block.0.1", "bn1"},
        {"block.1.0", "conv_dw"},          {"block.1.1", "bn2"},
        {"block.2.fc1", "se.conv_reduce"}, {"block.2.fc2", "se.conv_expand"},
        {"block.3.0", "conv_pwl"},         {"block.3.1", "bn3"}};
    const auto swap_front = [&](const std::string& from, const std::string& to) {
      if (name.starts_with(from)) name = to + name.substr(from.size());
    };
    swap_front("features.0.0.", "conv_stem.");
    swap_front("features.0.1.", "bn1.");
    swap_front("features.8.0.", "conv_head.");
    swap_front("features.8.1.", "bn2.");
    swap_front("classifier.1.", "classifier.");
    if (!name.starts_with("features.")) return name;
    const int stage = name[9] - '0';
    name = fmt::format("blocks.{}{}", stage - 1, name.substr(10));
    for (const auto& [from, to] : stage == 1 ? first : later)
      if (const size_t at = name.find(from); at != std::string::npos)
        return name.replace(at, from.size(), to);
    return name;
  };
  TensorFile file;
  for (const auto& [name, tensor] : torchvision.tensors) file.tensors[renamed(name)] = tensor;
  return file;
}

}  // namespace

TEST_CASE("SHA-256 of the standard's examples") {
  CHECK(sha256({}) == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
  CHECK(sha256(as_bytes("abc")) ==
        "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
  CHECK(sha256(as_bytes("abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq")) ==
        "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1");
  const std::string million(1'000'000, 'a');
  CHECK(sha256(as_bytes(million)) ==
        "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0");
  Sha256 parts;
  for (size_t at = 0, step = 1; at < million.size(); at += step, step = step % 131 + 1)
    parts.update(as_bytes(std::string_view(million).substr(at, step)));
  CHECK(parts.finish() == sha256(as_bytes(million)));
}

TEST_CASE("a file is written completely or not at all") {
  TemporaryFolder folder;
  const fs::path path = folder.path() / "file";
  write_bytes(path, "before");
  const std::array<Bytes, 3> parts = {as_bytes("one "), as_bytes(""), as_bytes("two")};
  write_file_atomically(path, parts);
  CHECK(file_text(path) == "one two");
  const auto fails_untouched = [&](const fs::path& target, const char* why) {
    const std::string message = [&]() -> std::string {
      try {
        write_file_atomically(target, parts);
      } catch (const Error& error) {
        return error.what();
      }
      return "";
    }();
    CHECK(contains(message, why));
    CHECK(contains(message, target.string()));
    CHECK(file_text(path) == "one two");
    CHECK(std::distance(fs::directory_iterator(folder.path()), {}) == 2);  // with `taken`
  };
  fs::create_directories(folder.path() / "taken/inside");
  fails_untouched(folder.path() / "missing/file", "No such file or directory");
  fails_untouched(folder.path() / "taken", "is a folder");
  // This is as near as a test gets to a full disk: files may not grow beyond two bytes.
  rlimit before;
  getrlimit(RLIMIT_FSIZE, &before);
  const auto handler = std::signal(SIGXFSZ, SIG_IGN);
  const rlimit small = {.rlim_cur = 2, .rlim_max = before.rlim_max};
  setrlimit(RLIMIT_FSIZE, &small);
  fails_untouched(path, "File too large");
  setrlimit(RLIMIT_FSIZE, &before);
  std::signal(SIGXFSZ, handler);
}

TEST_CASE("files are told apart by their first bytes") {
  TemporaryFolder folder;
  const fs::path path = folder.path() / "file.bin";
  for (const char* name : {"weights_zip.pth", "weights_legacy.pth"}) {
    fs::copy_file(golden(name), path, fs::copy_options::overwrite_existing);
    CHECK(read_weights(path).tensors.size() == 15);
  }
  write_safetensors(path, named({"module._orig_mod.module.a", "b.module.c"}));
  CHECK(names_of(read_weights(path)) == std::set<std::string>{"a", "b.module.c"});
  write_bytes(path, "<html>not found</html>");
  CHECK(contains(weights_error(path, [&] { read_weights(path); }), "starts with 3c 68 74 6d 6c"));
  write_bytes(path, "");
  CHECK(contains(weights_error(path, [&] { read_weights(path); }), "the file is empty"));
  const fs::path missing = folder.path() / "missing";
  CHECK(contains(weights_error(missing, [&] { read_weights(missing); }), "no such file"));
  CHECK(
      contains(weights_error(folder.path(), [&] { read_weights(folder.path()); }), "no such file"));
}

TEST_CASE(
    "safetensors are known whatever the length of their header, also one that begins as pickles "
    "do") {
  const TemporaryFolder folder;
  const fs::path path = folder.path() / "weights.safetensors";
  std::set<char> first;
  for (size_t pad = 0; pad < 2048; pad += 8) {  // the header's length is a multiple of 8
    TensorFile file = named({"a"});
    file.metadata["pad"] = std::string(pad, ' ');
    write_safetensors(path, file);
    first.insert(static_cast<char>(std::ifstream(path, std::ios::binary).get()));
    CHECK(names_of(read_weights(path)) == std::set<std::string>{"a"});
  }
  CHECK(first.contains('\x80'));
}

TEST_CASE("wrappers' prefixes come off, and counters that no model has are left out") {
  const TemporaryFolder folder;
  const fs::path path = folder.path() / "weights.safetensors";
  write_safetensors(path, named({"model.net.a.weight", "backbone.b.bias", "c.model.d", "n_averaged",
                                 "module.a.total_ops", "total_params", "a.num_batches_tracked"}));
  std::vector<std::string> said;
  const ReadOptions options{.say = [&](const std::string& line) { said.push_back(line); }};
  CHECK(names_of(read_weights(path, options)) ==
        std::set<std::string>{"a.weight", "b.bias", "c.model.d", "a.num_batches_tracked"});
  CHECK(said ==
        std::vector<std::string>{
            path.string() + ": passes over 3 counters of averages and profilers (a.total_ops, …)"});
  CHECK_THROWS_WITH_AS(read_weights(path, {.key = "net"}), doctest::Contains("has no members"),
                       Error);
}

// timm's norms have PyTorch's epsilon everywhere, torchvision's of B5 to B7 do not.
TEST_CASE("a file keeps the epsilon of its norms through either kind of names") {
  TensorFile timm = named({"conv_stem.weight", "blocks.0.0.se.conv_reduce.weight"});
  normalise_names(timm, "efficientnet_b5");
  CHECK(timm.metadata.at(kNormEpsilon) == "1e-05");
  use_timm_names(timm);
  normalise_names(timm, "");
  CHECK(timm.metadata.at(kNormEpsilon) == "1e-05");
  for (const int features : {1280, 1792, 2048, 2560}) {
    TensorFile file = named({"features.1.0.block.0.0.weight"});
    file.tensors["features.8.0.weight"] = Tensor(DType::f32, {features, 1, 1, 1});
    normalise_names(file, "");
    CHECK_FALSE(file.metadata.contains(kNormEpsilon));
    use_timm_names(file);
    CHECK(file.metadata.contains(kNormEpsilon) == (features >= 2048));
    file.tensors["conv_stem.weight"] = Tensor(DType::f32, {1});
    normalise_names(file, "efficientnet_b5");
    CHECK(file.metadata.at(kNormEpsilon) == (features >= 2048 ? "0.001" : "1e-05"));
  }
  TensorFile v2 = named({"features.1.0.block.0.0.weight", "features.2.0.block.1.0.weight"});
  use_timm_names(v2);
  CHECK(v2.tensors.contains("blocks.1.0.conv_pwl.weight"));
  CHECK(v2.metadata.at(kNormEpsilon) == "0.001");
}

TEST_CASE("prefixes that make two names equal are refused") {
  TensorFile file = named({"a", "module.a"});
  CHECK_THROWS_AS(strip_prefixes(file), Error);
}

TEST_CASE("old DenseNet names become today's") {
  CHECK(normalised({"features.denseblock1.denselayer2.norm.1.weight",
                    "features.denseblock1.denselayer16.conv.2.weight",
                    "features.denseblock1.denselayer3.norm2.running_var",
                    "features.transition1.norm.weight", "features.norm5.bias", "classifier.bias"},
                   "densenet121") ==
        std::set<std::string>{"features.denseblock1.denselayer2.norm1.weight",
                              "features.denseblock1.denselayer16.conv2.weight",
                              "features.denseblock1.denselayer3.norm2.running_var",
                              "features.transition1.norm.weight", "features.norm5.bias",
                              "classifier.bias"});
}

TEST_CASE("timm's EfficientNet names become torchvision's") {
  CHECK(normalised({"conv_stem.weight", "bn1.num_batches_tracked", "blocks.0.1.conv_dw.weight",
                    "blocks.0.0.bn2.running_mean", "blocks.0.0.conv_pw.weight",
                    "blocks.0.0.se.conv_reduce.bias", "blocks.6.11.conv_pwl.weight",
                    "blocks.3.0.se.conv_expand.weight", "blocks.2.2.bn3.bias", "conv_head.weight",
                    "bn2.weight", "classifier.bias", "blocks.7.0.bn1.weight", "other"},
                   "efficientnet_b5") ==
        std::set<std::string>{
            "features.0.0.weight", "features.0.1.num_batches_tracked",
            "features.1.1.block.0.0.weight", "features.1.0.block.2.1.running_mean",
            "features.1.0.block.2.0.weight", "features.1.0.block.1.fc1.bias",
            "features.7.11.block.3.0.weight", "features.4.0.block.2.fc2.weight",
            "features.3.2.block.3.1.bias", "features.8.0.weight", "features.8.1.weight",
            "classifier.1.bias", "blocks.7.0.bn1.weight", "other"});
  // torchvision's own names stay, and so do those of another model.
  CHECK(normalised({"features.0.0.weight"}, "efficientnet_b0").contains("features.0.0.weight"));
  CHECK(normalised({"conv_stem.weight"}, "mnist_cnn").contains("conv_stem.weight"));
}

TEST_CASE("timm's EfficientNetV2 names become torchvision's") {
  CHECK(
      normalised(
          {"conv_stem.weight", "bn1.weight", "blocks.0.0.conv.weight", "blocks.0.1.bn1.running_var",
           "blocks.1.0.conv_exp.weight", "blocks.2.3.bn2.bias", "blocks.3.0.conv_pw.weight",
           "blocks.5.14.se.conv_expand.bias", "conv_head.weight", "bn2.bias", "classifier.weight"},
          "efficientnet_v2_s") ==
      std::set<std::string>{"features.0.0.weight", "features.0.1.weight",
                            "features.1.0.block.0.0.weight", "features.1.1.block.0.1.running_var",
                            "features.2.0.block.0.0.weight", "features.3.3.block.1.1.bias",
                            "features.4.0.block.0.0.weight", "features.6.14.block.2.fc2.bias",
                            "features.7.0.weight", "features.7.1.bias", "classifier.1.weight"});
  CHECK(normalised({"conv_stem.weight", "blocks.0.0.conv.weight", "blocks.6.0.conv_pw.weight",
                    "conv_head.weight"},
                   "efficientnet_v2_m") ==
        std::set<std::string>{"features.0.0.weight", "features.1.0.block.0.0.weight",
                              "features.7.0.block.0.0.weight", "features.8.0.weight"});
}

TEST_CASE("timm's MobileNetV2 names become torchvision's") {
  CHECK(normalised(
            {"conv_stem.weight", "bn1.weight", "blocks.0.0.conv_dw.weight",
             "blocks.0.0.bn2.running_mean", "blocks.1.0.conv_pw.weight", "blocks.1.1.bn3.bias",
             "blocks.6.0.conv_pwl.weight", "conv_head.weight", "bn2.bias", "classifier.weight"},
            "mobilenet_v2") ==
        std::set<std::string>{"features.0.0.weight", "features.0.1.weight",
                              "features.1.conv.0.0.weight", "features.1.conv.2.running_mean",
                              "features.2.conv.0.0.weight", "features.3.conv.3.bias",
                              "features.17.conv.2.weight", "features.18.0.weight",
                              "features.18.1.bias", "classifier.1.weight"});
}

TEST_CASE("torchvision's names survive timm's, and the model is told from either") {
  for (const char* model :
       {"efficientnet_b0", "efficientnet_b3", "efficientnet_b7", "efficientnet_v2_s",
        "efficientnet_v2_m", "mobilenet_v2", "densenet121", "resnet18", "resnet50"}) {
    std::ifstream lines(fmt::format(ENGINE_SOURCE_DIR "/tests/golden/names/{}.txt", model));
    std::vector<std::string> names;
    for (std::string line; std::getline(lines, line);)
      names.push_back(line.substr(0, line.find(' ')));
    REQUIRE(names.size() > 100);
    TensorFile file = named(names);
    const std::set<std::string> torchvision = names_of(file);
    use_timm_names(file);
    const std::set<std::string> timm = names_of(file);
    const bool same = std::string_view(model).starts_with("densenet") ||
                      std::string_view(model).starts_with("resnet");
    for (const std::string& name : timm) CHECK(name.starts_with("features.") <= same);
    CHECK((timm == torchvision) == same);
    normalise_names(file, "");
    CHECK(names_of(file) == torchvision);
  }
}

TEST_CASE(
    "a whole B3 checkpoint survives timm's names, and only its head differs from ImageNet's") {
  const auto data = test_data();
  if (!data) return note_skipped("no test data");
  const TensorFile file = read_weights(*data / "efficientnet_b3_cattle15.pth");
  TensorFile timm = timm_b3(file);
  CHECK(timm.tensors.contains("blocks.1.0.conv_pwl.weight"));
  CHECK_FALSE(timm.tensors.contains("features.0.0.weight"));
  TensorFile ours = file;
  use_timm_names(ours);
  CHECK(names_of(ours) == names_of(timm));
  normalise_names(timm, "efficientnet_b3");
  CHECK(names_of(timm) == names_of(file));
  CHECK(layout_digest(timm) == layout_digest(file));
  CHECK(layout_digest(file) != entry_of("efficientnet_b3").layout);
  timm.tensors["classifier.1.weight"] = Tensor(DType::f32, {1000, 1536});
  timm.tensors["classifier.1.bias"] = Tensor(DType::f32, {1000});
  CHECK(layout_digest(timm) == entry_of("efficientnet_b3").layout);
  CHECK(count_parameters(timm) == entry_of("efficientnet_b3").parameters);
}

TEST_CASE("TensorFlow's EfficientNets are refused where they can be recognised") {
  TemporaryFolder folder;
  for (const fs::path& path : {folder.path() / "tf_efficientnet_b3_ns-9d44bf68.pth",
                               folder.path() / "tf_efficientnet_b3.ns_jft_in1k/model.safetensors"})
    CHECK_THROWS_WITH_AS(read_weights(path), doctest::Contains("TensorFlow's padding"), Error);
  TensorFile file = named({"conv_stem.weight"});
  file.metadata["arch"] = "tf_efficientnet_b3";
  CHECK_THROWS_WITH_AS(normalise_names(file, "efficientnet_b3"),
                       doctest::Contains("tf_efficientnet_b3"), Error);
}

TEST_CASE("a head of another size is reported; every other difference is one error") {
  const std::vector<Expected> model = {
      {.name = "conv.weight", .shape = {8, 3, 3, 3}},
      {.name = "bn.weight", .shape = {8}},
      {.name = "bn.num_batches_tracked", .shape = {}, .optional = true},
      {.name = "head.weight", .shape = {7, 8}, .head = true},
      {.name = "head.bias", .shape = {7}, .head = true}};
  TensorFile file;
  for (const Expected& tensor : model)
    if (!tensor.optional) file.tensors[tensor.name] = Tensor(DType::f32, tensor.shape);
  CHECK(match_weights(file, model, "f").reinitialised.empty());
  file.tensors["bn.num_batches_tracked"] = Tensor(DType::i64, {});
  CHECK(match_weights(file, model, "f").reinitialised.empty());
  file.tensors["head.weight"] = Tensor(DType::f32, {15, 8});
  file.tensors["head.bias"] = Tensor(DType::f32, {15});
  CHECK(match_weights(file, model, "f").reinitialised ==
        std::vector<std::string>{"head.weight", "head.bias"});
  TensorFile headless = file;
  headless.tensors.erase("head.weight");
  CHECK_THROWS_WITH_AS(match_weights(headless, model, "f"),
                       "f: does not fit the model: 1 missing (head.weight)", Error);
  headless.tensors.erase("head.bias");
  CHECK(match_weights(headless, model, "f").reinitialised ==
        std::vector<std::string>{"head.weight", "head.bias"});
  file.tensors["head.weight"] = Tensor(DType::f32, {15, 9});
  const auto message = [&] { return weights_error("f", [&] { match_weights(file, model, "f"); }); };
  CHECK(contains(message(), "1 misshaped (head.weight: file [15, 9], model [7, 8])"));
  file.tensors.erase("bn.weight");
  for (const char* name : {"u", "v", "w", "x"}) file.tensors[name] = Tensor(DType::f32, {1});
  CHECK(message() ==
        "f: does not fit the model: 1 missing (bn.weight); 4 unexpected (u, v, w, …); 1 misshaped "
        "(head.weight: file [15, 9], model [7, 8])");
}

TEST_CASE("the manifest has the models of the papers and checksums that agree with file names") {
  CHECK(entry_of("efficientnet_b3").tensors == 574);
  CHECK(entry_of("efficientnet_b3").parameters == 12'233'232);
  CHECK(entry_of("densenet121").tensors == 727);
  CHECK(entry_of("densenet121").tensors - entry_of("densenet121").counters == 606);
  CHECK(entry_of("efficientnet_b0").parameters == 5'288'548);
  CHECK(entry_of("efficientnet_b7").parameters == 66'347'960);
  CHECK(entry_of("densenet201").parameters == 20'013'928);
  std::set<std::string> files;
  for (const ManifestEntry& entry : manifest()) {
    for (const std::string& name : entry.names) CHECK(files.insert(name).second);
    CHECK(entry.source.ends_with(entry.names.front()));
    if (!entry.sha256.empty())
      CHECK(contains(entry.names.front(), "-" + entry.sha256.substr(0, 8) + ".pth"));
  }
  CHECK(files.contains("efficientnet_b3_rwightman-cf984f9c.pth"));
}

TEST_CASE("a manifest that is not well-formed is an error") {
  TemporaryFolder folder;
  const fs::path path = folder.path() / "manifest.json";
  write_bytes(path, std::string(200'000, '['));
  CHECK(contains(weights_error(path, [&] { read_manifest(path); }), "nests deeper than 16"));
  for (const char* bytes : {"", "{}", R"({"models":{},"files":[{"model":"a"}]})",
                            R"({"models":{},"files":[{}]})", "[1e999]"}) {
    write_bytes(path, bytes);
    CHECK_FALSE(weights_error(path, [&] { read_manifest(path); }).empty());
  }
}

TEST_CASE("a file is compared with its manifest entry, and merely read without one") {
  const TensorFile file = read_weights(golden("weights_zip.pth"));
  ManifestEntry entry = {.names = {"renamed.pth", "weights_zip.pth"},
                         .model = "mnist_cnn",
                         .sha256 = sha256(read_file(golden("weights_zip.pth"))).substr(0, 8),
                         .tensors = 17,
                         .counters = 2,
                         .parameters = count_parameters(file),
                         .layout = layout_digest(file)};
  const auto problems = [&] {
    return verify_weights(golden("weights_zip.pth"), {&entry, 1}).problems;
  };
  CHECK(problems().empty());
  entry.sha256 = "00000000";
  REQUIRE(problems().size() == 1);
  CHECK(contains(problems()[0], "published 00000000"));
  entry.sha256.clear();
  entry.counters = 1;
  REQUIRE(problems().size() == 1);
  CHECK(problems()[0] == "15 tensors, 17 expected (16 without batch counters)");
  entry.tensors = 15;
  entry.parameters = 1;
  CHECK(problems().size() == 1);
  entry.layout = "other";
  CHECK(problems().size() == 2);
  const WeightReport unlisted = verify_weights(golden("weights_legacy.pth"), {&entry, 1});
  CHECK_FALSE(unlisted.entry.has_value());
  CHECK(unlisted.problems.empty());
  CHECK(unlisted.tensors == 15);
  CHECK(unlisted.sha256.size() == 64);
}

TEST_CASE("a value that no model may hold is named: not finite, or a variance below 0") {
  const auto fault = [](const char* name, DType type, double value) {
    Tensor wide(DType::f64, {2, 3});
    wide.as<double>()[4] = value;
    return fault_in({{"a", Tensor(DType::i64, {})}, {name, convert(wide, type)}}).value_or("");
  };
  const double inf = std::numeric_limits<double>::infinity(), nan = std::nan("");
  for (const DType type : {DType::f64, DType::f32, DType::f16, DType::bf16}) {
    CHECK(fault("w", type, nan) == "w holds nan");
    CHECK(fault("w", type, inf) == "w holds inf");
    CHECK(fault("bn.running_mean", type, -inf) == "bn.running_mean holds -inf");
    CHECK(fault("bn.running_var", type, -1) == "bn.running_var holds -1");
    CHECK(fault("w", type, -1) == "");
    CHECK(fault("bn.running_var", type, 0.5) == "");
  }
  CHECK(fault("w", DType::f16, 65504) == "");
  const TemporaryFolder folder;
  TensorFile file{.tensors = {{"bn1.running_var", Tensor(DType::f32, {4})}}};
  file.tensors["bn1.running_var"].as<float>()[3] = -1;
  const fs::path path = folder.path() / "w.safetensors";
  write_safetensors(path, file);
  CHECK(contains(weights_error(path, [&] { read_weights(path); }), "bn1.running_var holds -1"));
}
