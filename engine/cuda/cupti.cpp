#include "engine/cuda/cupti.h"

#include <cublasLt.h>
#include <cuda_runtime_api.h>
#include <cupti.h>
#include <cxxabi.h>
#include <dlfcn.h>
#include <fmt/format.h>

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <mutex>
#include <string>
#include <unordered_map>
#include <utility>

#include "engine/error.h"

namespace engine::cuda {

namespace {

constexpr size_t kBufferBytes = size_t{4} << 20;

// ---------------------------------------------------------------- buffers

struct Aligned {
  void operator()(uint8_t* p) const noexcept { std::free(p); }
};

struct Filled {
  std::unique_ptr<uint8_t, Aligned> memory;
  size_t bytes;
};

// Buffers that CUPTI has filled, on a thread of its own.
class Buffers {
 public:
  void add(Filled filled) {
    const std::lock_guard lock(mutex_);
    filled_.push_back(std::move(filled));
  }
  std::vector<Filled> take() {
    const std::lock_guard lock(mutex_);
    return std::exchange(filled_, {});
  }

 private:
  std::mutex mutex_;
  std::vector<Filled> filled_;
};

// CUPTI's callbacks get no argument of ours, so its buffers are found through this one place.
Buffers& buffers() {
  static Buffers all;
  return all;
}

void CUPTIAPI give_buffer(uint8_t** buffer, size_t* bytes, size_t* most_records) {
  *buffer = static_cast<uint8_t*>(std::aligned_alloc(256, kBufferBytes));
  *bytes = *buffer ? kBufferBytes : 0;
  *most_records = 0;  // as many as fit
}

void CUPTIAPI take_buffer(CUcontext, uint32_t, uint8_t* buffer, size_t, size_t filled) {
  buffers().add({std::unique_ptr<uint8_t, Aligned>(buffer), filled});
}

// ---------------------------------------------------------------- the library

// Beside cuBLASLt, which this module is linked to; then where toolkits put it.
std::vector<std::filesystem::path> folders() {
  std::vector<std::filesystem::path> found;
  Dl_info info{};
  if (dladdr(reinterpret_cast<void*>(&cublasLtGetVersion), &info) && info.dli_fname)
    found.push_back(std::filesystem::path(info.dli_fname).parent_path());
  std::vector<std::filesystem::path> toolkits;
  for (const char* variable : {"CUDA_HOME", "CUDA_PATH"})
    if (const char* value = std::getenv(variable)) toolkits.emplace_back(value);
  toolkits.emplace_back("/usr/local/cuda");
  for (const std::filesystem::path& toolkit : toolkits)
    for (const char* folder : {"extras/CUPTI/lib64", "lib64", "lib"})
      found.push_back(toolkit / folder);
  return found;
}

// The version that the headers describe: its number is that of CUDA.
void* open_library() {
  const std::string name = fmt::format("libcupti.so.{}", CUDART_VERSION / 1000);
  for (const std::filesystem::path& folder : folders())
    if (void* library = dlopen((folder / name).c_str(), RTLD_NOW | RTLD_LOCAL)) return library;
  if (void* library = dlopen(name.c_str(), RTLD_NOW | RTLD_LOCAL)) return library;
  fail(Failure::usage,
       "a profile on a GPU needs {}, which comes with CUDA (Debian: cuda-cupti-13-0, pip: "
       "nvidia-cuda-cupti); it is neither beside cuBLASLt, nor in $CUDA_HOME, nor on the system's "
       "search path, which LD_LIBRARY_PATH extends",
       name);
}

std::string spelled(const char* name) {
  if (!name) return "?";
  int status = 0;
  const std::unique_ptr<char, decltype(&std::free)> text(
      abi::__cxa_demangle(name, nullptr, nullptr, &status), &std::free);
  return status == 0 ? text.get() : name;
}

constexpr CUpti_ActivityKind kDeviceWork[] = {
    CUPTI_ACTIVITY_KIND_CONCURRENT_KERNEL, CUPTI_ACTIVITY_KIND_MEMCPY, CUPTI_ACTIVITY_KIND_MEMSET};
// Records of calls are what an external id is tied to.
constexpr CUpti_ActivityKind kCalls[] = {CUPTI_ACTIVITY_KIND_RUNTIME, CUPTI_ACTIVITY_KIND_DRIVER,
                                         CUPTI_ACTIVITY_KIND_EXTERNAL_CORRELATION};
constexpr auto kOurs = CUPTI_EXTERNAL_CORRELATION_KIND_CUSTOM0;

}  // namespace

struct CuptiLibrary {
  CuptiLibrary() : handle(open_library()) {
    load("cuptiGetResultString", result_string);
    load("cuptiActivityRegisterCallbacks", register_callbacks);
    load("cuptiActivityEnable", enable);
    load("cuptiActivityDisable", disable);
    load("cuptiActivityFlushAll", flush);
    load("cuptiActivityGetNextRecord", next_record);
    load("cuptiActivityGetNumDroppedRecords", dropped_records);
    load("cuptiActivityPushExternalCorrelationId", push_id);
    load("cuptiActivityPopExternalCorrelationId", pop_id);
  }

  template <class Function>
  void load(const char* name, Function& function) const {
    function = reinterpret_cast<Function>(dlsym(handle, name));
    require(function != nullptr, Failure::usage, "CUPTI: {}", dlerror());
  }

  void check(CUptiResult result, const char* what) const {
    if (result == CUPTI_SUCCESS) return;
    const char* why = "?";
    result_string(result, &why);
    const bool taken = result == CUPTI_ERROR_MULTIPLE_SUBSCRIBERS_NOT_SUPPORTED;
    fail(taken ? Failure::usage : Failure::internal, "CUPTI, {}: {}{}", what, why,
         taken ? "; another profiler holds it" : "");
  }

  void* handle;  // stays open: the driver keeps pointers into the library
  decltype(&cuptiGetResultString) result_string;
  decltype(&cuptiActivityRegisterCallbacks) register_callbacks;
  decltype(&cuptiActivityEnable) enable;
  decltype(&cuptiActivityDisable) disable;
  decltype(&cuptiActivityFlushAll) flush;
  decltype(&cuptiActivityGetNextRecord) next_record;
  decltype(&cuptiActivityGetNumDroppedRecords) dropped_records;
  decltype(&cuptiActivityPushExternalCorrelationId) push_id;
  decltype(&cuptiActivityPopExternalCorrelationId) pop_id;
};

namespace {

// The records of buffers, as far as they are of one device. What enqueued a record is known by the
// id of its call, and the record of the call may come later.
class Reader {
 public:
  explicit Reader(int device) : device_(device) {}

  void read(const CUpti_Activity* activity) {
    switch (activity->kind) {
      case CUPTI_ACTIVITY_KIND_CONCURRENT_KERNEL: {
        const auto& kernel = *reinterpret_cast<const CUpti_ActivityKernel10*>(activity);
        add(kernel, spelled(kernel.name));
        break;
      }
      case CUPTI_ACTIVITY_KIND_MEMCPY:
        add(*reinterpret_cast<const CUpti_ActivityMemcpy6*>(activity), "memcpy");
        break;
      case CUPTI_ACTIVITY_KIND_MEMSET:
        add(*reinterpret_cast<const CUpti_ActivityMemset4*>(activity), "memset");
        break;
      case CUPTI_ACTIVITY_KIND_EXTERNAL_CORRELATION: {
        const auto& tie = *reinterpret_cast<const CUpti_ActivityExternalCorrelation*>(activity);
        if (tie.externalKind == kOurs)
          launch_of_call_[tie.correlationId] = static_cast<int>(tie.externalId);
        break;
      }
      default: break;  // records of calls
    }
  }

  std::vector<DeviceRecord> by_start() {
    for (size_t i = 0; i < records_.size(); ++i)
      if (const auto at = launch_of_call_.find(calls_[i]); at != launch_of_call_.end())
        records_[i].launch = at->second;
    std::stable_sort(
        records_.begin(), records_.end(),
        [](const DeviceRecord& a, const DeviceRecord& b) { return a.start < b.start; });
    return std::move(records_);
  }

 private:
  void add(const auto& activity, std::string name) {
    if (static_cast<int>(activity.deviceId) != device_) return;
    records_.push_back({.name = std::move(name),
                        .start = activity.start,
                        .end = activity.end,
                        .stream = activity.streamId,
                        .captured = activity.graphNodeId != 0});
    calls_.push_back(activity.correlationId);
  }

  int device_;
  std::vector<DeviceRecord> records_;
  std::vector<uint32_t> calls_;  // per record: the call that enqueued it
  std::unordered_map<uint32_t, int> launch_of_call_;
};

}  // namespace

Cupti::Cupti() : library_(std::make_unique<CuptiLibrary>()) {
  library_->check(library_->register_callbacks(give_buffer, take_buffer), "buffers");
  for (const CUpti_ActivityKind kind : kDeviceWork)
    library_->check(library_->enable(kind), "records of the device");
}

Cupti::~Cupti() {
  for (const CUpti_ActivityKind kind : kDeviceWork) library_->disable(kind);
  library_->flush(CUPTI_ACTIVITY_FLAG_FLUSH_FORCED);
  buffers().take();
}

void Cupti::name_launches(bool on) {
  for (const CUpti_ActivityKind kind : kCalls)
    library_->check(on ? library_->enable(kind) : library_->disable(kind), "records of calls");
}

void Cupti::begin_launch(int launch) {
  library_->check(library_->push_id(kOurs, static_cast<uint64_t>(launch)), "a launch begins");
}

void Cupti::end_launch() {
  uint64_t launch = 0;
  library_->check(library_->pop_id(kOurs, &launch), "a launch ends");
}

std::vector<DeviceRecord> Cupti::take(int device) {
  library_->check(library_->flush(CUPTI_ACTIVITY_FLAG_FLUSH_FORCED), "flush");
  size_t dropped = 0;
  library_->check(library_->dropped_records(nullptr, 0, &dropped), "dropped records");
  require(dropped == 0, Failure::internal, "CUPTI dropped {} records", dropped);
  Reader reader(device);
  for (const Filled& buffer : buffers().take()) {
    CUpti_Activity* activity = nullptr;
    while (library_->next_record(buffer.memory.get(), buffer.bytes, &activity) == CUPTI_SUCCESS)
      reader.read(activity);
  }
  return reader.by_start();
}

}  // namespace engine::cuda
