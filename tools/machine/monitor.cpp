#include "tools/machine/monitor.h"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <fstream>
#include <sstream>
#include <utility>

#include "tools/cli/clock.h"

namespace engine {
namespace {

// User and system time of this process in seconds: fields 14 and 15 of /proc/self/stat. The second
// field is the program's name in parentheses and may hold anything.
double process_seconds(const std::filesystem::path& proc) {
  std::ifstream in(proc / "self" / "stat");
  std::string line;
  std::getline(in, line);
  const size_t name_end = line.rfind(')');
  if (name_end == std::string::npos) return 0;
  std::istringstream fields(line.substr(name_end + 1));
  std::string skipped;
  for (int field = 3; field < 14; ++field) fields >> skipped;
  double user = 0, system = 0;
  fields >> user >> system;
  return (user + system) / static_cast<double>(sysconf(_SC_CLK_TCK));
}

// Resident memory: VmRSS of /proc/self/status, which is in KiB.
double resident_gib(const std::filesystem::path& proc) {
  std::ifstream in(proc / "self" / "status");
  for (std::string key; in >> key; in.ignore(1 << 16, '\n'))
    if (double kib = 0; key == "VmRSS:" && in >> kib) return kib / 0x1p20;
  return 0;
}

}  // namespace

std::string describe(const MachineUse& use) {
  std::string text;
  if (use.gpu)
    text = fmt::format("GPU {:.0f}% {:.1f} GiB {:.0f} W {:.0f} °C, ", 100 * use.gpu->utilisation,
                       use.gpu->memory_gib, use.gpu->watts, use.gpu->celsius);
  return text + fmt::format("CPU {:.1f} cores {:.1f} GiB", use.process_cores, use.memory_gib);
}

Monitor::Monitor(MonitorOptions options)
    : options_(std::move(options)), nvml_(Nvml::open(options_.bus_ids, options_.nvml.c_str())) {
  if (!options_.seconds) options_.seconds = steady_seconds;
  before_ = read_ticks();
  sampled_at_ = before_.seconds;
  if (nvml_)
    for (size_t i = 0; i < nvml_->devices(); ++i) joules_.push_back(nvml_->read(i).joules);
  if (options_.interval > 0) thread_ = std::thread([this] { watch(); });
}

Monitor::~Monitor() {
  {
    const std::lock_guard lock(mutex_);
    stop_ = true;
  }
  stop_asked_.notify_all();
  if (thread_.joinable()) thread_.join();
}

void Monitor::watch() {
  std::unique_lock lock(mutex_);
  const std::chrono::duration<double> interval(options_.interval);
  while (!stop_asked_.wait_for(lock, interval, [this] { return stop_; })) read();
}

Monitor::Ticks Monitor::read_ticks() const {
  Ticks now{.seconds = options_.seconds(), .process = process_seconds(options_.proc)};
  // "cpu  user nice system idle iowait irq softirq steal guest guest_nice"; guest is part of user.
  std::ifstream in(options_.proc / "stat");
  std::string name;
  in >> name;
  for (int field = 0; field < 8; ++field) {
    double ticks = 0;
    in >> ticks;
    now.total += ticks;
    if (field != 3 && field != 4) now.busy += ticks;
  }
  return now;
}

void Monitor::sample() {
  const std::lock_guard lock(mutex_);
  read();
}

// A reading stands for the time since the one before.
void Monitor::read() {
  constexpr double kLeast = 1e-9;  // so that a reading without time stands for itself
  const double now = options_.seconds(), seconds = std::max(now - sampled_at_, kLeast);
  sampled_at_ = now;
  sampled_seconds_ += seconds;
  resident_gib_ = std::max(resident_gib_, resident_gib(options_.proc));
  if (!nvml_) return;
  const double share = 1. / static_cast<double>(nvml_->devices());
  for (size_t i = 0; i < nvml_->devices(); ++i) {
    const GpuReading r = nvml_->read(i);
    const double spent = r.joules - std::exchange(joules_[i], r.joules);
    gpu_sum_.utilisation += r.utilisation * share * seconds;
    gpu_sum_.celsius += r.celsius * share * seconds;
    const double joules = r.joules > 0 && seconds > kLeast ? spent : r.watts * seconds;
    gpu_sum_.watts += joules;
    gpu_sum_.joules += joules;
    silent_ |= r.joules <= 0 && r.watts <= 0;
    gpu_sum_.memory_gib = std::max(gpu_sum_.memory_gib, r.memory_gib);
  }
}

MachineUse Monitor::take() {
  const std::lock_guard lock(mutex_);
  read();
  const Ticks now = read_ticks();
  const double elapsed = now.seconds - before_.seconds, host = now.total - before_.total;
  MachineUse use{.memory_gib = resident_gib_, .seconds = elapsed};
  if (elapsed > 0) use.process_cores = (now.process - before_.process) / elapsed;
  if (host > 0) use.host_cpu = (now.busy - before_.busy) / host;
  if (nvml_) {
    use.gpu = gpu_sum_;
    use.gpu->utilisation /= sampled_seconds_;
    use.gpu->celsius /= sampled_seconds_;
    use.gpu->watts /= sampled_seconds_;
    if (silent_) use.gpu->joules = 0;  // a part of the sum is no sum
  }
  before_ = now;
  sampled_seconds_ = 0;
  gpu_sum_ = {};
  silent_ = false;
  resident_gib_ = 0;
  return use;
}

}  // namespace engine
