// Python pickles, read as data. The reader builds a description of what is written. It never calls,
// imports or constructs anything: a call that a pickle asks for becomes a PickleCall.
#pragma once

#include <cstdint>
#include <deque>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

#include "io/files/bytes.h"

namespace engine {

struct PickleValue;
// Lives as long as its Pickle, and may be part of a cycle.
using PickleRef = const PickleValue*;

struct PickleNone {};
struct PickleLong {
  std::string bytes;  // a number of more than 64 bits in two's complement, little-endian
};
struct PickleGlobal {
  std::string name;  // "torch.FloatStorage"
};
struct PickleTuple {
  std::vector<PickleRef> items;
};
struct PickleList {
  std::vector<PickleRef> items;
};
struct PickleDict {
  std::vector<std::pair<PickleRef, PickleRef>> items;  // in the order written
};
struct PickleCall {
  std::string callee;
  PickleRef arguments;  // a PickleTuple
};
struct PicklePersistent {
  PickleRef id;
};
struct PickleValue {
  std::variant<PickleNone, bool, int64_t, double, std::string, PickleLong, PickleGlobal,
               PickleTuple, PickleList, PickleDict, PickleCall, PicklePersistent>
      is;

  template <class T>
  const T* as() const {
    return std::get_if<T>(&is);
  }
};

struct Pickle {
  std::deque<PickleValue> values;  // owns everything, at stable addresses
  PickleRef root = nullptr;
};

// Reads one pickle of protocols 2 to 5, up to and including its STOP. A global that is not in
// `allowed` is an Error(weights). OrderedDict and defaultdict become PickleDict; attributes that
// BUILD sets are dropped.
Pickle read_pickle(ByteReader& in, std::span<const std::string_view> allowed);

}  // namespace engine
