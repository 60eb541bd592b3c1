// The sum of two operands against the reference.
#include <algorithm>
#include <cmath>

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
      for (const auto& [statistics, act] :
           {std::pair{false, Activation::none}, std::pair{true, Activation::none},
            std::pair{false, Activation::relu}, std::pair{true, Activation::relu6}}) {
        OperandCase<T> a(e, o, 1), b(e, {false, Activation::none, GateKind::none}, 2);
        OutputCase<T> out(e, statistics);
        const SweepScratch partials(e);
        kernels::Addition<T>::forward(out.device_view(), a.device_view(), b.device_view(), act,
                                      partials.view(), nullptr);
        reference::add_forward(out.host_view(), a.host_view(), b.host_view(), act);
        out.check("sum");
      }
}

TEST_CASE_TEMPLATE("add_backward", T, float, __half, __nv_bfloat16) {
  if (!has_gpu()) return note_skipped("no GPU");
  const std::vector<OperandOptions> operands = {{true, Activation::none, GateKind::none},
                                                {true, Activation::none, GateKind::image},
                                                {true, Activation::silu, GateKind::none},
                                                {false, Activation::none, GateKind::elements},
                                                {false, Activation::none, GateKind::none}};
  for (const Extent& e : extents())
    for (const OperandOptions& o : operands)
      for (const auto& [how, act] :
           {std::pair{Write::assign, Activation::relu}, std::pair{Write::add, Activation::relu},
            std::pair{Write::assign, Activation::relu6}}) {
        OperandCase<T> in(e, o, 1);
        SinkCase<T> sink(in, how);
        Mirror<T> dy(normal(e.pixels() * e.channels, 6));
        std::vector<float> stored = normal(e.pixels() * e.channels, 7, 4.f);
        for (float& h : stored) h = activate(act, h).h;
        const Mirror<T> h(stored);
        const SweepScratch partials(e);
        std::vector<double> expected = dy.values();
        reference::multiply_slopes<double>(expected, {.h = h.values().data(), .act = act});
        kernels::Addition<T>::backward({dy.device(), h.device(), act}, sink.device_view(),
                                       in.device_view(), partials.view(), nullptr);
        reference::store_gradient(sink.host_view(), expected, in.host_view());
        sink.check("G", 3);
        std::ranges::copy(expected, dy.host());
        dy.check({}, "dy");  // slopes are 0 or 1, so nothing is rounded
      }
}

TEST_CASE("add_backward without an operand, and at values that are not numbers") {
  if (!has_gpu()) return note_skipped("no GPU");
  const Extent e{1, 2, 3, 8, 8, 0};
  OperandCase<float> in(e, {}, 1);
  Mirror<float> dy(normal(e.elements(), 6));
  std::vector<float> stored = normal(e.elements(), 7);
  for (float& h : stored) h = activate(Activation::relu, h).h;
  stored[3] = std::nanf("");
  const Mirror<float> h(stored);
  for (size_t i = 0; i < stored.size(); ++i)
    if (stored[i] <= 0) dy.host()[i] = 0;
  const SweepScratch partials(e);
  kernels::Addition<float>::backward({dy.device(), h.device(), Activation::relu}, {},
                                     in.device_view(), partials.view(), nullptr);
  dy.check({}, "dy");
}
