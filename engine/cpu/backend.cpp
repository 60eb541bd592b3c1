// The CPU backend: fp32, host memory, an own number of threads. Everything runs when it is called.
#include "engine/backend.h"

#include <sys/sysinfo.h>

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstring>
#include <fstream>
#include <new>

#include "engine/cpu/onednn.h"
#include "engine/cpu/rows.h"
#include "engine/cpu/steps.h"
#include "engine/cpu/threads.h"
#include "engine/error.h"
#include "kernels/update.h"

namespace engine {
namespace {

using cpu::Share;
using cpu::share_of;

std::string cpu_model() {
  std::ifstream info("/proc/cpuinfo");
  for (std::string line; std::getline(info, line);)
    if (line.starts_with("model name")) return line.substr(line.find(':') + 2);
  return "unknown CPU";
}

class CpuBackend final : public Backend {
 public:
  explicit CpuBackend(const BackendOptions& options)
      : threads_(options.threads), communicator_(options.communicator) {}

  BackendKind kind() const override { return BackendKind::cpu; }
  std::string description() const override {
    const dnnl_version_t& v = *dnnl_version();
    return fmt::format("{}, {} thread{}, {}, oneDNN {}.{}.{}", cpu_model(), threads_.count(),
                       threads_.count() == 1 ? "" : "s", cpu::row_kernels().name, v.major, v.minor,
                       v.patch);
  }
  // What the kernel says can be had without swapping.
  size_t free_bytes() const override {
    std::ifstream info("/proc/meminfo");
    for (std::string line; std::getline(info, line);)
      if (line.starts_with("MemAvailable:")) return std::stoull(line.substr(13)) << 10;
    struct sysinfo now {};
    sysinfo(&now);
    return size_t{now.freeram} * now.mem_unit;
  }

  Memory allocate(size_t bytes) override {
    constexpr auto kAlign = std::align_val_t{256};
    return {static_cast<std::byte*>(::operator new(std::max<size_t>(bytes, 1), kAlign)),
            [](std::byte* p) { ::operator delete(p, kAlign); }};
  }
  Memory allocate_host(size_t bytes) override { return allocate(bytes); }
  void upload(void* to, const void* from, size_t bytes) override { std::memcpy(to, from, bytes); }
  void download(void* to, const void* from, size_t bytes) override { std::memcpy(to, from, bytes); }
  void clear(void* to, size_t bytes) override { std::memset(to, 0, bytes); }
  void synchronize() override {}

  std::vector<StepExec> prepare(const Program& program, bool) override {
    std::vector<StepExec> execs;
    for (const Step& step : program.graph.steps)
      execs.push_back(std::visit(
          [&](const auto& s) {
            return cpu::prepare(threads_, program, static_cast<int>(execs.size()), s);
          },
          step));
    return execs;
  }

  void upload_batch(const Program& program, int slot, const uint8_t* images, const int32_t* labels,
                    int count) override {
    const Buffer& b = program.graph.buffers[program.graph.image.buffer];
    const int64_t bytes = int64_t{b.height} * b.width * b.channels,
                  first = int64_t{slot} * program.slot_capacity;
    if (images) std::memcpy(program.arenas.images + first * bytes, images, count * bytes);
    if (labels) std::copy_n(labels, count, program.arenas.labels + first);
  }
  void wait_uploaded(int) override {}
  void set_params(const Program& program, const StepParams& params) override {
    *program.arenas.params = params;
  }

  void load_images(const Program& program) override {
    const auto image = program.output<float>(program.graph.image);
    const int64_t floats = int64_t{image.height} * image.width * image.channels;
    const uint8_t* slot = program.arenas.images +
                          int64_t{program.arenas.params->slot} * program.slot_capacity * floats;
    const Normalisation& n = program.normalisation;
    threads_.run(threads_.count(), [&](int worker) {
      const Share pixels = share_of(image.pixels(), worker, threads_.count());
      for (int64_t p = pixels.first; p < pixels.last; ++p)
        for (int c = 0; c < image.channels; ++c) {
          const int64_t i = p * image.channels + c;
          image.y[i] = (static_cast<float>(slot[i]) / 255.f - n.mean[c]) / n.std[c];
        }
    });
  }

  void update_running(const Program& program) override {
    for (const Norm& norm : program.graph.norms) {
      const auto now = program.output<float>(norm.at);
      float* mean = program.master<float>(norm.running_mean);
      float* var = program.master<float>(norm.running_var);
      const double count = static_cast<double>(now.pixels());
      const float unbias = count > 1 ? static_cast<float>(count / (count - 1)) : 1.f;
      for (int c = 0; c < now.channels; ++c) {
        mean[c] += norm.momentum * (now.mean[c] - mean[c]);
        var[c] += norm.momentum * (unbias * now.var[c] - var[c]);
      }
    }
  }

  void all_reduce(const Program& program, const Bucket& bucket) override {
    float* gradients = reinterpret_cast<float*>(program.arenas.gradients);
    communicator_.group->sum(
        communicator_.rank,
        std::span<float>(gradients + bucket.first, static_cast<size_t>(bucket.elements)));
  }
  void finish_all_reduce() override {}

  void optimizer_step(const Program& program, const OptimizerConfig& config) override {
    ScaleState& scale = *program.arenas.scale;
    scale.found_inf = scale.dynamic && !finite(program);
    if (!scale.found_inf) update(program, config);
    finish_step(program, true);
  }
  void publish(const Program& program) override { finish_step(program, false); }
  void copy_weights(const Program&) override {}  // the masters are the weights

  std::function<void()> record(const std::function<void()>& body) override { return body; }
  std::map<std::string, std::string> algorithms() const override {
    return {{"cpu threads", std::to_string(threads_.count())},
            {"cpu instructions", cpu::row_kernels().name}};
  }
  void set_algorithms(const std::map<std::string, std::string>&) override {}

 private:
  bool finite(const Program& program) const {
    const float* g = reinterpret_cast<const float*>(program.arenas.gradients);
    std::atomic<bool> all = true;
    threads_.run(threads_.count(), [&](int worker) {
      const Share part = share_of(program.plan.layout.trained, worker, threads_.count());
      if (!std::all_of(g + part.first, g + part.last, [](float x) { return std::isfinite(x); }))
        all = false;
    });
    return all;
  }

  void update(const Program& program, const OptimizerConfig& config) const {
    const ScaleState& scale = *program.arenas.scale;
    const double rate = program.arenas.params->learning_rate;
    const int64_t n = program.plan.layout.trained;
    float* w = reinterpret_cast<float*>(program.arenas.parameters);
    float* m = reinterpret_cast<float*>(program.arenas.moments);
    float* v = m + n;
    const float* g = reinterpret_cast<const float*>(program.arenas.gradients);
    const double t = static_cast<double>(scale.optimizer_steps + 1);
    const float unscale = static_cast<float>(1. / scale.scale);
    const AdamStep adam_step{rate,
                             1 - std::pow(config.beta1, t),
                             1 - std::pow(config.beta2, t),
                             config.beta1,
                             config.beta2,
                             config.eps,
                             config.weight_decay};
    const SgdStep sgd_step{rate, config.momentum, config.weight_decay, scale.optimizer_steps == 0};
    threads_.run(threads_.count(), [&](int worker) {
      const Share part = share_of(n, worker, threads_.count());
      if (config.kind == OptimizerConfig::Kind::adam)
        for (int64_t i = part.first; i < part.last; ++i)
          adam(w[i], m[i], v[i], g[i] * unscale, adam_step);
      else
        for (int64_t i = part.first; i < part.last; ++i) sgd(w[i], m[i], g[i] * unscale, sgd_step);
    });
  }

  // PyTorch's GradScaler, and this step's entry of the result ring.
  static void finish_step(const Program& program, bool updated) {
    constexpr int kGrowthInterval = 2000;
    ScaleState& scale = *program.arenas.scale;
    const StepParams& params = *program.arenas.params;
    StepResult& result = program.arenas.results[params.result];
    result.overflow = scale.found_inf;
    result.scale = scale.scale;
    if (updated && !scale.found_inf) ++scale.optimizer_steps;
    if (updated && scale.dynamic) {
      if (scale.found_inf || ++scale.good_steps == kGrowthInterval) {
        scale.scale *= scale.found_inf ? 0.5f : 2.f;
        scale.good_steps = 0;
      }
    }
    std::atomic_ref(result.step).store(params.step, std::memory_order_release);
  }

  cpu::Threads threads_;
  Communicator communicator_;
};

}  // namespace

std::unique_ptr<Backend> make_cpu_backend(const BackendOptions& options) {
  require(options.precision == Precision::fp32, Failure::usage,
          "--device cpu computes in fp32, not {}", name_of(options.precision));
  return std::make_unique<CpuBackend>(options);
}

}  // namespace engine
