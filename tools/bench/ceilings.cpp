#include "tools/bench/ceilings.h"

#include <barrier>
#include <chrono>
#include <cstring>
#include <limits>
#include <thread>
#include <vector>

#include "engine/cuda_module.h"
#include "tools/bench/rig.h"
#include "tools/machine/cores.h"

namespace engine {
namespace {

constexpr size_t kCopyBytes = size_t{256} << 20;  // far more than caches hold
constexpr int kRuns = 8;

double seconds_of(const auto& body) {
  using Clock = std::chrono::steady_clock;
  const auto start = Clock::now();
  body();
  return std::chrono::duration<double>(Clock::now() - start).count();
}

// Each thread copies its part of the buffer, which it has touched first.
double copy_bytes_per_s(int threads) {
  const size_t part = kCopyBytes / threads;
  std::barrier together(threads);
  double best = std::numeric_limits<double>::infinity();
  const auto copy = [&](int thread) {
    std::vector<std::byte> from(part, std::byte{1}), to(part, std::byte{2});
    for (int run = 0; run < kRuns; ++run) {
      together.arrive_and_wait();
      const double seconds = seconds_of([&] {
        std::memcpy(to.data(), from.data(), part);
        together.arrive_and_wait();
      });
      if (thread == 0) best = std::min(best, seconds);
    }
  };
  {
    std::vector<std::jthread> others;
    for (int thread = 1; thread < threads; ++thread) others.emplace_back(copy, thread);
    copy(0);
  }
  return 2. * double(part) * threads / best;
}

// The forward of one pointwise convolution, which is a product of (batch·32·32, 256) and
// (256, 256).
double product_flops_per_s(Backend& backend, Precision precision) {
  constexpr int kSide = 32, kChannels = 256;
  const bool loops = backend.info().kind == BackendKind::reference;
  const PlanOptions plan{.batch = loops ? 1 : 32,
                         .precision = precision,
                         .backend = backend.info().kind,
                         .limits = backend.info().limits};
  Graph graph("product", 1e-5, 0.1);
  const Value image = graph.input(kSide, kSide, kChannels);
  const Value product = graph.conv(image, "product", {.out = kChannels});
  graph.cross_entropy(graph.linear(graph.global_pool(product, "pool"), "head", 2));
  Rig rig(graph, backend, plan);
  double best = std::numeric_limits<double>::infinity();
  for (int run = 0; run < (loops ? 2 : kRuns); ++run)
    best = std::min(best, seconds_of([&] { rig.forward(0); }));
  return 2. * plan.batch * kSide * kSide * kChannels * kChannels / best;
}

}  // namespace

Ceilings measure_ceilings(Backend& backend, const BackendOptions& options) {
  if (backend.info().kind == BackendKind::cuda) return cuda_ceilings(backend, options.precision);
  const bool one = backend.info().kind == BackendKind::reference;
  const int threads = one ? 1 : options.threads > 0 ? options.threads : available_cores();
  return {copy_bytes_per_s(threads), product_flops_per_s(backend, options.precision)};
}

double upload_bytes_per_s(Backend& backend, size_t bytes) {
  const Memory to = backend.allocate(bytes), from = backend.allocate_host(bytes);
  std::memset(from.get(), 1, bytes);
  double best = std::numeric_limits<double>::infinity();
  for (int run = 0; run < kRuns; ++run)
    best = std::min(best, seconds_of([&] {
                      backend.upload(to.get(), from.get(), bytes);
                      backend.synchronize();
                    }));
  return double(bytes) / best;
}

}  // namespace engine
