// The CUDA backend: one device, its streams and library handles, and the step outside the layers.
#include "engine/backend.h"

#include <algorithm>
#include <array>
#include <exception>
#include <map>
#include <memory>

#include "engine/cuda/context.h"
#include "engine/cuda/module.h"
#include "engine/cuda/nccl.h"
#include "engine/cuda/prepare.h"
#include "engine/cuda/storage.h"
#include "kernels/kernels.h"

namespace engine::cuda {

namespace {

constexpr double kMiB = 1 << 20;

// "13.0" of 13000, "9.19.0" of 91900: every library packs its version in its own way.
std::string versions() {
  int runtime = 0, nccl = 0;
  check(cudaRuntimeGetVersion(&runtime));
  check(ncclGetVersion(&nccl));
  const size_t dnn = cudnnGetVersion(), blas = cublasLtGetVersion();
  return fmt::format("CUDA {}.{}, cuDNN {}.{}.{}, cuBLASLt {}.{}.{}, NCCL {}.{}.{}", runtime / 1000,
                     runtime % 1000 / 10, dnn / 10000, dnn % 10000 / 100, dnn % 100, blas / 10000,
                     blas % 10000 / 100, blas % 100, nccl / 10000, nccl % 10000 / 100, nccl % 100);
}

std::vector<GpuInfo> devices() {
  int count = 0;
  if (cudaGetDeviceCount(&count) != cudaSuccess) return {};
  std::vector<GpuInfo> found;
  for (int device = 0; device < count; ++device) {
    cudaDeviceProp properties{};
    check(cudaGetDeviceProperties(&properties, device));
    char bus_id[32] = {};
    check(cudaDeviceGetPCIBusId(bus_id, sizeof bus_id, device));
    found.push_back(
        {properties.name, properties.totalGlobalMem, properties.major, properties.minor, bus_id});
  }
  return found;
}

int select_device(int device) {
  int count = 0;
  const cudaError_t found = cudaGetDeviceCount(&count);
  require(found == cudaSuccess, Failure::usage, "--device cuda: {}", cudaGetErrorString(found));
  require(device >= 0 && device < count, Failure::usage,
          "--device cuda: GPU {} was asked for, this machine has {}", device, count);
  check(cudaSetDevice(device));
  return device;
}

// Runs `work`; whatever fails in it, a kernel launch included, is reported with the step's name.
void in_step(const std::string& name, const std::function<void()>& work) {
  try {
    work();
    check(cudaPeekAtLastError());
  } catch (const Error& e) {
    fail(e.kind, "{}: {}", name, e.what());
  }
}

std::function<void()> named(const std::string& name, std::function<void()> work) {
  if (!work) return {};
  return [name, work = std::move(work)] { in_step(name, work); };
}

// ---------------------------------------------------------------- capture

CapturedGraph capture(cudaStream_t stream, const std::function<void()>& body) {
  // Thread-local: other ranks of this process allocate and capture as they like.
  check(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal));
  cudaGraph_t graph = nullptr;
  try {
    body();
  } catch (...) {
    cudaStreamEndCapture(stream, &graph);
    const CapturedGraph unfinished(graph);
    throw;
  }
  check(cudaStreamEndCapture(stream, &graph));
  return CapturedGraph(graph);
}

std::shared_ptr<CUgraphExec_st> instantiate(const CapturedGraph& graph, cudaStream_t stream) {
  cudaGraphExec_t instance = nullptr;
  check(cudaGraphInstantiate(&instance, graph.get(), 0ull));
  GraphExec exec(instance);
  check(cudaGraphUpload(exec.get(), stream));
  check(cudaStreamSynchronize(stream));
  return exec;
}

// ---------------------------------------------------------------- the backend

// Norms of one program as the kernel wants them.
struct NormTable {
  Memory entries;
  int count = 0, max_channels = 0;
};

class CudaBackend final : public Backend {
 public:
  explicit CudaBackend(const BackendOptions& options);
  ~CudaBackend() override;

  BackendKind kind() const override { return BackendKind::cuda; }
  std::string description() const override;
  size_t free_bytes() const override;

  Memory allocate(size_t bytes) override;
  Memory allocate_host(size_t bytes) override;
  void upload(void* to, const void* from, size_t bytes) override;
  void download(void* to, const void* from, size_t bytes) override;
  void clear(void* to, size_t bytes) override;
  void synchronize() override { check(cudaStreamSynchronize(stream())); }

  std::vector<StepExec> prepare(const Program& program, bool timed) override;

  void upload_batch(const Program& program, int slot, const HostBatch& batch) override;
  void wait_uploaded(int slot) override;

  void set_params(const Program& program, const StepParams& params) override;
  void load_images(const Program& program) override;
  void update_running(const Program& program) override;
  void all_reduce(const Program& program, const Bucket& bucket) override;
  void finish_all_reduce() override { sum_.join(stream()); }
  void accumulate(const Program& program) override;
  void add_accumulated(const Program& program, const Bucket& bucket) override;
  void optimizer_step(const Program& program, const OptimizerConfig& config,
                      double ema_decay) override;
  void exchange_averages(const Program& program) override;
  void publish(const Program& program) override { finish_step(program, false); }
  void copy_weights(const Program& program) override;

  std::function<void()> record(const std::function<void()>& body) override;

  std::map<std::string, std::string> algorithms() const override {
    return gpu_.algorithms.chosen();
  }
  void set_algorithms(const std::map<std::string, std::string>& chosen) override {
    gpu_.algorithms.set(chosen);
  }

 private:
  // A staging slot: its upload, and the last step that read it.
  struct Slot {
    Event uploaded = make_event(), read = make_event();
  };
  // Parameters on their way to the device.
  struct ParamUpload {
    StepParams* params = nullptr;  // pinned
    Event copied = make_event();
  };

  cudaStream_t stream() const { return gpu_.stream.get(); }
  NormTable make_norm_table(const Program& program);
  template <class T>
  void update(const Program& program, const OptimizerConfig& config, double ema_decay);
  void finish_step(const Program& program, bool updated);

  Cuda gpu_;
  GradientSum sum_;
  std::array<Slot, kSlots> slots_;
  int active_slot_ = kNone;  // read by the step that was started last
  Memory pinned_params_;
  std::array<ParamUpload, kResults> param_uploads_;
  int next_params_ = 0;
  std::map<const Program*, NormTable> norms_;
};

CudaBackend::CudaBackend(const BackendOptions& options)
    : gpu_(options.device),
      sum_(options.communicator),
      pinned_params_(allocate_host(sizeof(StepParams) * kResults)) {
  auto* params = reinterpret_cast<StepParams*>(pinned_params_.get());
  for (ParamUpload& upload : param_uploads_) upload.params = params++;
}

// Nothing may be in flight when handles and buffers go.
CudaBackend::~CudaBackend() {
  if (std::uncaught_exceptions() == 0) cudaDeviceSynchronize();
}

std::string CudaBackend::description() const {
  int driver = 0;
  check(cudaDriverGetVersion(&driver));
  return fmt::format("{}, driver for CUDA {}.{}, {}", devices()[gpu_.device].name, driver / 1000,
                     driver % 1000 / 10, versions());
}

size_t CudaBackend::free_bytes() const {
  size_t free = 0, total = 0;
  check(cudaMemGetInfo(&free, &total));
  return free;
}

// ---------------------------------------------------------------- memory

Memory CudaBackend::allocate(size_t bytes) {
  void* memory = nullptr;
  const cudaError_t e = cudaMalloc(&memory, bytes);
  if (e == cudaErrorMemoryAllocation) {
    (void)cudaGetLastError();  // reported here, not by the next launch
    fail(Failure::memory, "{:.0f} MiB do not fit GPU {}, which has {:.0f} MiB left", bytes / kMiB,
         gpu_.device, free_bytes() / kMiB);
  }
  check(e);
  return Memory(static_cast<std::byte*>(memory), [](std::byte* p) { cudaFree(p); });
}

// Visible to kernels at the same address: result rings live here too.
Memory CudaBackend::allocate_host(size_t bytes) {
  void* memory = nullptr;
  check(cudaHostAlloc(&memory, bytes, cudaHostAllocPortable | cudaHostAllocMapped));
  return Memory(static_cast<std::byte*>(memory), [](std::byte* p) { cudaFreeHost(p); });
}

void CudaBackend::upload(void* to, const void* from, size_t bytes) {
  check(cudaMemcpyAsync(to, from, bytes, cudaMemcpyHostToDevice, stream()));
}

void CudaBackend::download(void* to, const void* from, size_t bytes) {
  check(cudaMemcpyAsync(to, from, bytes, cudaMemcpyDeviceToHost, stream()));
  synchronize();
}

void CudaBackend::clear(void* to, size_t bytes) {
  if (bytes > 0) check(cudaMemsetAsync(to, 0, bytes, stream()));
}

// ---------------------------------------------------------------- programs

std::vector<StepExec> CudaBackend::prepare(const Program& program, bool timed) {
  gpu_.algorithms.begin(timed);
  if (program.training()) norms_[&program] = make_norm_table(program);
  std::vector<StepExec> steps;
  for (size_t i = 0; i < program.graph.steps.size(); ++i) {
    const std::string& name = name_of(program.graph.steps[i]);
    StepExec step;
    in_step(name, [&] { step = prepare_step(gpu_, program, static_cast<int>(i)); });
    steps.push_back({.forward = named(name, std::move(step.forward)),
                     .backward = named(name + ", backward", std::move(step.backward))});
  }
  gpu_.algorithms.end();
  return steps;
}

NormTable CudaBackend::make_norm_table(const Program& program) {
  std::vector<kernels::RunningNorm> entries;
  NormTable table;
  const Graph& graph = program.graph;
  for (int n = 0; n < static_cast<int>(graph.norms.size()); ++n) {
    const Norm& norm = graph.norms[n];
    const Operand normed{.at = norm.at, .norm = n};
    const OperandView<float> view = program.operand<float>(normed);
    const auto count = static_cast<float>(view.pixels());
    entries.push_back({.running_mean = program.master<float>(norm.running_mean),
                       .running_var = program.master<float>(norm.running_var),
                       .mean = view.norm.mean,
                       .var = view.norm.var,
                       .channels = view.channels,
                       .momentum = static_cast<float>(norm.momentum),
                       .unbias = count > 1 ? count / (count - 1) : 1});
    table.max_channels = std::max(table.max_channels, view.channels);
  }
  if (entries.empty()) return table;
  table.count = static_cast<int>(entries.size());
  const size_t bytes = entries.size() * sizeof(kernels::RunningNorm);
  table.entries = allocate(bytes);
  upload(table.entries.get(), entries.data(), bytes);
  synchronize();
  return table;
}

std::function<void()> CudaBackend::record(const std::function<void()>& body) {
  const int64_t sums_before = sum_.started();
  const auto exec = instantiate(capture(stream(), body), stream());
  const bool collective = sum_.started() > sums_before;
  return [this, exec, collective] {
    if (collective) sum_.meet();
    check(cudaGraphLaunch(exec.get(), stream()));
  };
}

// ---------------------------------------------------------------- batches

void CudaBackend::upload_batch(const Program& program, int slot, const HostBatch& batch) {
  Slot& s = slots_[slot];
  const cudaStream_t copies = gpu_.copies.get();
  if (slot == active_slot_) check(cudaEventRecord(s.read.get(), stream()));
  check(cudaStreamWaitEvent(copies, s.read.get(), 0));
  const Arenas& arenas = program.arenas;
  const Buffer& image = program.graph.buffers[program.graph.image.buffer];
  const size_t size = size_t(image.height) * image.width * image.channels;
  const size_t first = size_t(slot) * program.slot_capacity;
  const auto copy = [&](auto* to, const auto* from, size_t elements) {
    if (from)
      check(cudaMemcpyAsync(to, from, elements * sizeof *from, cudaMemcpyHostToDevice, copies));
  };
  copy(arenas.images + first * size, batch.images, batch.count * size);
  copy(arenas.labels + first, batch.labels, batch.count);
  copy(arenas.records + first, batch.records, batch.count);
  copy(arenas.mixes + first, batch.mixes, batch.count);
  check(cudaEventRecord(s.uploaded.get(), copies));
}

void CudaBackend::wait_uploaded(int slot) {
  check(cudaEventSynchronize(slots_[slot].uploaded.get()));
}

// Starts a step: what is enqueued before it was the last to read the slot of the step before.
void CudaBackend::set_params(const Program& program, const StepParams& params) {
  if (active_slot_ != kNone) check(cudaEventRecord(slots_[active_slot_].read.get(), stream()));
  active_slot_ = static_cast<int>(params.slot);
  check(cudaStreamWaitEvent(stream(), slots_[active_slot_].uploaded.get(), 0));
  ParamUpload& next = param_uploads_[next_params_];
  next_params_ = (next_params_ + 1) % kResults;
  check(cudaEventSynchronize(next.copied.get()));
  *next.params = params;
  upload(program.arenas.params, next.params, sizeof params);
  check(cudaEventRecord(next.copied.get(), stream()));
}

// ---------------------------------------------------------------- the step around the layers

void CudaBackend::load_images(const Program& program) {
  visit_storage(program.precision(), [&]<class T>() {
    kernels::load_images(program.output<T>(program.graph.image).y, program.images(), stream());
  });
  check(cudaPeekAtLastError());
}

void CudaBackend::update_running(const Program& program) {
  const NormTable& table = norms_.at(&program);
  if (table.count == 0) return;
  kernels::update_running(reinterpret_cast<const kernels::RunningNorm*>(table.entries.get()),
                          table.count, table.max_channels, stream());
  check(cudaPeekAtLastError());
}

void CudaBackend::all_reduce(const Program& program, const Bucket& bucket) {
  float* gradients = reinterpret_cast<float*>(program.arenas.gradients) + bucket.first;
  sum_.start(gradients, bucket.elements, stream());
}

void CudaBackend::accumulate(const Program& program) {
  const Arenas& a = program.arenas;
  kernels::accumulate(reinterpret_cast<float*>(a.accumulated),
                      reinterpret_cast<const float*>(a.gradients), program.plan.layout.trained,
                      stream());
  check(cudaPeekAtLastError());
}

void CudaBackend::add_accumulated(const Program& program, const Bucket& bucket) {
  const Arenas& a = program.arenas;
  kernels::add_accumulated(reinterpret_cast<float*>(a.gradients) + bucket.first,
                           reinterpret_cast<float*>(a.accumulated) + bucket.first, bucket.elements,
                           stream());
  check(cudaPeekAtLastError());
}

void CudaBackend::optimizer_step(const Program& program, const OptimizerConfig& config,
                                 double ema_decay) {
  const Arenas& a = program.arenas;
  const ParameterLayout& layout = program.plan.layout;
  kernels::gradient_norm(a.scale, a.norm_partials, reinterpret_cast<const float*>(a.gradients),
                         {a.group_of, a.groups}, layout.trained, stream());
  visit_storage(program.precision(), [&]<class T>() { update<T>(program, config, ema_decay); });
  if (a.ema_state)
    kernels::average(reinterpret_cast<float*>(a.ema_state), reinterpret_cast<const float*>(a.state),
                     layout.state, a.scale, ema_decay, stream());
  finish_step(program, true);
}

template <class T>
void CudaBackend::update(const Program& program, const OptimizerConfig& config, double ema_decay) {
  const Arenas& a = program.arenas;
  const kernels::UpdateArrays<T> arrays{.weights = reinterpret_cast<float*>(a.parameters),
                                        .moments = reinterpret_cast<float*>(a.moments),
                                        .copies = weights_are_masters(program.precision())
                                                      ? nullptr
                                                      : reinterpret_cast<T*>(a.weights),
                                        .averages = reinterpret_cast<float*>(a.ema_parameters),
                                        .gradients = reinterpret_cast<const float*>(a.gradients)};
  visit_update(config, [&](const auto& step) {
    kernels::update(arrays, {a.group_of, a.groups}, program.plan.layout.trained, a.params, a.scale,
                    step, config.clip_norm, ema_decay, stream());
  });
}

void CudaBackend::exchange_averages(const Program& program) {
  const Arenas& a = program.arenas;
  const ParameterLayout& layout = program.plan.layout;
  kernels::exchange(reinterpret_cast<float*>(a.parameters),
                    reinterpret_cast<float*>(a.ema_parameters), layout.trained, stream());
  kernels::exchange(reinterpret_cast<float*>(a.state), reinterpret_cast<float*>(a.ema_state),
                    layout.state, stream());
  check(cudaPeekAtLastError());
}

void CudaBackend::finish_step(const Program& program, bool updated) {
  const Arenas& a = program.arenas;
  kernels::finish_step(a.scale, a.results, a.params, updated, stream());
  check(cudaPeekAtLastError());
}

void CudaBackend::copy_weights(const Program& program) {
  if (weights_are_masters(program.precision())) return;
  visit_storage(program.precision(), [&]<class T>() {
    kernels::cast(reinterpret_cast<T*>(program.arenas.weights),
                  reinterpret_cast<const float*>(program.arenas.parameters),
                  program.plan.layout.trained, stream());
  });
  check(cudaPeekAtLastError());
}

Backend* make_backend(const BackendOptions& options) {
  visit_storage(options.precision, []<class T>() {});  // refuses what CUDA does not have
  return std::make_unique<CudaBackend>(options).release();
}

constexpr Module kModule{make_backend, devices, versions, time_kernels};

}  // namespace

Cuda::Cuda(int device)
    : device(select_device(device)),
      stream(create<Stream>(cudaStreamCreateWithFlags, cudaStreamNonBlocking)),
      copies(create<Stream>(cudaStreamCreateWithFlags, cudaStreamNonBlocking)),
      dnn(create<Cudnn>(cudnnCreate)),
      blaslt(create<CublasLt>(cublasLtCreate)),
      algorithms(stream.get()) {
  check(cudnnSetStream(dnn.get(), stream.get()));
}

}  // namespace engine::cuda

extern "C" const engine::cuda::Module* engine_cuda_module() {
  return &engine::cuda::kModule;
}
