// The project's only virtual interface: where a program runs. A backend owns its stream and its
// library handles; nothing in it knows models, data sets or the training loop. All calls of one
// backend come from one thread.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "engine/communicator.h"
#include "engine/optimizer.h"
#include "engine/program.h"
#include "kernels/image.h"

namespace engine {

// Freed by the backend that made it; the backend must outlive it.
using Memory = std::unique_ptr<std::byte, std::function<void(std::byte*)>>;

// A batch in host memory; what is null is what the slot holds already. Images, or records of the
// session's pack; mixes only in training, with SessionOptions::mixing.
struct HostBatch {
  const uint8_t* images = nullptr;  // (count, H, W, C)
  const int32_t* labels = nullptr;  // (count,)
  int count = 0;
  const ImageRecord* records = nullptr;  // (count,)
  const Mix* mixes = nullptr;            // (count,)
};

// Enqueue on the backend's stream; no allocation, no lookup by name, no shape inference.
struct StepExec {
  std::function<void()> forward, backward;
};

class Backend {
 public:
  virtual ~Backend() = default;

  virtual BackendKind kind() const = 0;
  virtual std::string description() const = 0;  // device and library versions, one line
  virtual size_t free_bytes() const = 0;        // memory a session may still allocate

  virtual Memory allocate(size_t bytes) = 0;       // 256-byte aligned, contents undefined
  virtual Memory allocate_host(size_t bytes) = 0;  // host memory, pinned where that helps uploads
  virtual void upload(void* to, const void* from,
                      size_t bytes) = 0;  // in stream order; `from` stays valid
  virtual void download(void* to, const void* from,
                        size_t bytes) = 0;         // returns when the bytes are there
  virtual void clear(void* to, size_t bytes) = 0;  // zero bytes, in stream order
  virtual void synchronize() = 0;

  // Chooses algorithms that fit the planned workspace and closes over every address. One entry per step of the graph.
  // `timed`: the fastest that the libraries suggest; else, at once, the same deterministic ones in every run.
  virtual std::vector<StepExec> prepare(const Program& program, bool timed) = 0;

  // Uploads a batch into a staging slot, beside the running step where the device can; its memory
  // may be reused when wait_uploaded(slot) returns.
  virtual void upload_batch(const Program& program, int slot, const HostBatch& batch) = 0;
  virtual void wait_uploaded(int slot) = 0;

  // The rest of a step, in stream order.
  virtual void set_params(const Program& program, const StepParams& params) = 0;
  virtual void load_images(
      const Program& program) = 0;  // staging slot → image buffer: see kernels/image.h
  virtual void update_running(const Program& program) = 0;  // once per norm, after forward
  // Sums a bucket of gradients over the ranks, beside what follows; finish_all_reduce joins.
  virtual void all_reduce(const Program& program, const Bucket& bucket) = 0;
  virtual void finish_all_reduce() = 0;
  virtual void accumulate(const Program& program) = 0;  // accumulated += gradients
  // gradients += accumulated = 0, in the bucket.
  virtual void add_accumulated(const Program& program, const Bucket& bucket) = 0;
  // Unscales, skips on overflow, clips, updates masters and storage copies, moves the averages
  // where there are any, advances the loss scale, publishes the result.
  virtual void optimizer_step(const Program& program, const OptimizerConfig& config,
                              double ema_decay) = 0;
  virtual void exchange_averages(const Program& program) = 0;  // masters and state ↔ averages
  virtual void publish(const Program& program) = 0;  // the result alone, where nothing is updated
  virtual void copy_weights(const Program& program) = 0;  // masters → storage type

  // Makes `body`'s enqueued work one launchable unit: a captured graph on CUDA, the body itself
  // elsewhere.
  virtual std::function<void()> record(const std::function<void()>& body) = 0;

  // Algorithm choices by key, for the run directory and the checkpoint; set before prepare to reuse
  // them.
  virtual std::map<std::string, std::string> algorithms() const = 0;
  virtual void set_algorithms(const std::map<std::string, std::string>& chosen) = 0;
};

struct BackendOptions {
  int device = 0;   // CUDA ordinal
  int threads = 0;  // CPU: 0 = all in the affinity mask
  Precision precision = Precision::fp32;
  Communicator communicator;
};

std::unique_ptr<Backend> make_cuda_backend(
    const BackendOptions& options);  // opens the CUDA module; throws what is missing
std::unique_ptr<Backend> make_cpu_backend(const BackendOptions& options);  // fp32
std::unique_ptr<Backend> make_reference_backend(
    const BackendOptions& options);  // fp32 or fp64, plain loops

}  // namespace engine
