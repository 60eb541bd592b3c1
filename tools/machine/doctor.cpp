#include "tools/machine/doctor.h"
#include "tools/machine/cores.h"

#include <fmt/format.h>
#include <sys/resource.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <algorithm>
#include <fstream>
#include <limits>

#include "engine/error.h"
#include "tools/machine/environment.h"
#include "tools/machine/nvml.h"

namespace engine {
namespace {

constexpr size_t kGib = size_t{1} << 30, kUnlimited = std::numeric_limits<size_t>::max();

// ---- what the system says

size_t free_space(const char* folder) {
  struct statvfs s {};
  return statvfs(folder, &s) == 0 ? size_t(s.f_bavail) * s.f_frsize : 0;
}

size_t limit_of(__rlimit_resource resource) {
  rlimit limit{};
  if (getrlimit(resource, &limit) != 0) return 0;
  return limit.rlim_cur == RLIM_INFINITY ? kUnlimited : limit.rlim_cur;
}

// The value behind a name of /proc/meminfo, in bytes.
size_t memory_of(const std::string& name) {
  std::ifstream in("/proc/meminfo");
  std::string word;
  size_t kib = 0;
  while (in >> word)
    if (word == name + ':' && in >> kib) return kib * 1024;
  return 0;
}

// Cores that cpu.max grants, of control groups version 2.
double cpu_quota() {
  std::ifstream in("/sys/fs/cgroup/cpu.max");
  double quota = 0, period = 0;
  return in >> quota >> period && period > 0 ? quota / period : 0;  // "max": no number
}

size_t memory_limit() {
  std::ifstream in("/sys/fs/cgroup/memory.max");
  size_t bytes = 0;
  return in >> bytes ? bytes : 0;
}

// ---- what it means

std::string size_text(size_t bytes) {
  return bytes == kUnlimited ? "unlimited"
                             : fmt::format("{:.1f} GiB", double(bytes) / double(kGib));
}

class Report {
 public:
  void good(std::string what, std::string detail) {
    findings.push_back({Finding::Kind::good, std::move(what), std::move(detail)});
  }
  void warn(std::string what, std::string detail) {
    findings.push_back({Finding::Kind::warning, std::move(what), std::move(detail)});
  }
  void fail(std::string what, std::string detail) {
    findings.push_back({Finding::Kind::failure, std::move(what), std::move(detail)});
  }
  std::vector<Finding> findings;
};

void examine_gpus(const Machine& m, Report& report) {
  if (m.driver.empty())
    report.warn("NVIDIA driver", "none answers: training runs on the CPU");
  else
    report.good("NVIDIA driver", m.driver);
  if (!m.cuda_built) return report.warn("CUDA module", "not part of this build");
  if (!m.cuda_error.empty())  // a machine with a driver is meant to use it
    return m.driver.empty() ? report.warn("CUDA module", m.cuda_error)
                            : report.fail("CUDA module", m.cuda_error);
  report.good("CUDA module", m.cuda_versions);
  if (m.gpus.empty()) report.warn("GPUs", "none");
  for (const GpuInfo& gpu : m.gpus) {
    const std::string text = fmt::format("{}, {}, compute capability {}.{}", gpu.name,
                                         size_text(gpu.memory), gpu.major, gpu.minor);
    if (gpu.major < 8)
      report.fail("GPU", text + ": at least 8.0 is needed");
    else
      report.good("GPU", text);
  }
}

void examine_host(const Machine& m, Report& report) {
  const std::string cores = fmt::format("{} of {}", m.cores, m.host_cores);
  if (m.quota > 0 && m.quota < m.cores)
    report.warn("cores", fmt::format("{}, but the control group grants {:.1f}: --threads and "
                                     "--workers should not be more",
                                     cores, m.quota));
  else
    report.good("cores", cores);

  const size_t memory =
      m.memory_limit > 0 ? std::min(m.memory_limit, m.available_memory) : m.available_memory;
  if (memory < 4 * kGib)
    report.warn("memory", size_text(memory) + " available; a run takes some GiB");
  else
    report.good("memory", size_text(memory) + " available");

  if (m.gpus.size() > 1 && m.shared_memory < kGib)
    report.warn("/dev/shm", size_text(m.shared_memory) +
                                " free: NCCL may fail between GPUs (docker run --shm-size=1g)");
  else
    report.good("/dev/shm", size_text(m.shared_memory) + " free");

  if (m.open_files < 1024)
    report.warn("open files", fmt::format("{}: ulimit -n 4096", m.open_files));
  else
    report.good("open files",
                m.open_files == kUnlimited ? "unlimited" : fmt::format("{}", m.open_files));

  if (!m.gpus.empty() && m.locked_memory < kGib / 16)
    report.warn("locked memory",
                fmt::format("{} KiB: ulimit -l unlimited, for InfiniBand", m.locked_memory / 1024));
  else
    report.good("locked memory", size_text(m.locked_memory));

  if (m.disk < kGib)
    report.warn("disk", size_text(m.disk) + " free in the current folder; checkpoints need it");
  else
    report.good("disk", size_text(m.disk) + " free in the current folder");
}

}  // namespace

Machine this_machine() {
  Machine m{.cuda_built = kBuild.cuda,
            .cores = available_cores(),
            .host_cores = static_cast<int>(sysconf(_SC_NPROCESSORS_ONLN)),
            .quota = cpu_quota(),
            .available_memory = memory_of("MemAvailable"),
            .memory_limit = memory_limit(),
            .shared_memory = free_space("/dev/shm"),
            .open_files = limit_of(RLIMIT_NOFILE),
            .locked_memory = limit_of(RLIMIT_MEMLOCK),
            .disk = free_space(".")};
  std::vector<std::string> bus_ids;
  try {
    m.cuda_versions = cuda_versions();
    m.gpus = cuda_devices();
    for (const GpuInfo& gpu : m.gpus) bus_ids.push_back(gpu.bus_id);
  } catch (const Error& error) {
    m.cuda_error = error.what();
  }
  if (const auto nvml = Nvml::open(bus_ids))
    m.driver = nvml->driver();
  else
    std::ifstream("/sys/module/nvidia/version") >> m.driver;
  return m;
}

std::vector<Finding> examine(const Machine& machine) {
  Report report;
  examine_gpus(machine, report);
  examine_host(machine, report);
  return report.findings;
}

}  // namespace engine
