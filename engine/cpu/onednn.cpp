#include "engine/cpu/onednn.h"

#include <oneapi/dnnl/dnnl_debug.h>

#include "engine/cpu/prepare.h"
#include "engine/error.h"

namespace engine::cpu {

const dnnl::engine& dnnl_engine() {
  static const dnnl::engine engine(dnnl::engine::kind::cpu, 0);
  return engine;
}

dnnl::memory::desc dnnl_desc(const dnnl::memory::dims& dims, dnnl::memory::format_tag tag) {
  return {dims, dnnl::memory::data_type::f32, tag};
}

Call::Call(const dnnl::primitive& primitive, const std::vector<Argument>& arguments)
    : primitive_(primitive), stream_(dnnl_engine()) {
  for (const Argument& a : arguments) {
    memory_.emplace_back(a.desc, dnnl_engine(), const_cast<void*>(a.address));
    arguments_.push_back({a.index, memory_.back().get()});
  }
}

void Call::set(int index, const void* address) {
  for (const dnnl_exec_arg_t& a : arguments_)
    if (a.arg == index) dnnl_memory_set_data_handle(a.memory, const_cast<void*>(address));
}

void Call::execute() {
  const dnnl_status_t status = dnnl_primitive_execute(
      primitive_.get(), stream_.get(), static_cast<int>(arguments_.size()), arguments_.data());
  require(status == dnnl_success, Failure::internal, "oneDNN: {}", dnnl_status2str(status));
}

void multiply(bool transpose_a, bool transpose_b, int64_t m, int64_t n, int64_t k, const float* a,
              int64_t lda, const float* b, int64_t ldb, float beta, float* c, int64_t ldc) {
  const dnnl_status_t status = dnnl_sgemm(transpose_a ? 'T' : 'N', transpose_b ? 'T' : 'N', m, n, k,
                                          1.f, a, lda, b, ldb, beta, c, ldc);
  require(status == dnnl_success, Failure::internal, "oneDNN: sgemm {} × {} × {}: {}", m, n, k,
          dnnl_status2str(status));
}

}  // namespace engine::cpu
