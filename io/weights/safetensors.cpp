#include "io/weights/safetensors.h"

#include <algorithm>
#include <array>
#include <nlohmann/json.hpp>
#include <unordered_set>

#include "io/files/atomic_file.h"
#include "io/files/bytes.h"
#include "io/files/json.h"

namespace engine {
namespace {

using nlohmann::json;

constexpr uint64_t kLargestHeader = 100'000'000;  // the format's own limit
constexpr size_t kDeepest = 3;                    // the file's object, a tensor's, its arrays
constexpr size_t kMostTokens = 2'500'000;         // enough for some 200,000 tensors
constexpr std::array kTypes = {DType::f32, DType::f16, DType::bf16, DType::f64,
                               DType::i64, DType::i32, DType::u8,   DType::boolean};

struct Entry {
  std::string name;
  DType dtype;
  Shape shape;
  uint64_t begin, end;  // from the start of the data
};

// The parser alone has no limits and keeps the last of several equal keys; here both are errors. A
// pass of its own: a parser with a callback looks at all members again for each that ends.
class HeaderRules : public JsonListener {
 public:
  explicit HeaderRules(const std::string& path) : path_(path) {}

  void open() override {
    require(keys_.size() < kDeepest, Failure::weights, "{}: header nests deeper than {}", path_,
            kDeepest);
    keys_.emplace_back();
    value();
  }
  void close() override { keys_.pop_back(); }
  void key(const std::string& name) override {
    require(keys_.back().insert(name).second, Failure::weights, "{}: '{}' appears twice", path_,
            name);
    value();
  }
  void value() override {
    require(++tokens_ <= kMostTokens, Failure::weights, "{}: header has more than {} JSON tokens",
            path_, kMostTokens);
  }

 private:
  const std::string& path_;
  std::vector<std::unordered_set<std::string>> keys_;  // of the objects and arrays that are open
  size_t tokens_ = 0;
};

json parse_header(std::string_view text, const std::string& path) {
  require(text.starts_with('{'), Failure::weights, "{}: header does not start with '{{'", path);
  HeaderRules rules(path);
  walk_json(text, rules, Failure::weights, path + ": header is not valid JSON");
  return parse_json<json>(text, Failure::weights, path);
}

uint64_t unsigned_number(const json& value, const std::string& path, const std::string& name) {
  require(value.is_number_unsigned() && value.get<uint64_t>() <= INT64_MAX, Failure::weights,
          "{}: tensor '{}': {} is not a size", path, name, print_json(value));
  return value.get<uint64_t>();
}

DType dtype_named(std::string_view dtype, const std::string& path, const std::string& name) {
  const auto found = std::ranges::find(kTypes, dtype, name_of);
  require(found != kTypes.end(), Failure::weights,
          "{}: tensor '{}': element type '{}' is not supported", path, name, dtype);
  return *found;
}

Entry parse_entry(const std::string& name, const json& value, const std::string& path) {
  require(value.is_object() && value.size() == 3 && value.contains("dtype") &&
              value["dtype"].is_string() && value.contains("shape") && value["shape"].is_array() &&
              value.contains("data_offsets") && value["data_offsets"].is_array() &&
              value["data_offsets"].size() == 2,
          Failure::weights, "{}: tensor '{}': wants exactly dtype, shape and two data_offsets",
          path, name);
  Entry entry = {.name = name,
                 .dtype = dtype_named(value["dtype"].get_ref<const std::string&>(), path, name),
                 .begin = unsigned_number(value["data_offsets"][0], path, name),
                 .end = unsigned_number(value["data_offsets"][1], path, name)};
  for (const json& dim : value["shape"])
    entry.shape.push_back(static_cast<int64_t>(unsigned_number(dim, path, name)));
  const std::optional<uint64_t> bytes = bytes_of(entry.shape, entry.dtype);
  require(bytes && entry.begin <= entry.end && *bytes == entry.end - entry.begin, Failure::weights,
          "{}: tensor '{}': {} {} does not fill bytes {} to {}", path, name, name_of(entry.dtype),
          to_string(entry.shape), entry.begin, entry.end);
  return entry;
}

void read_metadata(const json& value, TensorFile& file, const std::string& path) {
  require(value.is_object(), Failure::weights, "{}: __metadata__ is no object", path);
  for (const auto& [key, text] : value.items()) {
    require(text.is_string(), Failure::weights, "{}: metadata '{}' is no string", path, key);
    file.metadata.emplace(key, text.get<std::string>());
  }
}

// Each tensor must begin where the one before ends, and the last must end with the file.
void require_gapless(std::vector<Entry>& entries, uint64_t data_bytes, const std::string& path) {
  std::ranges::sort(entries, {}, [](const Entry& e) { return std::pair(e.begin, e.end); });
  uint64_t reached = 0;
  for (const Entry& e : entries) {
    require(e.begin == reached, Failure::weights,
            "{}: tensor '{}' begins at byte {} of the data, the one before ends at {}", path,
            e.name, e.begin, reached);
    reached = e.end;
  }
  require(reached == data_bytes, Failure::weights,
          "{}: tensors end at byte {} of the data, the file has {}", path, reached, data_bytes);
}

std::vector<const std::pair<const std::string, Tensor>*> in_file_order(const TensorFile& file) {
  std::vector<const std::pair<const std::string, Tensor>*> order;
  for (const auto& named : file.tensors) order.push_back(&named);
  std::ranges::stable_sort(order, std::greater{},
                           [](const auto* named) { return size_of(named->second.dtype); });
  return order;
}

}  // namespace

TensorFile read_safetensors(const std::filesystem::path& path) {
  return parse_safetensors(read_file(path, Failure::weights), path.string());
}

TensorFile parse_safetensors(Bytes bytes, const std::string& path) {
  ByteReader in(bytes, path);
  const uint64_t header_bytes = in.read<uint64_t>();
  in.require(header_bytes <= kLargestHeader,
             "no safetensors file: a header of {} bytes, the format allows {}", header_bytes,
             kLargestHeader);
  const json header = parse_header(as_text(in.take(header_bytes)), path);
  TensorFile file;
  std::vector<Entry> entries;
  for (const auto& [name, value] : header.items()) {
    if (name == "__metadata__") {
      read_metadata(value, file, path);
    } else {
      entries.push_back(parse_entry(name, value, path));
    }
  }
  require_gapless(entries, in.left(), path);
  for (Entry& e : entries) {
    Tensor tensor;
    tensor.dtype = e.dtype;
    tensor.shape = std::move(e.shape);
    const Bytes data = in.take(e.end - e.begin);
    tensor.bytes.assign(data.begin(), data.end());
    file.tensors.emplace(std::move(e.name), std::move(tensor));
  }
  return file;
}

void write_safetensors(const std::filesystem::path& path, const TensorFile& file) {
  const auto order = in_file_order(file);
  json header = {{"__metadata__", file.metadata}};
  header["__metadata__"]["format"] = "pt";
  uint64_t offset = 0;
  for (const auto* named : order) {
    const auto& [name, tensor] = *named;
    const uint64_t end = offset + tensor.bytes.size();
    header[name] = {
        {"dtype", name_of(tensor.dtype)}, {"shape", tensor.shape}, {"data_offsets", {offset, end}}};
    offset = end;
  }
  std::string text =
      print_utf8_json(header, Failure::weights, path.string() + ": cannot write the header");
  text.resize((text.size() + 7) / 8 * 8, ' ');  // aligns the data to 8 bytes
  require(text.size() <= kLargestHeader, Failure::weights,
          "{}: header of {} bytes, the format allows {}", path.string(), text.size(),
          kLargestHeader);
  const uint64_t length = text.size();
  std::vector<Bytes> parts = {std::as_bytes(std::span(&length, 1)), as_bytes(text)};
  for (const auto* named : order) parts.push_back(named->second.bytes);
  write_file_atomically(path, parts);
}

}  // namespace engine
