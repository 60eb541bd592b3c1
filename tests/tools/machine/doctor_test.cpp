// What engine doctor makes of machines.
#include "tools/machine/doctor.h"

#include <algorithm>

#include "tests/support.h"

using namespace engine;

namespace {

using Kind = Finding::Kind;
constexpr size_t kGib = size_t{1} << 30;

Machine healthy() {
  Machine m{.cuda_built = true,
            .cuda_versions = "CUDA 13.0",
            .driver = "580.82.07",
            .cores = 16,
            .host_cores = 64,
            .available_memory = 100 * kGib,
            .shared_memory = 8 * kGib,
            .open_files = 65536,
            .locked_memory = SIZE_MAX,
            .processes = 4096,
            .file_size = SIZE_MAX,
            .disk = 500 * kGib,
            .files = 1'000'000,
            .clock_is_set = true};
  for (int gpu = 0; gpu < 2; ++gpu)
    m.gpus.push_back({.name = "H200", .memory = 139 * kGib, .major = 9});
  return m;
}

Kind kind_of(const Machine& machine, const std::string& what) {
  for (const Finding& f : examine(machine))
    if (f.what == what) return f.kind;
  FAIL("no finding about " << what);
  return Kind::good;
}

}  // namespace

TEST_CASE("a healthy machine has nothing but good findings") {
  for (const Finding& f : examine(healthy())) CHECK_MESSAGE(f.kind == Kind::good, f.what);
  CHECK(examine(healthy()).size() == 13);
}

TEST_CASE("what limits a training is found") {
  const auto with = [](auto change) {
    Machine m = healthy();
    change(m);
    return m;
  };
  CHECK(kind_of(with([](Machine& m) { m.cuda_error = "libcudnn.so.9: no such file"; }),
                "CUDA module") == Kind::failure);
  CHECK(kind_of(with([](Machine& m) {
                  m.cuda_error = "libcuda.so.1: no such file";
                  m.driver.clear();
                }),
                "CUDA module") == Kind::warning);
  CHECK(kind_of(with([](Machine& m) { m.cuda_built = false; }), "CUDA module") == Kind::warning);
  CHECK(kind_of(with([](Machine& m) { m.gpus[0].major = 7; }), "GPU") == Kind::failure);
  CHECK(kind_of(with([](Machine& m) { m.quota = 4; }), "cores") == Kind::warning);
  CHECK(kind_of(with([](Machine& m) { m.quota = 32; }), "cores") == Kind::good);
  CHECK(kind_of(with([](Machine& m) { m.memory_limit = kGib; }), "memory") == Kind::warning);
  CHECK(kind_of(with([](Machine& m) { m.shared_memory = 64 << 20; }), "/dev/shm") == Kind::warning);
  CHECK(kind_of(with([](Machine& m) { m.open_files = 256; }), "open files") == Kind::warning);
  CHECK(kind_of(with([](Machine& m) { m.locked_memory = 65536; }), "locked memory") ==
        Kind::warning);
  CHECK(kind_of(with([](Machine& m) { m.disk = 1000; }), "disk") == Kind::warning);
  CHECK(kind_of(with([](Machine& m) { m.files = 3; }), "disk") == Kind::warning);
  CHECK(kind_of(with([](Machine& m) { m.processes = 100; }), "processes") == Kind::warning);
  CHECK(kind_of(with([](Machine& m) { m.file_size = 1 << 20; }), "file size") == Kind::warning);
  CHECK(kind_of(with([](Machine& m) { m.clock_is_set = false; }), "clock") == Kind::warning);
  CHECK(kind_of(with([](Machine& m) { m.clock_is_set.reset(); }), "clock") == Kind::good);
  CHECK(kind_of(with([](Machine& m) { m.clock_behind = 3600; }), "clock") == Kind::warning);
}

TEST_CASE("this machine can be examined") {
  const Machine m = this_machine();
  CHECK(m.cores > 0);
  CHECK(m.host_cores >= m.cores);
  CHECK(m.available_memory > 0);
  CHECK(m.open_files > 0);
  CHECK(m.disk > 0);
  CHECK(m.processes > 0);
  CHECK(m.file_size > 0);
  CHECK(m.files > 0);
}
