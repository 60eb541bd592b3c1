// The project's only virtual interface: where a program runs. A backend owns its stream and its
// library handles; nothing in it knows models, data sets or the training loop. All calls of one
// backend come from one thread.
#pragma once

#include <array>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "engine/communicator.h"
#include "engine/launch.h"
#include "engine/optimizer.h"
#include "engine/program.h"
#include "kernels/image.h"
#include "kernels/targets.h"

namespace engine {

// A batch in host memory: images, or records of the session's pack. A null pointer leaves what the
// slot holds. Mixes are for training alone, with SessionOptions::mixing.
struct HostBatch {
  const uint8_t* images = nullptr;  // (count, H, W, C)
  Targets labels;                   // of the session's task
  int count = 0;
  const ImageRecord* records = nullptr;  // (count,)
  const Mix* mixes = nullptr;            // (count,)
};

// The options of a session that decide how a program is prepared.
struct PrepareOptions {
  bool timed = true;   // choose the fastest form and algorithm; else the same ones in every run
  bool marks = false;  // note the time at every Mark
  // Batch statistics, and the sums of their gradients, are those of all ranks' images.
  bool sync_norms = false;
  Precision buckets = Precision::fp32;  // in which gradients travel: fp32, fp16 or bf16
  OptimizerConfig optimizer;
  double ema_decay = 0;
};

// Every launch of a program, by the part of a step that it belongs to; the session puts them in
// order. A list is empty where the program has nothing of that kind to do.
struct Prepared {
  std::array<Launches, kMarks> marks;     // by Mark; empty without PrepareOptions::marks
  Launches images;                        // staging slot → image buffer: see kernels/image.h
  Launches clear;                         // the gradients and the buffers' sums = 0
  std::vector<StepExec> steps;            // one per step of the graph; none in a batch of 0
  Launches running;                       // moves the running statistics, once per norm
  std::vector<Launches> reduce;           // per bucket: starts its sum over the ranks
  Launches finish_reduce;                 // joins all of them
  std::vector<Launches> add_accumulated;  // per bucket: gradients += accumulated; accumulated = 0
  Launches accumulate;                    // accumulated += gradients
  // Unscales, skips on overflow, clips, updates masters and storage copies, moves the averages
  // where there are any, advances the loss scale, publishes the result.
  Launches update;
  Launches publish;            // the result alone, where nothing is updated
  Launches copy_weights;       // masters → storage type
  Launches exchange_averages;  // masters and state ↔ averages
};

struct BackendInfo {
  BackendKind kind = BackendKind::reference;
  std::string description;  // device and library versions, one line
  int ranks = 1;            // of its communicator
  DeviceLimits limits;
};

class Backend {
 public:
  virtual ~Backend() = default;

  virtual const BackendInfo& info() const = 0;
  virtual size_t free_bytes() const = 0;  // memory that a session may still allocate

  virtual Memory allocate(size_t bytes) = 0;       // 256-byte aligned, contents undefined
  virtual Memory allocate_host(size_t bytes) = 0;  // host memory, pinned where that helps uploads
  // Copies in stream order; `from` stays valid until then.
  virtual void upload(void* to, const void* from, size_t bytes) = 0;
  virtual void download(void* to, const void* from, size_t bytes) = 0;  // returns when it is done
  virtual void clear(void* to, size_t bytes) = 0;                       // to zero, in stream order
  virtual void synchronize() = 0;

  // Chooses forms and algorithms that fit the planned workspace and closes over every address.
  // Program and backend must outlive what it returns. Throws Error(memory) where not even one fits.
  virtual Prepared prepare(const Program& program, const PrepareOptions& options) = 0;

  // Uploads a batch into a staging slot, beside the running step where the device can. The batch's
  // memory may be reused when wait_uploaded(slot) returns.
  virtual void upload_batch(const Program& program, int slot, const HostBatch& batch) = 0;
  virtual void wait_uploaded(int slot) = 0;
  virtual void set_params(const Program& program, const StepParams& params) = 0;  // starts a step

  // Makes `body`'s enqueued work one launchable unit: a captured graph on CUDA, the body itself
  // elsewhere.
  virtual std::function<void()> record(const std::function<void()>& body) = 0;

  // The choices of forms and algorithms by key, for the run directory and the checkpoint. What is
  // set before prepare is used again.
  virtual std::map<std::string, std::string> algorithms() const = 0;
  virtual void set_algorithms(const std::map<std::string, std::string>& chosen) = 0;
};

struct BackendOptions {
  int device = 0;   // CUDA: which GPU
  int threads = 0;  // CPU: threads of this rank; 0: as many as the affinity mask has cores
  Precision precision = Precision::fp32;
  Communicator communicator;
};

// Opens the CUDA module; throws Error(usage), saying what is missing, where it cannot.
std::unique_ptr<Backend> make_cuda_backend(const BackendOptions& options);
// Computes in fp32; throws Error(usage) for any other precision.
std::unique_ptr<Backend> make_cpu_backend(const BackendOptions& options);
// Computes by plain loops, in fp32 or fp64; throws Error(usage) for any other precision.
std::unique_ptr<Backend> make_reference_backend(const BackendOptions& options);

}  // namespace engine
