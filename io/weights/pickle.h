// Python pickles, read as data. The reader builds a description of what is written. It never calls,
// imports or constructs anything: a call that a pickle asks for becomes a PickleCall.
#pragma once

#include <cstdint>
#include <deque>
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
  std::string_view module, name;  // "torch", "FloatStorage"; they lie where they were read
};
struct PickleTuple {
  std::vector<PickleRef> items;
};
struct PickleList {
  std::vector<PickleRef> items;  // of a set, too
};
struct PickleDict {
  std::vector<std::pair<PickleRef, PickleRef>> items;  // in the order written
};
struct PickleCall {
  PickleGlobal callee;
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

// Reads one pickle of protocols 2 to 5, up to and including its STOP; the bytes must outlive it.
// What repeats is kept once, so that its size follows from that of the bytes. OrderedDict and
// defaultdict become PickleDict. Any other class or function is a name: its calls and objects
// become PickleCalls, and what is set in them afterwards is dropped.
Pickle read_pickle(ByteReader& in);

}  // namespace engine
