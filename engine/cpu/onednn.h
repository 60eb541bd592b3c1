// The part of oneDNN 2.6 that the CPU backend uses: plain descriptors, and primitives that execute
// without allocating.
#pragma once

#include <dnnl.hpp>

#include <vector>

#include "engine/cpu/workspace.h"

namespace engine::cpu {

// The one engine of the process; it has no state.
const dnnl::engine& dnnl_engine();

dnnl::memory::desc dnnl_desc(const dnnl::memory::dims& dims, dnnl::memory::format_tag tag);

// A primitive with its arguments, for one thread. Addresses may change between executions.
class Call {
 public:
  struct Argument {
    int index;  // DNNL_ARG_…
    dnnl::memory::desc desc;
    const void* address;  // null: set before execution
  };

  Call(const dnnl::primitive& primitive, const std::vector<Argument>& arguments);

  void set(int index, const void* address);
  void execute();  // on the calling thread, and what threads OpenMP gives it

 private:
  dnnl::primitive primitive_;
  dnnl::stream stream_;
  std::vector<dnnl::memory> memory_;
  std::vector<dnnl_exec_arg_t> arguments_;
};

}  // namespace engine::cpu
