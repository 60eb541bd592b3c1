// Depthwise convolutions, both directions, against the reference: kernels 3 and 5, strides 1 and 2,
// odd sizes and channel counts, slices, every activation, gradients of gated and plain outputs; and
// the tiling.
#include "tests/kernels/gpu.h"

using namespace engine;
using namespace engine::test;

namespace {

const std::vector<Window> kDepthwiseWindows = {{3, 3, 1, 1}, {3, 3, 2, 1}, {5, 5, 1, 2},
                                               {5, 5, 2, 2}, {3, 3, 1, 0}, {5, 5, 3, 1}};

// At least as large as any kernel; wide and high enough for several marches, strips and items per
// tile.
std::vector<Extent> depthwise_extents() {
  return {{1, 5, 7, 3, 3, 0},     {2, 9, 6, 7, 11, 2},       {5, 8, 8, 24, 24, 0},
          {2, 33, 15, 40, 40, 0}, {1, 15, 29, 144, 160, 16}, {3, 7, 7, 30, 96, 64},
          {2, 6, 5, 40, 50, 5},   {1, 5, 5, 1, 1, 0},        {9, 7, 7, 100, 104, 4}};
}

}  // namespace

TEST_CASE_TEMPLATE("depthwise_forward", T, float, __half, __nv_bfloat16) {
  if (!has_gpu()) return note_skipped("no GPU");
  const std::vector<OperandOptions> operands = {{true, Activation::silu, GateKind::none},
                                                {true, Activation::relu, GateKind::none},
                                                {true, Activation::relu6, GateKind::none},
                                                {false, Activation::none, GateKind::none},
                                                {true, Activation::silu, GateKind::elements}};
  for (const Extent& e : depthwise_extents())
    for (const Window& w : kDepthwiseWindows)
      for (const OperandOptions& o : operands) {
        OperandCase<T> in(e, o, 1);
        OutputCase<T> out(output_of(e, w), true);
        Mirror<T> weight(normal(size_t(e.channels) * w.kernel_h * w.kernel_h, 5, 0, 0.3f));
        const DeviceArray<float> partials = partials_for(out.extent);
        kernels::DepthwiseForward<T>::run(out.device_view(), in.device_view(), weight.device(), w,
                                          partials.data(), nullptr);
        const SliceView<double> y = out.host_view();
        reference::store_output(y,
                                reference::convolve(reference::load_operand(in.host_view()),
                                                    weight.host(), in.host_view(), y, w, true),
                                static_cast<double*>(nullptr));
        CAPTURE(w.kernel_h);
        CAPTURE(w.stride);
        CAPTURE(e.channels);
        out.check("y");
      }
}

TEST_CASE_TEMPLATE("depthwise_backward", T, float, __half, __nv_bfloat16) {
  if (!has_gpu()) return note_skipped("no GPU");
  struct Options {
    OperandOptions in;
    GradientOptions dy;
    Write how;
    bool wanted = true;
  };
  const std::vector<Options> options = {
      {{true, Activation::silu, GateKind::none}, {true, true, Activation::silu}, Write::assign},
      {{true, Activation::relu, GateKind::none}, {true, false}, Write::add},
      {{true, Activation::silu, GateKind::none}, {true, false}, Write::assign, false},
      {{false, Activation::none, GateKind::none}, {false, false}, Write::assign},
      {{true, Activation::silu, GateKind::elements}, {false, true, Activation::relu}, Write::add},
      {{true, Activation::silu, GateKind::learned}, {true, false}, Write::assign}};
  for (const Extent& e : depthwise_extents())
    for (const Window& w : kDepthwiseWindows)
      for (const Options& o : options) {
        OperandCase<T> in(e, o.in, 1);
        GradientCase<T> dy(output_of(e, w), o.dy, 30);
        SinkCase<T> sink(in, o.how);
        const size_t weights = size_t(e.channels) * w.kernel_h * w.kernel_h;
        Mirror<T> weight(normal(weights, 5, 0, 0.3f));
        Mirror<float> dweight(weights, 9.f);  // overwritten
        const DeviceArray<float> partials = partials_for(e);
        const DeviceArray<float> weight_partials(depthwise_weight_partials(
            e.batch, e.height, e.width, e.channels, w, kernels::device_limits()));
        GradientSink<T> device_sink = o.wanted ? sink.device_view() : GradientSink<T>{};
        GradientSink<double> host_sink = o.wanted ? sink.host_view() : GradientSink<double>{};
        kernels::DepthwiseBackward<T>::run(device_sink, dweight.device(), dy.device_view(),
                                           in.device_view(), weight.device(), w, partials.data(),
                                           weight_partials.data(), nullptr);
        const std::vector<double> gradient = reference::load_gradient(dy.host_view());
        const std::vector<double> f = reference::load_operand(in.host_view());
        reference::convolve_weight(dweight.host(), gradient, f, in.host_view(), dy.host_view(), w,
                                   true);
        reference::store_gradient(
            host_sink,
            reference::convolve_transposed(gradient, weight.host(), in.host_view(), dy.host_view(),
                                           w, true),
            in.host_view());
        CAPTURE(w.kernel_h);
        CAPTURE(w.stride);
        CAPTURE(e.channels);
        dweight.check(sum_tolerance(4.0 * dy.extent.pixels()), "dweight");
        sink.check("G", 12);  // up to 25 terms of 0.3, times gamma·inv_std
      }
}

// Every position lies in one item, every item in one tile, the tiles fit in what the planner
// reserves and a stage fits in shared memory.
TEST_CASE("tiles of depthwise convolutions") {
  const DeviceLimits limits;
  for (const int batch : {1, 2, 5, 128, 1024})
    for (const int size : {1, 5, 7, 14, 28, 56, 112, 150, 225})
      for (const int channels : {1, 3, 24, 40, 64, 65, 144, 816, 2304})
        for (const int per_thread : {1, 2})
          for (const Window& w : kDepthwiseWindows) {
            if (channels % per_thread != 0) continue;
            const DepthwiseTiles t =
                depthwise_forward_tiles(batch, size, size, channels, per_thread, w, limits);
            CHECK(t.tiles <= partial_rows(int64_t{batch} * size * size, channels));
            CHECK(t.tiles * t.per_tile >= t.items);
            CHECK((t.tiles - 1) * t.per_tile < t.items);
            CHECK(t.items == batch * t.strips);
            CHECK(t.rows * t.strips >= size);
            CHECK(t.rows * (t.strips - 1) < size);
            CHECK(t.units * t.unit >= size);
            CHECK(t.span * t.bands >= t.units);
            CHECK(t.span * (t.bands - 1) < t.units);
            CHECK((t.stack == 1 || (t.strips == 1 && t.bands == 1)));
            CHECK(t.per_tile % t.stack == 0);
            CHECK(t.groups * t.channels >= channels);
            CHECK((t.groups - 1) * t.channels < channels);
            CHECK(t.lanes * per_thread == t.channels);
            CHECK(t.channels <= kDepthwisePitch);
            CHECK(t.threads() <= kDepthwiseThreads);
            CHECK((t.staged() + w.kernel_h * w.kernel_h * kDepthwisePitch) * sizeof(float) <=
                  limits.shared_bytes / depthwise_blocks(w.kernel_h) - limits.reserved_bytes);
          }
}
