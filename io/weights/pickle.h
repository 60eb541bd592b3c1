// Python pickles, read as data. The reader builds a description of what is written and never calls,
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
using PickleRef = const PickleValue*;  // lives as long as its Pickle; may be part of a cycle

struct PickleNone {};
struct PickleLong {
  std::string bytes;  // more than 64 bits; two's complement, little-endian
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
  std::deque<PickleValue> values;  // owns everything; addresses are stable
  PickleRef root = nullptr;
};

// Reads one pickle, protocols 2 to 5, up to and with its STOP. Globals outside `allowed` are an
// error. OrderedDict and defaultdict become PickleDict; attributes set by BUILD are dropped.
Pickle read_pickle(ByteReader& in, std::span<const std::string_view> allowed);

}  // namespace engine
