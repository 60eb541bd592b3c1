// The CUDA backend: one device, its streams and library handles, and the step outside the layers.
#include "engine/backend.h"

#include <algorithm>
#include <array>
#include <exception>
#include <map>
#include <memory>
#include <thread>

#include "engine/cuda/capture.h"
#include "engine/cuda/context.h"
#include "engine/cuda/module.h"
#include "engine/cuda/nccl.h"
#include "engine/cuda/prepare.h"
#include "engine/cuda/storage.h"
#include "engine/cuda/sync_norms.h"
#include "engine/step_launches.h"
#include "engine/sync_norms.h"
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

// Runs `work`; whatever fails in it, a kernel launch included, is reported with the step's name.
void in_step(const std::string& name, const std::function<void()>& work) {
  try {
    work();
    check(cudaPeekAtLastError());
  } catch (const Error& e) {
    fail(e.kind, "{}: {}", name, e.what());
  }
}

void name_after(const std::string& step, Launches& launches) {
  for (Launch& launch : launches)
    launch.enqueue = [name = fmt::format("{}, {}", step, launch.kernel),
                      enqueue = std::move(launch.enqueue)] { in_step(name, enqueue); };
}

// ---------------------------------------------------------------- the backend

class CudaBackend final : public Backend {
 public:
  explicit CudaBackend(const BackendOptions& options);
  ~CudaBackend() override;

  const BackendInfo& info() const override { return info_; }
  size_t free_bytes() const override;
  Cuda& gpu() { return gpu_; }

  Memory allocate(size_t bytes) override;
  Memory allocate_host(size_t bytes) override;
  void upload(void* to, const void* from, size_t bytes) override;
  void download(void* to, const void* from, size_t bytes) override;
  void clear(void* to, size_t bytes) override;
  void synchronize() override { sum_.wait(stream()); }

  Prepared prepare(const Program& program, const PrepareOptions& options) override;

  void upload_batch(const Program& program, int slot, const HostBatch& batch) override;
  void wait_uploaded(int slot) override;
  void set_params(const Program& program, const StepParams& params) override;

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
  template <class T>
  void prepare_around(Prepared& prepared, const Program& program, const PrepareOptions& options);
  template <class T>
  Launches prepare_update(const Program& program, const PrepareOptions& options);
  void prepare_reduce(Prepared& prepared, const Program& program, const PrepareOptions& options);
  Launches prepare_running(const Program& program, bool shared);
  BucketFormat bucket_format(Precision precision, const std::vector<Bucket>& buckets);
  Launch clear_launch(Untyped arena, size_t bytes);
  void release(std::byte* memory, cudaError_t (*free)(void*));
  void drop(const GraphExec* graph) noexcept;
  void give_up() noexcept;

  Cuda gpu_;
  GradientSum sum_;
  Captures captures_;
  std::array<Slot, kSlots> slots_;
  int active_slot_ = kNone;  // read by the step that was started last
  Memory pinned_params_;
  std::array<ParamUpload, kResults> param_uploads_;
  int next_params_ = 0;
  // Buckets cast to 16 bits; what a recorded step uses stays when a larger one is needed.
  std::vector<Memory> travelling_;
  size_t travelling_bytes_ = 0;  // of the last
  BackendInfo info_;
};

std::string describe(int device) {
  int driver = 0;
  check(cudaDriverGetVersion(&driver));
  return fmt::format("{}, driver for CUDA {}.{}, {}", devices()[device].name, driver / 1000,
                     driver % 1000 / 10, versions());
}

CudaBackend::CudaBackend(const BackendOptions& options)
    : gpu_(options.device),
      sum_(options.communicator),
      captures_(stream()),
      pinned_params_(allocate_host(sizeof(StepParams) * kResults)),
      info_{BackendKind::cuda, describe(options.device), options.communicator.ranks(),
            kernels::device_limits()} {
  auto* params = reinterpret_cast<StepParams*>(pinned_params_.get());
  for (ParamUpload& upload : param_uploads_) upload.params = params++;
}

// Nothing may be in flight when handles and buffers go.
CudaBackend::~CudaBackend() {
  if (std::uncaught_exceptions() == 0) cudaDeviceSynchronize();
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
  return Memory(static_cast<std::byte*>(memory), [this](std::byte* p) { release(p, cudaFree); });
}

// Visible to kernels at the same address: result rings live here too.
Memory CudaBackend::allocate_host(size_t bytes) {
  void* memory = nullptr;
  check(cudaHostAlloc(&memory, bytes, cudaHostAllocPortable | cudaHostAllocMapped));
  return Memory(static_cast<std::byte*>(memory),
                [this](std::byte* p) { release(p, cudaFreeHost); });
}

// To free memory CUDA waits for the device, which after a failure may wait for other ranks.
void CudaBackend::release(std::byte* memory, cudaError_t (*free)(void*)) {
  if (sum_.met() && std::uncaught_exceptions() > 0) give_up();
  free(memory);
}

// NCCL waits for the graphs that hold sums, and a graph that runs for its sums: both are ended side
// by side.
void CudaBackend::give_up() noexcept {
  const std::jthread ending([this] {
    cudaSetDevice(gpu_.device);
    sum_.abort();
  });
  captures_.destroy();
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

Prepared CudaBackend::prepare(const Program& program, const PrepareOptions& options) {
  gpu_.algorithms.begin(options.timed);
  Prepared prepared;
  visit_storage(program.precision(),
                [&]<class T>() { prepare_around<T>(prepared, program, options); });
  const std::vector<Step>& steps = program.graph.steps;
  for (int i = 0; program.batch() > 0 && i < static_cast<int>(steps.size()); ++i)
    in_step(name_of(steps[i]), [&] {
      prepared.steps.push_back(std::visit(
          [&](const auto& step) { return cuda::prepare(gpu_, program, i, step); }, steps[i]));
    });
  if (shares_statistics(program, options, info_.ranks))
    share_norms(prepared.steps, program, *this, sum_, stream());
  for (size_t i = 0; i < prepared.steps.size(); ++i) {
    name_after(name_of(steps[i]), prepared.steps[i].forward);
    name_after(name_of(steps[i]) + ", backward", prepared.steps[i].backward);
    name_after(name_of(steps[i]) + ", again", prepared.steps[i].again);
  }
  gpu_.algorithms.end();
  return prepared;
}

// Everything beside the layers.
template <class T>
void CudaBackend::prepare_around(Prepared& p, const Program& program,
                                 const PrepareOptions& options) {
  const Arenas& a = program.arenas;
  const ParameterLayout& layout = program.plan.layout;
  const cudaStream_t s = stream();
  if (program.batch() > 0)
    p.images.push_back(images_launch(
        program, [to = program.output<T>(program.graph.image).y, view = program.images(), s] {
          kernels::Images<T>::load(to, view, s);
        }));
  p.publish.push_back(
      finish_step_launch([a, s] { kernels::finish_step(a.scale, a.results, a.params, false, s); }));
  if (!weights_are_masters(program.precision()))
    p.copy_weights.push_back(copy_weights_launch(program, [a, n = layout.trained, s] {
      kernels::Casts<T>::from_float(a.weights.as<T>(), a.parameters.as<float>(), n, s);
    }));
  if (a.ema_parameters)
    p.exchange_averages.push_back(
        exchange_averages_launch(program, [a, trained = layout.trained, state = layout.state, s] {
          kernels::exchange(a.parameters.as<float>(), a.ema_parameters.as<float>(), trained, s);
          kernels::exchange(a.state.as<float>(), a.ema_state.as<float>(), state, s);
        }));
  for (int i = 0; options.marks && i < static_cast<int>(Mark::end); ++i) {
    const Mark mark{static_cast<uint8_t>(i)};
    p.marks[i].push_back(
        mark_launch(mark, [a, mark, s] { kernels::note_time(a.results, a.params, mark, s); }));
  }
  if (program.training()) {
    p.clear.push_back(clear_launch(a.channels, channel_bytes(program)));
    p.clear.push_back(clear_launch(a.gradients, gradient_bytes(program)));
    const bool shared = shares_statistics(program, options, info_.ranks);
    if ((shared || program.batch() > 0) && program.batch_statistics())
      p.running = prepare_running(program, shared);
    prepare_reduce(p, program, options);
    p.update = prepare_update<T>(program, options);
  }
  for (Launches* launches : {&p.images, &p.publish, &p.copy_weights, &p.exchange_averages,
                             &p.running, &p.accumulate, &p.update})
    name_after(program.graph.model, *launches);
}

Launch CudaBackend::clear_launch(Untyped arena, size_t bytes) {
  return engine::clear_launch(bytes, [this, arena, bytes] { clear(arena.at, bytes); });
}

void CudaBackend::prepare_reduce(Prepared& p, const Program& program,
                                 const PrepareOptions& options) {
  check_buckets(options.buckets, program.precision(), info_.kind);
  const Arenas& a = program.arenas;
  const cudaStream_t s = stream();
  const BucketFormat format = bucket_format(options.buckets, program.plan.buckets);
  for (const Bucket& bucket : program.plan.buckets) {
    float* gradients = a.gradients.as<float>() + bucket.first;
    float* sums = a.accumulated ? a.accumulated.as<float>() + bucket.first : nullptr;
    p.add_accumulated.emplace_back();
    if (sums)
      p.add_accumulated.back().push_back(add_accumulated_launch(
          bucket, sizeof(float),
          [=, n = bucket.elements] { kernels::add_accumulated(gradients, sums, n, s); }));
    p.reduce.emplace_back();
    if (info_.ranks > 1)
      p.reduce.back().push_back(reduce_launch(
          bucket, info_.ranks,
          [=, this, n = bucket.elements, mark = a.collectives + p.reduce.size() - 1,
           params = a.params] { sum_.start(gradients, n, format, mark, params, s); }));
  }
  if (info_.ranks > 1) p.finish_reduce.push_back(finish_reduce_launch([this, s] { sum_.join(s); }));
  if (a.accumulated)
    p.accumulate.push_back(accumulate_launch(program, [a, n = program.plan.layout.trained, s] {
      kernels::accumulate(a.accumulated.as<float>(), a.gradients.as<float>(), n, s);
    }));
}

// The scratch is the backend's: buckets, of whichever program, travel one after the other.
BucketFormat CudaBackend::bucket_format(Precision precision, const std::vector<Bucket>& buckets) {
  if (info_.ranks == 1 || precision == Precision::fp32) return {};
  int64_t largest = 0;
  for (const Bucket& bucket : buckets) largest = std::max(largest, bucket.elements);
  const size_t bytes = storage_size(precision) * static_cast<size_t>(largest);
  if (bytes > travelling_bytes_) {
    travelling_.push_back(allocate(bytes));
    travelling_bytes_ = bytes;
  }
  return {precision, travelling_.back().get()};
}

template <class T>
Launches CudaBackend::prepare_update(const Program& program, const PrepareOptions& options) {
  const Arenas& a = program.arenas;
  const ParameterLayout& layout = program.plan.layout;
  const kernels::GroupTable groups{a.group_of, a.groups};
  const kernels::UpdateArrays<T> arrays{
      .weights = a.parameters.as<float>(),
      .moments = a.moments.as<float>(),
      .copies = weights_are_masters(program.precision()) ? nullptr : a.weights.as<T>(),
      .averages = a.ema_parameters.as<float>(),
      .gradients = a.gradients.as<float>()};
  const cudaStream_t s = stream();
  Launches launches;
  launches.push_back(gradient_norm_launch(program, [=, n = layout.trained] {
    kernels::gradient_norm(a.scale, a.norm_partials, arrays.gradients, groups, n, s);
  }));
  launches.push_back(update_launch(program, options.optimizer, [=, n = layout.trained] {
    visit_update(options.optimizer, [&]<class Step>(const Step& step) {
      kernels::Update<T, Step>::run(arrays, groups, n, a.params, a.scale, step,
                                    options.optimizer.clip_norm, options.ema_decay, s);
    });
  }));
  if (a.ema_state)
    launches.push_back(average_launch(program, [=, n = layout.state] {
      kernels::average(a.ema_state.as<float>(), a.state.as<float>(), n, a.scale, options.ema_decay,
                       s);
    }));
  launches.push_back(
      finish_step_launch([a, s] { kernels::finish_step(a.scale, a.results, a.params, true, s); }));
  return launches;
}

// The launch owns the table of norms that the kernel reads; `shared`: their statistics are those of
// all ranks.
Launches CudaBackend::prepare_running(const Program& program, bool shared) {
  std::vector<kernels::RunningNorm> entries;
  int most = 0;
  const Graph& graph = program.graph;
  for (int n = 0; n < static_cast<int>(graph.norms.size()); ++n) {
    const Norm& norm = graph.norms[n];
    const Operand normed{.at = norm.at, .norm = n};
    const OperandView<float> view = program.operand<float>(normed);
    entries.push_back({.running_mean = program.master<float>(norm.running_mean),
                       .running_var = program.master<float>(norm.running_var),
                       .mean = view.norm.mean,
                       .var = view.norm.var,
                       .channels = view.channels,
                       .pixels = view.height * view.width,
                       .images = shared ? 0 : view.batch,
                       .momentum = static_cast<float>(norm.momentum)});
    most = std::max(most, view.channels);
  }
  Launches launches;
  if (entries.empty()) return launches;
  const size_t bytes = entries.size() * sizeof(kernels::RunningNorm);
  const std::shared_ptr<std::byte> table = allocate(bytes);
  upload(table.get(), entries.data(), bytes);
  synchronize();
  launches.push_back(running_launch(program, [table, count = static_cast<int>(entries.size()), most,
                                              params = program.arenas.params, s = stream()] {
    kernels::update_running(reinterpret_cast<const kernels::RunningNorm*>(table.get()), count, most,
                            params, s);
  }));
  return launches;
}

std::function<void()> CudaBackend::record(const std::function<void()>& body) {
  const int64_t sums_before = sum_.started();
  const GraphExec* kept = captures_.record(body);
  const bool collective = sum_.started() > sums_before;
  const std::shared_ptr<const GraphExec> graph(kept, [this](auto* at) { drop(at); });
  return [this, graph, collective] {
    if (collective) sum_.meet();
    check(cudaGraphLaunch(graph->get(), stream()));
  };
}

// To destroy a graph that runs CUDA waits for its end, which after a failure may never come.
void CudaBackend::drop(const GraphExec* graph) noexcept {
  if (sum_.met() && std::uncaught_exceptions() > 0) give_up();
  captures_.drop(graph);
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
  copy(arenas.labels + first, batch.labels.classes, batch.count);
  const size_t row = size_t(program.graph.classes());
  copy(arenas.presence + first * row, batch.labels.labels, batch.count * row);
  copy(arenas.records + first, batch.records, batch.count);
  copy(arenas.mixes + first, batch.mixes, batch.count);
  check(cudaEventRecord(s.uploaded.get(), copies));
}

void CudaBackend::wait_uploaded(int slot) {
  sum_.wait(slots_[slot].uploaded.get());
}

// Starts a step: what is enqueued before it was the last to read the slot of the step before.
void CudaBackend::set_params(const Program& program, const StepParams& params) {
  if (active_slot_ != kNone) check(cudaEventRecord(slots_[active_slot_].read.get(), stream()));
  active_slot_ = static_cast<int>(params.slot);
  check(cudaStreamWaitEvent(stream(), slots_[active_slot_].uploaded.get(), 0));
  ParamUpload& next = param_uploads_[next_params_];
  next_params_ = (next_params_ + 1) % kResults;
  sum_.wait(next.copied.get());
  *next.params = params;
  upload(program.arenas.params, next.params, sizeof params);
  check(cudaEventRecord(next.copied.get(), stream()));
}

Backend* make_backend(const BackendOptions& options) {
  visit_storage(options.precision, []<class T>() {});  // refuses what CUDA does not have
  return std::make_unique<CudaBackend>(options).release();
}

constexpr Module kModule{make_backend,     devices,    versions,   time_kernels,
                         measure_ceilings, open_trace, trace_step, in_range};

}  // namespace

Cuda& cuda_of(Backend& backend) {
  return static_cast<CudaBackend&>(backend).gpu();
}

}  // namespace engine::cuda

extern "C" const engine::cuda::Module* engine_cuda_module() {
  return &engine::cuda::kModule;
}
