#include "tools/machine/doctor.h"
#include "tools/machine/cores.h"

#include <fmt/format.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/timex.h>
#include <unistd.h>

#include <algorithm>
#include <ctime>
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

size_t free_files(const char* folder) {
  struct statvfs s {};
  // Some file systems make as many as fit, and count none.
  return statvfs(folder, &s) == 0 && s.f_files > 0 ? size_t(s.f_favail) : kUnlimited;
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

// A thread counts as a process; the superuser is held by the control group alone.
size_t free_processes() {
  std::ifstream most("/sys/fs/cgroup/pids.max"), now("/sys/fs/cgroup/pids.current");
  size_t of_group = 0, used = 0;
  if (!(most >> of_group)) return geteuid() == 0 ? kUnlimited : limit_of(RLIMIT_NPROC);
  now >> used;
  of_group -= std::min(used, of_group);
  return std::min(of_group, geteuid() == 0 ? kUnlimited : limit_of(RLIMIT_NPROC));
}

std::optional<bool> clock_is_set() {
  timex clock{};
  const int state = adjtimex(&clock);
  if (state < 0) return std::nullopt;
  return state != TIME_ERROR && (clock.status & STA_UNSYNC) == 0;
}

// The program cannot have been made in the future.
double clock_behind() {
  struct stat program {};
  if (stat("/proc/self/exe", &program) != 0) return 0;
  return std::max(0., std::difftime(program.st_mtime, std::time(nullptr)));
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

std::string count_text(size_t count) {
  return count == kUnlimited ? "unlimited" : fmt::format("{}", count);
}

void examine_limits(const Machine& m, Report& report) {
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

  // Ranks, loading threads, and what the libraries start, with room to spare.
  const size_t wanted = 64 + 8 * static_cast<size_t>(std::max(m.cores, 1));
  if (m.processes < wanted)
    report.warn("processes",
                fmt::format("{} more, threads included; {} may be needed: ulimit -u, or "
                            "pids.max of the control group",
                            m.processes, wanted));
  else
    report.good("processes", count_text(m.processes));

  if (m.file_size < kGib)
    report.warn("file size", size_text(m.file_size) + ": ulimit -f unlimited, for checkpoints");
  else
    report.good("file size", size_text(m.file_size));
}

void examine_disk(const Machine& m, Report& report) {
  constexpr size_t kFewFiles = 1000;
  if (m.disk < kGib)
    report.warn("disk", size_text(m.disk) + " free in the current folder; checkpoints need it");
  else if (m.files < kFewFiles)
    report.warn("disk", fmt::format("room for {} more files in the current folder", m.files));
  else
    report.good("disk", size_text(m.disk) + " free in the current folder");
}

void examine_clock(const Machine& m, Report& report) {
  constexpr double kMinute = 60;
  if (m.clock_behind > kMinute)
    report.warn("clock", fmt::format("{:.0f} minutes behind the time at which this program was "
                                     "made: logs and caches go by it",
                                     m.clock_behind / kMinute));
  else if (m.clock_is_set == false)
    report.warn("clock",
                "no time server sets it: the logs of several machines may not fit together");
  else
    report.good("clock", m.clock_is_set ? "set by a time server" : "plausible");
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
            .processes = free_processes(),
            .file_size = limit_of(RLIMIT_FSIZE),
            .disk = free_space("."),
            .files = free_files("."),
            .clock_is_set = clock_is_set(),
            .clock_behind = clock_behind()};
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
  examine_limits(machine, report);
  examine_disk(machine, report);
  examine_clock(machine, report);
  return report.findings;
}

}  // namespace engine
