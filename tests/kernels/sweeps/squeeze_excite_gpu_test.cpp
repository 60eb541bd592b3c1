// Squeeze-excite, both directions, against the reference.
#include <array>
#include <memory>

#include "tests/kernels/gpu.h"

using namespace engine;
using namespace engine::test;

namespace {

// Arrays by name, as pointers of either side.
struct Weights {
  Weights(int channels, int squeezed, float scale)
      : reduce(normal(size_t(channels) * squeezed, 1, 0, scale)),
        reduce_bias(normal(squeezed, 2)),
        expand(normal(size_t(channels) * squeezed, 3, 0, scale)),
        expand_bias(normal(channels, 4)) {}
  template <class P>
  P device_view() {
    return {reduce.device(), reduce_bias.device(), expand.device(), expand_bias.device()};
  }
  reference::SqueezeExcitePointers<double> host_view() {
    return {reduce.host(), reduce_bias.host(), expand.host(), expand_bias.host()};
  }
  void check(Tolerance allowed) const {
    reduce.check(allowed, "reduce");
    reduce_bias.check(allowed, "reduce bias");
    expand.check(allowed, "expand");
    expand_bias.check(allowed, "expand bias");
  }
  Mirror<float> reduce, reduce_bias, expand, expand_bias;
};

struct Vectors {
  Vectors(int batch, int channels, int squeezed) {
    for (int i = 0; i < 10; ++i)
      of[i].reset(new Mirror<float>(normal(size_t(batch) * (i < 8 ? channels : squeezed), 40 + i)));
  }
  GateView<float> device_view() {
    return {of[0]->device(), of[1]->device(), of[2]->device(), of[3]->device(), of[4]->device(),
            of[5]->device(), of[6]->device(), of[7]->device(), of[8]->device(), of[9]->device()};
  }
  GateView<double> host_view() {
    return {of[0]->host(), of[1]->host(), of[2]->host(), of[3]->host(), of[4]->host(),
            of[5]->host(), of[6]->host(), of[7]->host(), of[8]->host(), of[9]->host()};
  }
  std::array<std::unique_ptr<Mirror<float>>, 10> of;  // in the order of GateView
};

}  // namespace

TEST_CASE_TEMPLATE("squeeze_excite", T, float, __half, __nv_bfloat16) {
  if (!has_gpu()) return note_skipped("no GPU");
  for (const Extent& e : extents())
    for (const int squeezed : {1, 10, 33}) {
      OperandCase<T> in(e, {}, 1);
      Weights weights(e.channels, squeezed, 0.1f), gradients(e.channels, squeezed, 1.f);
      Vectors gate(e.batch, e.channels, squeezed);
      kernels::SqueezeExcitation<T>::forward(gate.device_view(), in.device_view(),
                                             weights.device_view<kernels::SqueezeExciteWeights>(),
                                             squeezed, nullptr);
      reference::squeeze_excite_forward(gate.host_view(), in.host_view(), weights.host_view(),
                                        squeezed);
      const double area = double(e.height) * e.width;
      gate.of[0]->check({1e-5, 1e-5}, "gate");
      gate.of[1]->check({1e-5, 1e-5}, "pooled");
      gate.of[2]->check(sum_tolerance(area), "slope");
      gate.of[3]->check(sum_tolerance(area), "slope xhat");
      gate.of[8]->check({1e-5, 1e-5}, "hidden");
      gate.of[9]->check({1e-5, 1e-5}, "slope of hidden");

      SinkCase<T> sink(in, Write::assign);
      GradientSink<T> device_sink = sink.device_view();
      GradientSink<double> host_sink = sink.host_view();
      device_sink.grad = nullptr;  // only the sums
      host_sink.grad = nullptr;
      kernels::SqueezeExcitation<T>::backward(
          device_sink, gate.device_view(), gradients.device_view<kernels::SqueezeExciteGradients>(),
          in.device_view(), weights.device_view<kernels::SqueezeExciteWeights>(), squeezed,
          nullptr);
      reference::squeeze_excite_backward(host_sink, gate.host_view(), gradients.host_view(),
                                         in.host_view(), weights.host_view(), squeezed);
      gate.of[7]->check({1e-5, 1e-5}, "q");
      gradients.check(sum_tolerance(10.0 * e.batch));
      sink.check("norm", 1);
    }
}
