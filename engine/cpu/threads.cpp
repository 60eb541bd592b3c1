#include "engine/cpu/threads.h"

#include <omp.h>
#include <sched.h>

#include <algorithm>
#include <exception>

namespace engine::cpu {

namespace {

int cores_of_affinity_mask() {
  cpu_set_t mask;
  if (sched_getaffinity(0, sizeof mask, &mask) != 0) return omp_get_num_procs();
  return std::max(1, CPU_COUNT(&mask));
}

}  // namespace

Threads::Threads(int count) : count_(count > 0 ? count : cores_of_affinity_mask()) {}

void Threads::run(int workers, const std::function<void(int)>& body) const {
  // With one worker there is no parallel region, and oneDNN would start threads of its own.
  omp_set_num_threads(workers == 1 ? 1 : count_);
  std::exception_ptr error;
#pragma omp parallel num_threads(workers)
  for (int worker = omp_get_thread_num(); worker < workers; worker += omp_get_num_threads()) {
    try {
      body(worker);
    } catch (...) {
#pragma omp critical(engine_cpu_threads)
      if (!error) error = std::current_exception();
    }
  }
  if (error) std::rethrow_exception(error);
}

void Threads::run_library(const std::function<void()>& body) const {
  omp_set_num_threads(count_);
  body();
}

}  // namespace engine::cpu
