#include "io/weights/pth.h"

#include <map>

#include "io/files/bytes.h"
#include "io/weights/zip.h"

namespace engine {
namespace {

// Views that overlap or repeat may describe more than a file holds; this is how much more.
constexpr uint64_t kMostExpansion = 4, kSmallFile = 1 << 20;

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
  const auto bytes = static_cast<int64_t>(tensor.storage.element_bytes);
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
  dense.dtype = *tensor.storage.dtype;
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

TensorFile load(const StateDict& state, const Storages& storages, uint64_t file_bytes,
                const std::string& path) {
  const uint64_t limit = std::max(file_bytes, kSmallFile) * kMostExpansion;
  uint64_t total = 0;
  TensorFile file;
  for (const StridedTensor& tensor : state.tensors) {
    const uint64_t bytes = *bytes_of(tensor.shape, *tensor.storage.dtype);
    require(bytes <= limit - total, Failure::weights,
            "{}: tensor '{}' of {} bytes: a file of {} bytes must not describe more than {}", path,
            tensor.name, bytes, file_bytes, limit);
    total += bytes;
    const auto storage = storages.find(tensor.storage.key);
    const uint64_t expected = tensor.storage.elements * tensor.storage.element_bytes;
    require(storage != storages.end() && storage->second.size() == expected, Failure::weights,
            "{}: tensor '{}': storage '{}' is missing or does not have {} bytes", path, tensor.name,
            tensor.storage.key, expected);
    file.tensors.emplace(tensor.name, make_dense(tensor, storage->second));
  }
  if (!state.arch.empty()) file.metadata["arch"] = state.arch;
  return file;
}

TensorFile read_zip(Bytes bytes, const std::string& path, const ReadOptions& options) {
  const ZipArchive archive(bytes, path);
  const std::string stem = archive.stem_of("data.pkl");
  if (const std::string order = stem + "/byteorder"; archive.contains(order))
    require(as_text(archive.read(order)) == "little", Failure::weights,
            "{}: written on a big-endian machine", path);
  ByteReader in(archive.read(stem + "/data.pkl"), path + ": data.pkl");
  const Pickle pickle = read_pickle(in);
  const StateDict state = find_state_dict(pickle, options, path);
  Storages storages;
  for (const StridedTensor& tensor : state.tensors) {
    const std::string& key = tensor.storage.key;
    if (!storages.contains(key)) storages[key] = archive.read(fmt::format("{}/data/{}", stem, key));
  }
  return load(state, storages, bytes.size(), path);
}

void check_byte_order(const Pickle& system, const ByteReader& in) {
  const auto* facts = system.root->as<PickleDict>();
  in.require(facts != nullptr, "no facts of the system");
  for (const auto& [key, value] : facts->items) {
    const auto* name = key->as<std::string>();
    const auto* little = value->as<bool>();
    in.require(!(name && *name == "little_endian" && little && !*little),
               "written on a big-endian machine");
  }
}

// The storages in the order of `keys`, each as its number of elements (i64) and its bytes. Their
// element types are known only from what refers to them.
Storages read_storages(ByteReader& in, const Pickle& keys,
                       const std::map<std::string, StorageView>& known) {
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
    const Bytes data = in.take(storage.elements * storage.element_bytes);
    in.require(storages.emplace(*key, data).second, "storage '{}' comes twice", *key);
  }
  in.require(in.left() == 0, "{} bytes follow the last storage", in.left());
  return storages;
}

// The file has five pickles: magic number, protocol, system, object and keys. Then come the
// storages.
TensorFile read_legacy(Bytes bytes, const std::string& path, const ReadOptions& options) {
  ByteReader in(bytes, path);
  constexpr std::string_view kMagic = "\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19";
  const Pickle magic = read_pickle(in);
  const auto* number = magic.root->as<PickleLong>();
  in.require(number && number->bytes == kMagic, "a pickle, but not one written by torch.save");
  const Pickle protocol = read_pickle(in);
  const auto* version = protocol.root->as<int64_t>();
  in.require(version && *version == 1001, "torch.save's protocol is not 1001");
  check_byte_order(read_pickle(in), in);
  const Pickle object = read_pickle(in);
  const StateDict state = find_state_dict(object, options, path);
  const Pickle keys = read_pickle(in);
  return load(state, read_storages(in, keys, storages_of(object, path)), bytes.size(), path);
}

}  // namespace

TensorFile read_pth(const std::filesystem::path& path, const ReadOptions& options) {
  return parse_pth(read_file(path, Failure::weights), path.string(), options);
}

TensorFile parse_pth(Bytes bytes, const std::string& path, const ReadOptions& options) {
  return as_text(bytes).starts_with("PK") ? read_zip(bytes, path, options)
                                          : read_legacy(bytes, path, options);
}

}  // namespace engine
