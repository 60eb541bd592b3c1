#include "engine/cpu/threads.h"

#include <omp.h>

#include <exception>

#include "engine/affinity.h"

namespace engine::cpu {

Threads::Threads(int count)
    : count_(count > 0 ? count : static_cast<int>(allowed_cores().size())) {}

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
