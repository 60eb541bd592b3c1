// The sum of two operands against the reference.
#include "tests/kernels/gpu.h"

using namespace engine;
using namespace engine::test;

TEST_CASE_TEMPLATE("add_forward", T, float, __half, __nv_bfloat16) {
  if (!has_gpu()) return note_skipped("no GPU");
  const std::vector<OperandOptions> first = {{true, Activation::none, GateKind::image},
                                             {true, Activation::silu, GateKind::elements},
                                             {false, Activation::none, GateKind::none}};
  for (const Extent& e : extents())
    for (const OperandOptions& o : first)
      for (const bool statistics : {false, true}) {
        OperandCase<T> a(e, o, 1), b(e, {false, Activation::none, GateKind::none}, 2);
        OutputCase<T> out(e, statistics);
        const SweepScratch partials(e);
        kernels::Addition<T>::forward(out.device_view(), a.device_view(), b.device_view(),
                                      partials.view(), nullptr);
        reference::add_forward(out.host_view(), a.host_view(), b.host_view());
        out.check("sum");
      }
}
