#include "io/weights/pth.h"

#include <algorithm>
#include <array>
#include <map>

#include "io/files/bytes.h"
#include "io/weights/pickle.h"
#include "io/weights/zip.h"

namespace engine {
namespace {

constexpr std::array<std::pair<std::string_view, DType>, 8> kStorageTypes = {{
    {"torch.FloatStorage", DType::f32},
    {"torch.HalfStorage", DType::f16},
    {"torch.BFloat16Storage", DType::bf16},
    {"torch.DoubleStorage", DType::f64},
    {"torch.LongStorage", DType::i64},
    {"torch.IntStorage", DType::i32},
    {"torch.ByteStorage", DType::u8},
    {"torch.BoolStorage", DType::boolean},
}};

// The second half is what checkpoints hold beside the weights, which is passed over.
constexpr std::array<std::string_view, 26> kAllowedGlobals = {
    "torch.FloatStorage",
    "torch.HalfStorage",
    "torch.BFloat16Storage",
    "torch.DoubleStorage",
    "torch.LongStorage",
    "torch.IntStorage",
    "torch.ByteStorage",
    "torch.BoolStorage",
    "torch._utils._rebuild_tensor",
    "torch._utils._rebuild_tensor_v2",
    "torch._utils._rebuild_parameter",
    "torch._utils._rebuild_parameter_with_state",
    "collections.OrderedDict",
    "collections.defaultdict",
    "__builtin__.dict",
    "builtins.dict",
    "torch.Size",
    "torch.device",
    "argparse.Namespace",
    "pathlib.PosixPath",
    "_codecs.encode",
    "numpy.dtype",
    "numpy.ndarray",
    "numpy.core.multiarray.scalar",
    "numpy._core.multiarray.scalar",
    "numpy.core.multiarray._reconstruct",
};

constexpr std::array<std::string_view, 5> kNestings = {"state_dict", "model", "model_state_dict",
                                                       "model_ema", "state_dict_ema"};
constexpr size_t kMostDimensions = 16;
constexpr size_t kLongestKey = 64;  // keys of storages are numbers
// Views that overlap or repeat may describe more than a file holds; this is how much more.
constexpr uint64_t kMostExpansion = 16, kSmallFile = 1 << 20;

struct StorageView {
  std::string key;
  DType dtype = DType::f32;
  int64_t elements = 0;             // in the whole storage
  int64_t offset = 0, visible = 0;  // in elements; storages of old files may be views of others
};

struct StridedTensor {
  std::string_view name;  // as the pickle has it
  StorageView storage;
  Shape shape, stride;
  int64_t offset = 0;  // elements
};

class StateDictReader {
 public:
  explicit StateDictReader(std::string path) : path_(std::move(path)) {}

  std::vector<StridedTensor> tensors_of(const PickleDict& dict) const {
    std::vector<StridedTensor> tensors;
    for (const auto& [key, value] : dict.items) {
      const auto* name = key->as<std::string>();
      const PickleCall* call = tensor_call(value);
      if (name && call) tensors.push_back(parse_tensor(*name, *call));
    }
    return tensors;
  }

  StorageView parse_storage(PickleRef value) const {
    const auto* persistent = value->as<PicklePersistent>();
    const auto* id = persistent ? persistent->id->as<PickleTuple>() : nullptr;
    check(id && (id->items.size() == 5 || id->items.size() == 6), "a storage is not well-formed");
    const auto* kind = id->items[0]->as<std::string>();
    const auto* type = id->items[1]->as<PickleGlobal>();
    const auto* key = id->items[2]->as<std::string>();
    check(kind && *kind == "storage" && type && key && key->size() <= kLongestKey,
          "a storage is not well-formed");
    const auto found =
        std::ranges::find(kStorageTypes, type->name, &std::pair<std::string_view, DType>::first);
    check(found != kStorageTypes.end(), "a storage has no element type");
    StorageView storage = {.key = *key, .dtype = found->second, .elements = size_at(*id, 4)};
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
    check(bytes_of({storage.elements}, storage.dtype).has_value(), "a storage is too large");
    return storage;
  }

 private:
  void check(bool condition, std::string_view problem) const {
    require(condition, Failure::weights, "{}: {}", path_, problem);
  }

  // The call of _rebuild_tensor, which may stand in a parameter; null for anything else.
  static const PickleCall* tensor_call(PickleRef value) {
    const auto* call = value->as<PickleCall>();
    if (call && call->callee.starts_with("torch._utils._rebuild_parameter")) {
      const std::vector<PickleRef>& arguments = call->arguments->as<PickleTuple>()->items;
      call = arguments.empty() ? nullptr : arguments[0]->as<PickleCall>();
    }
    return call && call->callee.starts_with("torch._utils._rebuild_tensor") ? call : nullptr;
  }

  StridedTensor parse_tensor(std::string_view name, const PickleCall& call) const {
    const PickleTuple& arguments = *call.arguments->as<PickleTuple>();
    require(arguments.items.size() >= 4, Failure::weights, "{}: tensor '{}' is not well-formed",
            path_, name);
    StridedTensor tensor = {.name = name,
                            .storage = parse_storage(arguments.items[0]),
                            .shape = sizes_at(arguments, 2),
                            .stride = sizes_at(arguments, 3),
                            .offset = size_at(arguments, 1)};
    require(tensor.shape.size() == tensor.stride.size(), Failure::weights,
            "{}: tensor '{}' has {} dimensions and {} strides", path_, name, tensor.shape.size(),
            tensor.stride.size());
    for (size_t d = 0; d < tensor.shape.size(); ++d)
      if (tensor.shape[d] == 1) tensor.stride[d] = 0;  // it may be any number and is never used
    require(fits(tensor), Failure::weights,
            "{}: tensor '{}': shape {}, strides {}, offset {} leave its storage of {} elements",
            path_, name, to_string(tensor.shape), to_string(tensor.stride), tensor.offset,
            tensor.storage.visible);
    return tensor;
  }

  static bool fits(const StridedTensor& tensor) {
    const std::optional<uint64_t> bytes = bytes_of(tensor.shape, tensor.storage.dtype);
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

  std::string path_;
};

const PickleDict* dict_at(const PickleDict& dict, std::string_view key) {
  for (const auto& [name, value] : dict.items) {
    const auto* text = name->as<std::string>();
    if (text && *text == key) return value->as<PickleDict>();
  }
  return nullptr;
}

const PickleDict& root_dict(const Pickle& pickle, const std::string& path) {
  const auto* root = pickle.root->as<PickleDict>();
  require(root != nullptr, Failure::weights, "{}: holds no dict of tensors", path);
  return *root;
}

std::vector<StridedTensor> find_state_dict(const PickleDict& root, const std::string& path) {
  const StateDictReader reader(path);
  for (const std::string_view nesting : kNestings) {
    const PickleDict* nested = dict_at(root, nesting);
    if (nested == nullptr) continue;
    if (auto tensors = reader.tensors_of(*nested); !tensors.empty()) return tensors;
  }
  auto tensors = reader.tensors_of(root);
  require(!tensors.empty(), Failure::weights, "{}: holds no tensors", path);
  return tensors;
}

bool is_contiguous(const StridedTensor& tensor) {
  int64_t expected = 1;
  for (size_t d = tensor.shape.size(); d-- > 0;) {
    if (tensor.shape[d] != 1 && tensor.stride[d] != expected) return false;
    expected *= tensor.shape[d];
  }
  return true;
}

// `source` begins at the tensor's first element; the strides were checked against its end.
void copy_strided(std::byte* target, const std::byte* source, const StridedTensor& tensor) {
  const auto bytes = static_cast<int64_t>(size_of(tensor.storage.dtype));
  Shape index(tensor.shape.size(), 0);
  int64_t at = 0;
  for (int64_t i = 0, count = elements(tensor.shape); i < count; ++i) {
    std::memcpy(target + i * bytes, source + at * bytes, static_cast<size_t>(bytes));
    for (size_t d = index.size(); d-- > 0;) {
      at += tensor.stride[d];
      if (++index[d] < tensor.shape[d]) break;
      at -= tensor.stride[d] * tensor.shape[d];
      index[d] = 0;
    }
  }
}

Tensor make_dense(const StridedTensor& tensor, Bytes storage) {
  Tensor dense;
  dense.dtype = tensor.storage.dtype;
  dense.shape = tensor.shape;
  dense.bytes.resize(*bytes_of(tensor.shape, dense.dtype));
  if (dense.bytes.empty()) return dense;
  const std::byte* first =
      storage.data() + (tensor.storage.offset + tensor.offset) * size_of(dense.dtype);
  if (is_contiguous(tensor)) {
    std::memcpy(dense.bytes.data(), first, dense.bytes.size());
  } else {
    copy_strided(dense.bytes.data(), first, tensor);
  }
  return dense;
}

using Storages = std::map<std::string, Bytes, std::less<>>;

TensorFile load(const PickleDict& root, const std::vector<StridedTensor>& tensors,
                const Storages& storages, uint64_t file_bytes, const std::string& path) {
  const uint64_t limit = std::max(file_bytes, kSmallFile) * kMostExpansion;
  uint64_t total = 0;
  TensorFile file;
  for (const StridedTensor& tensor : tensors) {
    const uint64_t bytes = *bytes_of(tensor.shape, tensor.storage.dtype);
    require(bytes <= limit - total, Failure::weights,
            "{}: tensor '{}' of {} bytes: a file of {} bytes must not describe more than {}", path,
            tensor.name, bytes, file_bytes, limit);
    total += bytes;
    const auto storage = storages.find(tensor.storage.key);
    const uint64_t expected = tensor.storage.elements * size_of(tensor.storage.dtype);
    require(storage != storages.end() && storage->second.size() == expected, Failure::weights,
            "{}: tensor '{}': storage '{}' is missing or does not have {} bytes", path, tensor.name,
            tensor.storage.key, expected);
    file.tensors.insert_or_assign(std::string(tensor.name), make_dense(tensor, storage->second));
  }
  for (const auto& [key, value] : root.items) {
    const auto *name = key->as<std::string>(), *text = value->as<std::string>();
    if (name && text && *name == "arch") file.metadata["arch"] = *text;
  }
  return file;
}

TensorFile read_zip(Bytes bytes, const std::string& path) {
  const ZipArchive archive(bytes, path);
  const std::string stem = archive.stem_of("data.pkl");
  if (const std::string order = stem + "/byteorder"; archive.contains(order))
    require(as_text(archive.read(order)) == "little", Failure::weights,
            "{}: written on a big-endian machine", path);
  ByteReader in(archive.read(stem + "/data.pkl"), path + ": data.pkl");
  const Pickle pickle = read_pickle(in, kAllowedGlobals);
  const PickleDict& root = root_dict(pickle, path);
  const std::vector<StridedTensor> tensors = find_state_dict(root, path);
  Storages storages;
  for (const StridedTensor& tensor : tensors) {
    const std::string& key = tensor.storage.key;
    if (!storages.contains(key)) storages[key] = archive.read(fmt::format("{}/data/{}", stem, key));
  }
  return load(root, tensors, storages, bytes.size(), path);
}

// The element type is known only from the object's references to the storage.
std::map<std::string, StorageView> storages_of(const Pickle& pickle, const std::string& path) {
  const StateDictReader reader(path);
  std::map<std::string, StorageView> storages;
  for (const PickleValue& value : pickle.values) {
    if (!value.as<PicklePersistent>()) continue;
    const StorageView storage = reader.parse_storage(&value);
    const StorageView& known = storages.emplace(storage.key, storage).first->second;
    require(known.dtype == storage.dtype && known.elements == storage.elements, Failure::weights,
            "{}: storage '{}' has {} elements of {} and {} of {}", path, storage.key,
            known.elements, name_of(known.dtype), storage.elements, name_of(storage.dtype));
  }
  return storages;
}

// The file has five pickles: magic number, protocol, system, object and keys. Then come the
// storages in the order of the keys, each as its number of elements (i64) and its bytes.
TensorFile read_legacy(Bytes bytes, const std::string& path) {
  ByteReader in(bytes, path);
  constexpr std::string_view kMagic = "\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19";
  const Pickle magic = read_pickle(in, {});
  const auto* number = magic.root->as<PickleLong>();
  in.require(number && number->bytes == kMagic, "a pickle, but not one written by torch.save");
  const Pickle protocol = read_pickle(in, {});
  const auto* version = protocol.root->as<int64_t>();
  in.require(version && *version == 1001, "torch.save's protocol is not 1001");
  const Pickle system = read_pickle(in, {});
  for (const auto& [key, value] : root_dict(system, path).items) {
    const auto* name = key->as<std::string>();
    const auto* little = value->as<bool>();
    in.require(!(name && *name == "little_endian" && little && !*little),
               "written on a big-endian machine");
  }
  const Pickle object = read_pickle(in, kAllowedGlobals);
  const PickleDict& root = root_dict(object, path);
  const std::vector<StridedTensor> tensors = find_state_dict(root, path);
  const std::map<std::string, StorageView> known = storages_of(object, path);
  const Pickle keys = read_pickle(in, {});
  const auto* list = keys.root->as<PickleList>();
  in.require(list != nullptr, "no list of storages");
  Storages storages;
  for (const PickleRef item : list->items) {
    const auto* key = item->as<std::string>();
    const auto found = key ? known.find(*key) : known.end();
    in.require(found != known.end(), "a storage that nothing refers to");
    const StorageView& storage = found->second;
    const auto count = in.read<int64_t>();
    in.require(count == storage.elements, "storage '{}' has {} elements instead of {}", *key, count,
               storage.elements);
    const Bytes data = in.take(storage.elements * size_of(storage.dtype));
    in.require(storages.emplace(*key, data).second, "storage '{}' comes twice", *key);
  }
  in.require(in.left() == 0, "{} bytes follow the last storage", in.left());
  return load(root, tensors, storages, bytes.size(), path);
}

}  // namespace

TensorFile read_pth(const std::filesystem::path& path) {
  return parse_pth(read_file(path, Failure::weights), path.string());
}

TensorFile parse_pth(Bytes bytes, const std::string& path) {
  return as_text(bytes).starts_with("PK") ? read_zip(bytes, path) : read_legacy(bytes, path);
}

}  // namespace engine
