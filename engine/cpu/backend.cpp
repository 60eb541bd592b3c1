// The CPU backend: fp32, host memory, a number of threads of its own. Everything runs when it is
// called.
#include <sys/sysinfo.h>

#include <algorithm>
#include <fstream>

#include "engine/cpu/images.h"
#include "engine/cpu/onednn.h"
#include "engine/cpu/prepare.h"
#include "engine/cpu/rows.h"
#include "engine/cpu/threads.h"
#include "engine/error.h"
#include "engine/host_backend.h"

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

class CpuBackend final : public HostBackend<float> {
 public:
  explicit CpuBackend(const BackendOptions& options)
      : HostBackend(options.communicator), threads_(options.threads) {
    const dnnl_version_t& v = *dnnl_version();
    info_ = {.kind = BackendKind::cpu,
             .description = fmt::format("{}, {} thread{}, {}, oneDNN {}.{}.{}", cpu_model(),
                                        threads_.count(), threads_.count() == 1 ? "" : "s",
                                        cpu::row_kernels().name, v.major, v.minor, v.patch),
             .ranks = options.communicator.ranks()};
  }

  const BackendInfo& info() const override { return info_; }
  // What the operating system says can be had without swapping.
  size_t free_bytes() const override {
    std::ifstream info("/proc/meminfo");
    for (std::string line; std::getline(info, line);)
      if (line.starts_with("MemAvailable:")) return std::stoull(line.substr(13)) << 10;
    struct sysinfo now {};
    sysinfo(&now);
    return size_t{now.freeram} * now.mem_unit;
  }

  std::map<std::string, std::string> algorithms() const override {
    return {{"cpu threads", std::to_string(threads_.count())},
            {"cpu instructions", cpu::row_kernels().name}};
  }
  void set_algorithms(const std::map<std::string, std::string>&) override {}

 private:
  std::vector<StepExec> prepare_steps(const Program& program) override {
    std::vector<StepExec> execs;
    // oneDNN divides a primitive among the threads that it sees when it is made.
    threads_.run_library([&] {
      for (const Step& step : program.graph.steps)
        execs.push_back(std::visit(
            [&](const auto& s) {
              return cpu::prepare(threads_, program, static_cast<int>(execs.size()), s);
            },
            step));
    });
    return execs;
  }

  void load_images(const Program& program) override {
    cpu::load_images(threads_, program.output<float>(program.graph.image).y, program.images());
  }

  void update_running(const Program& program, int64_t images) override {
    for (const Norm& norm : program.graph.norms) {
      const auto now = program.output<float>(norm.at);
      float* mean = program.master<float>(norm.running_mean);
      float* var = program.master<float>(norm.running_var);
      const double count = static_cast<double>(images * now.height * now.width);
      const float unbias = count > 1 ? static_cast<float>(count / (count - 1)) : 1.f;
      for (int c = 0; c < now.channels; ++c) {
        mean[c] += norm.momentum * (now.mean[c] - mean[c]);
        var[c] += norm.momentum * (unbias * now.var[c] - var[c]);
      }
    }
  }

  void for_parts(int64_t count, const std::function<void(int64_t, int64_t)>& body) override {
    threads_.run(threads_.count(), [&](int worker) {
      const Share part = share_of(count, worker, threads_.count());
      body(part.first, part.last);
    });
  }

  cpu::Threads threads_;
  BackendInfo info_;
};

}  // namespace

std::unique_ptr<Backend> make_cpu_backend(const BackendOptions& options) {
  require(options.precision == Precision::fp32, Failure::usage,
          "--device cpu computes in fp32, not {}", name_of(options.precision));
  return std::make_unique<CpuBackend>(options);
}

}  // namespace engine
