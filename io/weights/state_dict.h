// From a pickle of torch.save to the tensors that it describes: which of its dicts are weights, and
// where each tensor lies in which storage. The storages themselves are the container's (pth.cpp).
#pragma once

#include <functional>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "io/weights/pickle.h"

namespace engine {

// What the caller of a reader wants, and hears.
struct ReadOptions {
  std::string key;  // the member that holds the weights; empty: by rule
  std::function<void(const std::string&)> say = [](const std::string&) {};  // one line, no newline
};

// The elements of a storage; no `dtype`: they are of a type that no weights have.
struct StorageView {
  std::string key;
  size_t element_bytes = 0;
  std::optional<DType> dtype;
  int64_t elements = 0;             // in the whole storage
  int64_t offset = 0, visible = 0;  // in elements; storages of old files may be views of others
};

struct StridedTensor {
  std::string_view name;  // as the pickle has it
  StorageView storage;
  Shape shape, stride;  // checked: inside the storage
  int64_t offset = 0;   // elements
};

struct StateDict {
  std::vector<StridedTensor> tensors;  // one per name, sorted; as in Python the last one counts
  std::string arch;                    // the text `arch` beside it
};

// The weights are the first of `state_dict_ema`, `model_ema`, `ema`, `params_ema`, `state_dict`,
// `model`, `model_state_dict`, `net`, `params` and `weights` that is a dict with tensors, else the
// dict itself; with `options.key` they are that member. If there is a choice, what is taken is
// said, and so is what is passed over: tensors of other element types, objects that are none.
// Anything malformed is an Error(weights) that begins with `path`; a key that is not there is an
// Error(usage).
StateDict find_state_dict(const Pickle& pickle, const ReadOptions& options,
                          const std::string& path);

// Every storage that the pickle refers to, by its key.
std::map<std::string, StorageView> storages_of(const Pickle& pickle, const std::string& path);

}  // namespace engine
