#include "tools/machine/monitor.h"

#include <doctest/doctest.h>
#include <fmt/format.h>
#include <unistd.h>

#include <chrono>
#include <fstream>

#include "tests/support.h"

using namespace engine;
using namespace engine::test;

namespace {

// A /proc that the test writes, and a clock that it sets.
struct MonitorFixture {
  TemporaryFolder proc;
  double now = 50;

  MonitorFixture() {
    std::filesystem::create_directory(proc.path() / "self");
    machine(0, 0, 0);
    resident(1 << 20);
  }
  // Seconds of this process, and ticks of the host: user and idle.
  void machine(double process, int busy, int idle) {
    const auto ticks = static_cast<int64_t>(process * static_cast<double>(sysconf(_SC_CLK_TCK)));
    std::ofstream(proc.path() / "self" / "stat") << fmt::format(
        "42 (a ) name) R 1 2 3 4 5 6 7 8 9 10 {} {} 0 0 20 0", ticks / 4, ticks - ticks / 4);
    std::ofstream(proc.path() / "stat")
        << fmt::format("cpu  {} 0 {} {} {} 0 0 0 7 7\ncpu0 1 2 3 4\n", busy / 2, busy - busy / 2,
                       idle - idle / 4, idle / 4);
  }
  void resident(int kib) {
    std::ofstream(proc.path() / "self" / "status")
        << fmt::format("Name:\tengine\nVmPeak:\t 99999999 kB\nVmRSS:\t {} kB\nThreads:\t3\n", kib);
  }
  MonitorOptions options(std::vector<std::string> bus_ids = {}) {
    return {.bus_ids = std::move(bus_ids),
            .interval = 0,
            .proc = proc.path(),
            .nvml = ENGINE_FAKE_NVML,
            .seconds = [this] { return now; }};
  }
};

}  // namespace

TEST_CASE_FIXTURE(MonitorFixture, "CPU use is that between two calls") {
  machine(100, 1000, 5000);
  Monitor monitor(options());
  now += 10, machine(135, 1600, 5400), resident(3 << 19);
  MachineUse use = monitor.take();
  CHECK(use.process_cores == doctest::Approx(3.5));
  CHECK(use.host_cpu == doctest::Approx(0.6));
  CHECK(use.memory_gib == doctest::Approx(1.5));
  CHECK_FALSE(use.gpu.has_value());
  CHECK(describe(use) == "CPU 3.5 cores 1.5 GiB");

  now += 4, machine(136, 1600, 5500), resident(1 << 20);
  use = monitor.take();
  CHECK(use.process_cores == doctest::Approx(0.25));
  CHECK(use.host_cpu == 0);
  CHECK(use.memory_gib == doctest::Approx(1));
}

TEST_CASE_FIXTURE(MonitorFixture,
                  "no time between two calls is no use, and an empty /proc no failure") {
  Monitor monitor(options());
  CHECK(monitor.take().process_cores == 0);
  std::filesystem::remove_all(proc.path() / "self");
  std::filesystem::remove(proc.path() / "stat");
  const MachineUse use = monitor.take();
  CHECK(use.host_cpu == 0);
  CHECK(use.memory_gib == 0);
}

TEST_CASE_FIXTURE(MonitorFixture,
                  "several GPUs: mean utilisation, fullest memory, power together") {
  Monitor monitor(options({"0000:1B:00.0", "0000:43:00.0", "0000:99:00.0"}));
  CHECK(monitor.driver() == "580.82.07");
  MachineUse use = monitor.take();
  REQUIRE(use.gpu);
  CHECK(use.gpu->utilisation == doctest::Approx((0.20 + 0.70) / 2));
  CHECK(use.gpu->memory_gib == 24);
  CHECK(use.gpu->watts == doctest::Approx(412.5));
  CHECK(use.gpu->celsius == doctest::Approx(65));
  use.memory_gib = 1;
  CHECK(describe(use) == "GPU 45% 24.0 GiB 412 W 65 °C, CPU 0.0 cores 1.0 GiB");
  CHECK(monitor.take().gpu->utilisation == doctest::Approx((0.30 + 0.80) / 2));
}

TEST_CASE_FIXTURE(MonitorFixture,
                  "a reading counts for the time it ends, also where all of it is short") {
  Monitor monitor(options({"0000:1B:00.0"}));
  now += 0.2, monitor.sample();  // 20%
  now += 0.2, monitor.sample();  // 30%
  now += 0.1;                    // 40%
  CHECK(monitor.take().gpu->utilisation == doctest::Approx((0.04 + 0.06 + 0.04) / 0.5));
  now += 0.1;
  CHECK(monitor.take().gpu->utilisation == doctest::Approx(0.5));
}

TEST_CASE_FIXTURE(MonitorFixture, "power is the energy spent, where the device counts it") {
  Monitor monitor(options({"0000:5C:00.0", "0000:43:00.0"}));
  now += 0.2, monitor.sample();
  now += 0.05;
  MachineUse use = monitor.take();
  CHECK(use.gpu->watts == doctest::Approx(100 / 0.25));
  CHECK(use.gpu->joules == 0);  // the second device tells neither power nor energy
  CHECK(use.seconds == doctest::Approx(0.25));
  now += 0.5;
  CHECK(monitor.take().gpu->watts == doctest::Approx(100));
}

TEST_CASE_FIXTURE(MonitorFixture,
                  "energy is the counter's, or power over time where there is none") {
  {
    Monitor counted(options({"0000:5C:00.0"}));
    now += 0.2, counted.sample();
    now += 0.8;
    const MachineUse use = counted.take();
    REQUIRE(use.gpu);
    CHECK(use.gpu->joules == doctest::Approx(100));  // two readings of 50 J
    CHECK(use.seconds == doctest::Approx(1));
    now += 2;
    CHECK(counted.take().gpu->joules == doctest::Approx(50));
  }
  Monitor both(options({"0000:1B:00.0", "0000:5C:00.0"}));
  now += 2;
  const MachineUse use = both.take();
  REQUIRE(use.gpu);
  CHECK(use.gpu->joules == doctest::Approx(2 * 412.5 + 50));
  CHECK(use.gpu->joules == doctest::Approx(use.gpu->watts * use.seconds));
}

TEST_CASE_FIXTURE(MonitorFixture, "GPUs that the library does not know, or no library: none") {
  Monitor unknown(options({"0000:99:00.0"}));
  CHECK_FALSE(unknown.take().gpu.has_value());
  MonitorOptions without = options({"0000:1B:00.0"});
  without.nvml = "libno-such-library.so.1";
  Monitor absent(without);
  CHECK_FALSE(absent.take().gpu.has_value());
  CHECK(absent.driver().empty());
}

TEST_CASE_FIXTURE(MonitorFixture, "the thread samples by itself, and what it saw is averaged") {
  MonitorOptions often = options({"0000:1B:00.0"});
  often.interval = 0.001;
  Monitor monitor(often);
  MachineUse use = monitor.take();
  for (int tries = 0; tries < 1000 && use.gpu->utilisation < 1; ++tries) {
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
    use = monitor.take();
  }
  CHECK(use.gpu->utilisation >= 1);  // ten points a sample: at least ten were taken
  CHECK(use.gpu->watts == doctest::Approx(412.5));
}

TEST_CASE("this machine's own /proc") {
  Monitor monitor({.interval = 0});
  double x = 0;
  for (int i = 0; i < 50'000'000; ++i) x += 1e-9 * i;
  const MachineUse use = monitor.take();
  CHECK(x > 0);
  CHECK(use.process_cores > 0);
  CHECK(use.memory_gib > 0);
}

TEST_CASE("what connects two GPUs") {
  const std::string ids[] = {"0000:1B:00.0", "0000:43:00.0", "0000:5C:00.0"};
  const auto nvml = Nvml::open(ids, ENGINE_FAKE_NVML);
  REQUIRE(nvml.has_value());
  CHECK(nvml->link(0, 1) == "NVLink");
  CHECK(nvml->link(0, 2) == "PCIe host bridge");
  CHECK(nvml->link(1, 2) == "unknown");
}
