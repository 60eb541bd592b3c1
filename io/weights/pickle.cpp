#include "io/weights/pickle.h"

#include <bit>
#include <unordered_map>

namespace engine {
namespace {

// A value takes up to 90 bytes, though one of the file may stand for it; a tensor takes about 20.
constexpr size_t kMostOpcodes = 4'000'000, kMostValues = 1'000'000, kMostMemos = 1'000'000;

enum Opcode : uint8_t {
  kMark = '(',
  kStop = '.',
  kPop = '0',
  kPopMark = '1',
  kDup = '2',
  kBinFloat = 'G',
  kBinInt = 'J',
  kBinInt1 = 'K',
  kBinInt2 = 'M',
  kPushNone = 'N',
  kBinPersistentId = 'Q',
  kReduce = 'R',
  kBinString = 'T',
  kShortBinString = 'U',
  kBinUnicode = 'X',
  kAppend = 'a',
  kBuild = 'b',
  kGlobal = 'c',
  kAppends = 'e',
  kBinGet = 'h',
  kLongBinGet = 'j',
  kBinPut = 'q',
  kLongBinPut = 'r',
  kSetItem = 's',
  kTuple = 't',
  kSetItems = 'u',
  kEmptyList = ']',
  kEmptyDict = '}',
  kEmptyTuple = ')',
  kBinBytes = 'B',
  kShortBinBytes = 'C',
  kProtocol = 0x80,
  kNewObject = 0x81,
  kTuple1 = 0x85,
  kTuple2 = 0x86,
  kTuple3 = 0x87,
  kTrue = 0x88,
  kFalse = 0x89,
  kLong1 = 0x8a,
  kLong4 = 0x8b,
  kShortBinUnicode = 0x8c,
  kBinUnicode8 = 0x8d,
  kBinBytes8 = 0x8e,
  kEmptySet = 0x8f,
  kAddItems = 0x90,
  kFrozenSet = 0x91,
  kNewObjectWithNames = 0x92,
  kStackGlobal = 0x93,
  kMemoize = 0x94,
  kFrame = 0x95,
  kByteArray8 = 0x96,
};

class PickleReader {
 public:
  explicit PickleReader(ByteReader& in) : in_(in) {}

  Pickle read() {
    for (size_t count = 0;; ++count) {
      in_.require(count < kMostOpcodes, "more than {} pickle opcodes", kMostOpcodes);
      const auto opcode = in_.read<uint8_t>();
      if (opcode == kStop) break;
      if (!read_scalar(opcode) && !read_container(opcode) && !read_memo(opcode) &&
          !read_object(opcode))
        in_.require(false, "pickle opcode 0x{:02x} is not one that weight files need", opcode);
    }
    pickle_.root = pop();
    in_.require(stack_.empty() && marks_.empty(), "the pickle leaves {} values", stack_.size());
    return std::move(pickle_);
  }

 private:
  bool read_scalar(uint8_t opcode) {
    switch (opcode) {
      case kPushNone: push(PickleNone{}); return true;
      case kTrue: push(true); return true;
      case kFalse: push(false); return true;
      case kBinInt: push(int64_t{in_.read<int32_t>()}); return true;
      case kBinInt1: push(int64_t{in_.read<uint8_t>()}); return true;
      case kBinInt2: push(int64_t{in_.read<uint16_t>()}); return true;
      case kLong1: push_long(in_.take(in_.read<uint8_t>())); return true;
      case kLong4: push_long(in_.take(in_.read<uint32_t>())); return true;
      case kBinFloat:  // the only big-endian value
        push(std::bit_cast<double>(__builtin_bswap64(in_.read<uint64_t>())));
        return true;
      case kShortBinString:
      case kShortBinBytes:
      case kShortBinUnicode: push_text(in_.read<uint8_t>()); return true;
      case kBinString:
      case kBinBytes:
      case kBinUnicode: push_text(in_.read<uint32_t>()); return true;
      case kBinUnicode8:
      case kBinBytes8:
      case kByteArray8: push_text(in_.read<uint64_t>()); return true;
      default: return false;
    }
  }

  bool read_container(uint8_t opcode) {
    switch (opcode) {
      case kMark: marks_.push_back(stack_.size()); return true;
      case kPop: pop(); return true;
      case kPopMark: pop_to_mark(); return true;
      case kDup: stack_.push_back(top()); return true;
      case kEmptyList:
      case kEmptySet: push(PickleList{}); return true;
      case kFrozenSet: push(PickleList{pop_to_mark()}); return true;
      case kEmptyDict: push(PickleDict{}); return true;
      case kEmptyTuple: push(PickleTuple{}); return true;
      case kTuple1: push(PickleTuple{pop_many(1)}); return true;
      case kTuple2: push(PickleTuple{pop_many(2)}); return true;
      case kTuple3: push(PickleTuple{pop_many(3)}); return true;
      case kTuple: push(PickleTuple{pop_to_mark()}); return true;
      case kAppend: append(pop_many(1)); return true;
      case kAppends:
      case kAddItems: append(pop_to_mark()); return true;
      case kSetItem: set_items(pop_many(2)); return true;
      case kSetItems: set_items(pop_to_mark()); return true;
      default: return false;
    }
  }

  bool read_memo(uint8_t opcode) {
    switch (opcode) {
      case kBinPut: remember(in_.read<uint8_t>()); return true;
      case kLongBinPut: remember(in_.read<uint32_t>()); return true;
      case kMemoize: remember(static_cast<uint32_t>(memo_.size())); return true;
      case kBinGet: recall(in_.read<uint8_t>()); return true;
      case kLongBinGet: recall(in_.read<uint32_t>()); return true;
      default: return false;
    }
  }

  bool read_object(uint8_t opcode) {
    switch (opcode) {
      case kProtocol: check_protocol(in_.read<uint8_t>()); return true;
      case kFrame: in_.take(8); return true;
      case kGlobal: {
        const std::string_view module = in_.line();
        push(PickleGlobal{module, in_.line()});
        return true;
      }
      case kStackGlobal: {
        const std::vector<PickleValue*> names = pop_values(2);
        push(PickleGlobal{text_of(names[0]), text_of(names[1])});
        return true;
      }
      case kNewObjectWithNames:
        pop();
        call();
        return true;
      case kReduce:
      case kNewObject: call(); return true;
      case kBuild: build(); return true;
      case kBinPersistentId: push(PicklePersistent{pop()}); return true;
      default: return false;
    }
  }

  template <class T>
  void push(T value) {
    in_.require(pickle_.values.size() < kMostValues, "more than {} pickle values", kMostValues);
    stack_.push_back(&pickle_.values.emplace_back(PickleValue{std::move(value)}));
  }

  void push_text(uint64_t bytes) { push(std::string(as_text(in_.take(bytes)))); }

  void push_long(Bytes digits) {
    if (digits.size() > sizeof(int64_t)) return push(PickleLong{std::string(as_text(digits))});
    uint64_t value = 0;
    for (size_t i = 0; i < digits.size(); ++i)
      value |= std::to_integer<uint64_t>(digits[i]) << (8 * i);
    const int unused = 64 - 8 * static_cast<int>(digits.size());  // the top bits repeat the sign
    push(digits.empty() ? int64_t{0} : static_cast<int64_t>(value << unused) >> unused);
  }

  const std::string& text_of(PickleRef value) const {
    const auto* text = value->as<std::string>();
    in_.require(text != nullptr, "a name is no text");
    return *text;
  }

  // The last `count` values above the last mark.
  std::vector<PickleValue*> pop_values(size_t count) {
    const size_t floor = marks_.empty() ? 0 : marks_.back();
    in_.require(stack_.size() - floor >= count, "the pickle's stack has {} values, {} are needed",
                stack_.size() - floor, count);
    std::vector<PickleValue*> popped(stack_.end() - count, stack_.end());
    stack_.resize(stack_.size() - count);
    return popped;
  }

  std::vector<PickleRef> pop_many(size_t count) {
    const std::vector<PickleValue*> popped = pop_values(count);
    return {popped.begin(), popped.end()};
  }

  PickleValue* pop() { return pop_values(1).front(); }

  std::vector<PickleRef> pop_to_mark() {
    in_.require(!marks_.empty(), "the pickle's stack has no mark");
    std::vector<PickleRef> popped = pop_many(stack_.size() - marks_.back());
    marks_.pop_back();
    return popped;
  }

  PickleValue* top() {
    PickleValue* value = pop();
    stack_.push_back(value);
    return value;
  }

  // Null where an object of another class is on top.
  template <class T>
  T* top_or_foreign(const char* expected) {
    PickleValue* value = top();
    T* typed = std::get_if<T>(&value->is);
    in_.require(typed || value->as<PickleCall>(), "the pickle's stack has no {} on top", expected);
    return typed;
  }

  void append(const std::vector<PickleRef>& added) {
    if (auto* list = top_or_foreign<PickleList>("list"))
      list->items.insert(list->items.end(), added.begin(), added.end());
  }

  void set_items(const std::vector<PickleRef>& added) {
    in_.require(added.size() % 2 == 0, "a key without a value");
    auto* dict = top_or_foreign<PickleDict>("dict");
    if (dict == nullptr) return;
    for (size_t i = 0; i < added.size(); i += 2) dict->items.emplace_back(added[i], added[i + 1]);
  }

  void remember(uint32_t index) {
    in_.require(memo_.size() < kMostMemos, "more than {} memos", kMostMemos);
    memo_[index] = top();
  }

  void recall(uint32_t index) {
    const auto found = memo_.find(index);
    in_.require(found != memo_.end(), "memo {} was never written", index);
    stack_.push_back(found->second);
  }

  void check_protocol(uint8_t version) const {
    in_.require(version >= 2 && version <= 5, "pickle protocol {}, 2 to 5 are known", version);
  }

  void call() {
    const std::vector<PickleRef> parts = pop_many(2);
    const auto* global = parts[0]->as<PickleGlobal>();
    const auto* made = parts[0]->as<PickleCall>();  // what another call gave, as getattr does
    const auto* arguments = parts[1]->as<PickleTuple>();
    in_.require((global || made) && arguments, "a call without a name or without arguments");
    const PickleGlobal& callee = global ? *global : made->callee;
    const bool collection = callee.module == "collections";
    if (collection && callee.name == "OrderedDict") {
      push(dict_of(*arguments));
    } else if (collection && callee.name == "defaultdict") {
      push(PickleDict{});
    } else {
      push(PickleCall{callee, parts[1]});
    }
  }

  // OrderedDict(), or Python 2's OrderedDict([[key, value], …]).
  PickleDict dict_of(const PickleTuple& arguments) {
    if (arguments.items.empty()) return {};
    const auto* pairs = arguments.items[0]->as<PickleList>();
    in_.require(pairs != nullptr, "an OrderedDict of something that is no list");
    copied_ += pairs->items.size();  // one list may be named by many calls
    in_.require(copied_ <= kMostOpcodes, "more than {} items of OrderedDicts", kMostOpcodes);
    PickleDict dict;
    for (const PickleRef pair : pairs->items) {
      const auto* list = pair->as<PickleList>();
      const auto* tuple = pair->as<PickleTuple>();
      in_.require((list && list->items.size() == 2) || (tuple && tuple->items.size() == 2),
                  "an OrderedDict with an item that is no pair");
      const std::vector<PickleRef>& items = list ? list->items : tuple->items;
      dict.items.emplace_back(items[0], items[1]);
    }
    return dict;
  }

  // BUILD sets attributes (a state dict's _metadata, a Namespace's values), on which no tensor
  // depends.
  void build() {
    pop();
    const PickleValue* target = top();
    in_.require(target->as<PickleDict>() || target->as<PickleCall>(),
                "attributes for something that is no object");
  }

  ByteReader& in_;
  Pickle pickle_;
  std::vector<PickleValue*> stack_;
  std::vector<size_t> marks_;  // stack heights
  std::unordered_map<uint32_t, PickleValue*> memo_;
  size_t copied_ = 0;
};

}  // namespace

Pickle read_pickle(ByteReader& in) {
  return PickleReader(in).read();
}

}  // namespace engine
