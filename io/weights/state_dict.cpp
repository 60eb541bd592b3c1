#include "io/weights/state_dict.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <array>
#include <set>

#include "engine/error.h"

namespace engine {
namespace {

struct StorageType {
  std::string_view name;
  size_t bytes;
  std::optional<DType> dtype;
};
constexpr StorageType kStorageTypes[] = {
    {"FloatStorage", 4, DType::f32},      {"HalfStorage", 2, DType::f16},
    {"BFloat16Storage", 2, DType::bf16},  {"DoubleStorage", 8, DType::f64},
    {"LongStorage", 8, DType::i64},       {"IntStorage", 4, DType::i32},
    {"ByteStorage", 1, DType::u8},        {"BoolStorage", 1, DType::boolean},
    {"CharStorage", 1, std::nullopt},     {"ShortStorage", 2, std::nullopt},
    {"QInt8Storage", 1, std::nullopt},    {"QUInt8Storage", 1, std::nullopt},
    {"QUInt4x2Storage", 1, std::nullopt}, {"QUInt2x4Storage", 1, std::nullopt},
    {"QInt32Storage", 4, std::nullopt},   {"ComplexFloatStorage", 8, std::nullopt},
    {"UntypedStorage", 1, std::nullopt},  {"ComplexDoubleStorage", 16, std::nullopt},
};

// Averages come first, as timm and others take them.
constexpr std::array<std::string_view, 10> kNestings = {
    "state_dict_ema", "model_ema",        "ema", "params_ema", "state_dict",
    "model",          "model_state_dict", "net", "params",     "weights"};

// What ordinary checkpoints hold beside the weights.
constexpr std::array<std::string_view, 14> kOrdinary = {
    "torch.Size",          "torch.device",
    "argparse.Namespace",  "pathlib.PosixPath",
    "_codecs.encode",      "numpy.dtype",
    "numpy.ndarray",       "numpy.core.multiarray.scalar",
    "builtins.set",        "numpy._core.multiarray.scalar",
    "__builtin__.set",     "numpy.core.multiarray._reconstruct",
    "collections.Counter", "numpy._core.multiarray._reconstruct"};

constexpr size_t kMostDimensions = 16, kMostTensors = 200'000;
constexpr size_t kLongestKey = 64;  // keys of storages are numbers
constexpr size_t kShown = 6;        // of what is listed in a line

std::string full_name(const PickleGlobal& global) {
  constexpr size_t kLongest = 80;
  return fmt::format("{}.{}", global.module.substr(0, kLongest), global.name.substr(0, kLongest));
}

std::string listed(const std::vector<std::string>& names) {
  return fmt::format("{}{}",
                     fmt::join(std::span(names).first(std::min(names.size(), kShown)), ", "),
                     names.size() > kShown ? ", …" : "");
}

// The call of _rebuild_tensor, which may stand in a parameter; null for anything else.
const PickleCall* tensor_call(PickleRef value) {
  const auto* call = value->as<PickleCall>();
  const auto calls = [&](std::string_view name) {
    return call && call->callee.module == "torch._utils" && call->callee.name.starts_with(name);
  };
  if (calls("_rebuild_parameter")) {
    const std::vector<PickleRef>& arguments = call->arguments->as<PickleTuple>()->items;
    call = arguments.empty() ? nullptr : arguments[0]->as<PickleCall>();
  }
  return calls("_rebuild_tensor") ? call : nullptr;
}

bool has_tensors(const PickleDict& dict) {
  return std::ranges::any_of(dict.items, [](const auto& item) {
    return item.first->template as<std::string>() && tensor_call(item.second);
  });
}

class TensorParser {
 public:
  explicit TensorParser(const std::string& path) : path_(path) {}

  StorageView storage(PickleRef value) const {
    const auto* persistent = value->as<PicklePersistent>();
    const auto* id = persistent ? persistent->id->as<PickleTuple>() : nullptr;
    check(id && (id->items.size() == 5 || id->items.size() == 6), "a storage is not well-formed");
    const auto* kind = id->items[0]->as<std::string>();
    const auto* type = id->items[1]->as<PickleGlobal>();
    const auto* key = id->items[2]->as<std::string>();
    check(kind && *kind == "storage" && type && key && key->size() <= kLongestKey,
          "a storage is not well-formed");
    const auto* found = std::ranges::find(kStorageTypes, type->name, &StorageType::name);
    check(type->module.starts_with("torch") && found != std::end(kStorageTypes),
          "a storage has no element type");
    StorageView storage = {.key = *key,
                           .element_bytes = found->bytes,
                           .dtype = found->dtype,
                           .elements = size_at(*id, 4)};
    storage.visible = storage.elements;
    if (id->items.size() == 6 && !id->items[5]->as<PickleNone>()) {
      const auto* view = id->items[5]->as<PickleTuple>();  // its own key, offset, size
      check(view && view->items.size() == 3, "a view of a storage is not well-formed");
      storage.offset = size_at(*view, 1);
      storage.visible = size_at(*view, 2);
      check(storage.offset <= storage.elements &&
                storage.visible <= storage.elements - storage.offset,
            "a view leaves its storage");
    }
    check(storage.elements <= INT64_MAX / int64_t(storage.element_bytes), "a storage is too large");
    return storage;
  }

  StridedTensor tensor(std::string_view name, const PickleCall& call) const {
    const PickleTuple& arguments = *call.arguments->as<PickleTuple>();
    require(arguments.items.size() >= 4, Failure::weights, "{}: tensor '{}' is not well-formed",
            path_, name);
    StridedTensor tensor = {.name = name,
                            .storage = storage(arguments.items[0]),
                            .shape = sizes_at(arguments, 2),
                            .stride = sizes_at(arguments, 3),
                            .offset = size_at(arguments, 1)};
    require(tensor.shape.size() == tensor.stride.size(), Failure::weights,
            "{}: tensor '{}' has {} dimensions and {} strides", path_, name, tensor.shape.size(),
            tensor.stride.size());
    for (size_t d = 0; d < tensor.shape.size(); ++d)
      if (tensor.shape[d] == 1) tensor.stride[d] = 0;  // it may be any number and is never used
    require(!tensor.storage.dtype || fits(tensor), Failure::weights,
            "{}: tensor '{}': shape {}, strides {}, offset {} leave its storage of {} elements",
            path_, name, to_string(tensor.shape), to_string(tensor.stride), tensor.offset,
            tensor.storage.visible);
    return tensor;
  }

 private:
  void check(bool condition, std::string_view problem) const {
    require(condition, Failure::weights, "{}: {}", path_, problem);
  }

  static bool fits(const StridedTensor& tensor) {
    const std::optional<uint64_t> bytes = bytes_of(tensor.shape, *tensor.storage.dtype);
    if (!bytes) return false;
    if (*bytes == 0) return true;
    int64_t last = tensor.offset;
    for (size_t d = 0; d < tensor.shape.size(); ++d) {
      int64_t reach;
      if (__builtin_mul_overflow(tensor.shape[d] - 1, tensor.stride[d], &reach) ||
          __builtin_add_overflow(last, reach, &last))
        return false;
    }
    return last < tensor.storage.visible;
  }

  int64_t size_at(const PickleTuple& tuple, size_t index) const {
    const auto* number = tuple.items[index]->as<int64_t>();
    check(number && *number >= 0, "a size, stride or offset is no number of elements");
    return *number;
  }

  Shape sizes_at(const PickleTuple& tuple, size_t index) const {
    const auto* sizes = tuple.items[index]->as<PickleTuple>();
    check(sizes && sizes->items.size() <= kMostDimensions, "a shape or its strides are malformed");
    Shape shape;
    for (size_t i = 0; i < sizes->items.size(); ++i) shape.push_back(size_at(*sizes, i));
    return shape;
  }

  const std::string& path_;
};

// The members of `root` that are dicts with tensors.
std::map<std::string_view, const PickleDict*> nested_weights(const PickleDict& root) {
  std::map<std::string_view, const PickleDict*> nested;
  std::map<const PickleDict*, bool> looked;  // one dict may be the value of many members
  for (const auto& [key, value] : root.items) {
    const auto* name = key->as<std::string>();
    const auto* dict = value->as<PickleDict>();
    if (!name || !dict) continue;
    const auto [known, is_new] = looked.try_emplace(dict, false);
    if (is_new) known->second = has_tensors(*dict);
    if (known->second) nested[*name] = dict;
  }
  return nested;
}

const PickleDict& choose(const PickleDict& root, const ReadOptions& options,
                         const std::string& path) {
  const auto nested = nested_weights(root);
  const auto keys_but = [&](std::string_view taken, bool ordinary) {
    std::vector<std::string> keys;
    for (const auto& [key, dict] : nested)
      if (key != taken && (!ordinary || std::ranges::find(kNestings, key) != kNestings.end()))
        keys.emplace_back(key);
    return keys;
  };
  if (!options.key.empty()) {
    const auto found = nested.find(options.key);
    require(found != nested.end(), Failure::usage, "--weights-key {}: {} has {}", options.key, path,
            nested.empty() ? "no members that hold tensors"
                           : "tensors in these members: " + listed(keys_but("", false)));
    return *found->second;
  }
  for (const std::string_view nesting : kNestings) {
    const auto found = nested.find(nesting);
    if (found == nested.end()) continue;
    if (const auto others = keys_but(nesting, true); !others.empty())
      options.say(fmt::format("{}: takes the weights of '{}'; --weights-key chooses another: {}",
                              path, nesting, listed(others)));
    return *found->second;
  }
  require(has_tensors(root), Failure::weights, "{}: holds no tensors{}", path,
          nested.empty() ? ""
                         : " but in members, of which --weights-key takes one: " +
                               listed(keys_but("", false)));
  return root;
}

// Objects that an ordinary training has no need of; nothing of them is made.
void say_foreign(const Pickle& pickle, const ReadOptions& options, const std::string& path) {
  std::set<std::string> names;
  for (const PickleValue& value : pickle.values) {
    const auto* call = value.as<PickleCall>();
    const bool is_tensor = call && call->callee.module == "torch._utils" &&
                           (call->callee.name.starts_with("_rebuild_tensor") ||
                            call->callee.name.starts_with("_rebuild_parameter"));
    if (!call || is_tensor || names.size() > kShown) continue;
    std::string name = full_name(call->callee);
    if (std::ranges::find(kOrdinary, name) == kOrdinary.end()) names.insert(std::move(name));
  }
  if (!names.empty())
    options.say(fmt::format("{}: passes over objects that are no tensors and runs nothing: {}",
                            path, listed({names.begin(), names.end()})));
}

}  // namespace

StateDict find_state_dict(const Pickle& pickle, const ReadOptions& options,
                          const std::string& path) {
  if (const auto* object = pickle.root->as<PickleCall>(); object && !tensor_call(pickle.root))
    fail(Failure::weights, "{}: holds an object of {}, no dict of tensors: save its state_dict()",
         path, full_name(object->callee));
  const auto* root = pickle.root->as<PickleDict>();
  require(root != nullptr, Failure::weights, "{}: holds no dict of tensors", path);
  std::map<std::string_view, const PickleCall*> calls;
  for (const auto& [key, value] : choose(*root, options, path).items)
    if (const auto* name = key->as<std::string>()) calls[*name] = tensor_call(value);
  std::erase_if(calls, [](const auto& entry) { return entry.second == nullptr; });
  require(calls.size() <= kMostTensors, Failure::weights, "{}: more than {} tensors", path,
          kMostTensors);
  StateDict state;
  std::vector<std::string> others;
  const TensorParser parser(path);
  for (const auto& [name, call] : calls) {
    StridedTensor tensor = parser.tensor(name, *call);
    if (tensor.storage.dtype)
      state.tensors.push_back(std::move(tensor));
    else
      others.emplace_back(name);
  }
  if (!others.empty())
    options.say(
        fmt::format("{}: passes over {} tensors of element types that weights do not have: "
                    "{}",
                    path, others.size(), listed(others)));
  say_foreign(pickle, options, path);
  require(!state.tensors.empty(), Failure::weights, "{}: holds no tensors of these types", path);
  for (const auto& [key, value] : root->items) {
    const auto *name = key->as<std::string>(), *text = value->as<std::string>();
    if (name && text && *name == "arch") state.arch = *text;
  }
  return state;
}

std::map<std::string, StorageView> storages_of(const Pickle& pickle, const std::string& path) {
  const TensorParser parser(path);
  std::map<std::string, StorageView> storages;
  for (const PickleValue& value : pickle.values) {
    if (!value.as<PicklePersistent>()) continue;
    const StorageView storage = parser.storage(&value);
    const StorageView& known = storages.emplace(storage.key, storage).first->second;
    require(known.element_bytes == storage.element_bytes && known.dtype == storage.dtype &&
                known.elements == storage.elements,
            Failure::weights, "{}: storage '{}' is of {} and of {} elements, or of two types", path,
            storage.key, known.elements, storage.elements);
  }
  return storages;
}

}  // namespace engine
