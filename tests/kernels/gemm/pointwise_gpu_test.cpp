// Pointwise convolutions as fused products against the reference: every shape of the kernels,
// ragged tiles, channel counts that are multiples of 8 alone, slices, every operand and gradient
// that they take; the same bits in every run; and the cuts.
#include "kernels/product.h"
#include "kernels/streamed_tiles.h"
#include "tests/kernels/gemm/pointwise_layers.h"

using namespace engine;
using namespace engine::test;

namespace {

template <class T>
void check_forward(OutputCase<T>& out, OperandCase<T>& in, Mirror<T>& weight) {
  const SliceView<double> y = out.host_view();
  reference::store_output(
      y,
      reference::convolve(as_multiplied<T>(reference::load_operand(in.host_view())), weight.host(),
                          in.host_view(), y, kPoint, false),
      static_cast<double*>(nullptr));
  CAPTURE(in.extent.channels);
  CAPTURE(out.extent.channels);
  out.check("y");
}

}  // namespace

TEST_CASE_TEMPLATE("pointwise_forward", T, __half, __nv_bfloat16) {
  if (!has_gpu()) return note_skipped("no GPU");
  const std::vector<OperandOptions> operands = {{false, Activation::none, GateKind::none},
                                                {true, Activation::none, GateKind::none},
                                                {true, Activation::relu, GateKind::none},
                                                {true, Activation::relu6, GateKind::none},
                                                {true, Activation::silu, GateKind::learned}};
  for (const PointwiseLayer& l : pointwise_layers())
    for (const OperandOptions& o : operands)
      for (const bool statistics : {true, false}) {
        OperandCase<T> in(l.in, o, 1);
        OutputCase<T> out(l.out, statistics), again(l.out, statistics);
        Mirror<T> weight(weights(l));
        const DeviceArray<float> partials = partials_for(l.out);
        for (OutputCase<T>* to : {&out, &again})
          kernels::PointwiseForward<T>::run(to->device_view(), in.device_view(), weight.device(),
                                            partials.data(), nullptr);
        check_forward(out, in, weight);
        CHECK(same_bits(out.y.download(), again.y.download()));
        CHECK(same_bits(out.mean.download(), again.mean.download()));
        CHECK(same_bits(out.var.download(), again.var.download()));
      }
}

// Groups of one to four sets of channels and two groups; one chunk of channels and several, ragged
// ones; images that tiles straddle; several tiles of a unit.
TEST_CASE_TEMPLATE("pointwise_streamed", T, __half, __nv_bfloat16) {
  if (!has_sm90()) return note_skipped("no GPU of sm_90");
  const std::vector<OperandOptions> operands = {{false, Activation::none, GateKind::none},
                                                {true, Activation::none, GateKind::none},
                                                {true, Activation::relu, GateKind::none},
                                                {true, Activation::silu, GateKind::learned}};
  std::vector<PointwiseLayer> layers = pointwise_layers();
  const auto add = [&](int batch, int height, int width, Extent in, int out, int pitch, int c0) {
    layers.push_back(layer(batch, height, width, in, {1, 1, 1, out, pitch, c0}));
  };
  add(5, 13, 11, {1, 1, 1, 64, 64, 0}, 256, 256, 0);
  add(3, 29, 27, {1, 1, 1, 128, 128, 0}, 512, 512, 0);
  add(2, 31, 33, {1, 1, 1, 256, 320, 64}, 64, 72, 8);
  add(1, 23, 19, {1, 1, 1, 480, 480, 0}, 128, 128, 0);
  add(8, 105, 107, {1, 1, 1, 24, 24, 0}, 40, 40, 0);
  add(8, 61, 63, {1, 1, 1, 136, 136, 0}, 48, 48, 0);
  int tried = 0;
  for (const PointwiseLayer& l : layers)
    for (const OperandOptions& o : operands) {
      const int64_t pixels = l.in.pixels(),
                    area = o.gate == GateKind::none ? pixels : pixels / l.in.batch;
      if (!streamed_fits(pixels, area, l.in.channels, l.out.channels, kernels::device_limits()))
        continue;
      for (const bool statistics : {true, false}) {
        ++tried;
        OperandCase<T> in(l.in, o, 1);
        OutputCase<T> out(l.out, statistics), again(l.out, statistics);
        Mirror<T> weight(weights(l));
        const SweepScratch partials(l.out);
        for (OutputCase<T>* to : {&out, &again}) {
          const kernels::Enqueue enqueue = kernels::PointwiseStreamed<T>::prepare(
              to->device_view(), in.device_view(), weight.device(), partials.view());
          REQUIRE(enqueue);
          enqueue(nullptr);
        }
        check_forward(out, in, weight);
        CHECK(same_bits(out.y.download(), again.y.download()));
        CHECK(same_bits(out.mean.download(), again.mean.download()));
        CHECK(same_bits(out.var.download(), again.var.download()));
      }
    }
  CHECK(tried > 60);
}

// Every tile lies in one unit, every set of channels in one group, and the shared memory that is
// taken is there.
TEST_CASE("the cut of streamed products") {
  const DeviceLimits l;
  int cuts = 0;
  for (const int64_t pixels : {1, 6272, 25088, 100352, 401408, 1605632})
    for (const int channels : {8, 24, 64, 128, 256, 480, 512})
      for (const int outs : {8, 40, 64, 144, 192, 256, 512, 1024}) {
        if (!streamed_fits(pixels, 3136, channels, outs, l)) continue;
        ++cuts;
        const StreamedCut c = streamed_cut(pixels, channels, outs, l);
        CHECK(int64_t{c.tiles} * kStreamedTile >= pixels);
        CHECK(c.units * c.per >= c.tiles);
        CHECK((c.units - 1) * c.per < c.tiles);
        CHECK(c.groups * c.units <= l.multiprocessors);
        CHECK(c.groups * c.columns() >= outs);
        CHECK((c.groups - 1) * c.columns() < outs);
        CHECK(c.chunks * kStreamedChunk >= channels);
        CHECK(c.stages >= kStreamedLeastStages);
        CHECK(c.shared <= l.shared_bytes - l.reserved_bytes);
      }
  CHECK(cuts > 150);
}

TEST_CASE_TEMPLATE("pointwise_dgrad", T, __half, __nv_bfloat16) {
  if (!has_gpu()) return note_skipped("no GPU");
  struct Options {
    OperandOptions in;
    bool normed;
    Write how;
    bool leaves;  // dy and f
    bool scaled = false;
  };
  const std::vector<Options> options = {
      {{true, Activation::relu, GateKind::none}, true, Write::assign, true, true},
      {{true, Activation::relu6, GateKind::none}, true, Write::assign, false, true},
      {{true, Activation::silu, GateKind::learned}, true, Write::assign, false, true},
      {{true, Activation::silu, GateKind::learned}, true, Write::assign, true},
      {{true, Activation::silu, GateKind::learned}, true, Write::assign, false},
      {{true, Activation::relu, GateKind::none}, true, Write::add, true},
      {{true, Activation::relu, GateKind::none}, false, Write::add, false},
      {{true, Activation::silu, GateKind::none}, true, Write::assign, true},
      {{true, Activation::relu6, GateKind::none}, false, Write::add, false},
      {{true, Activation::none, GateKind::none}, true, Write::add, true},
      {{false, Activation::none, GateKind::none}, false, Write::assign, false},
      {{false, Activation::none, GateKind::none}, true, Write::add, true}};
  for (const PointwiseLayer& l : pointwise_layers())
    for (const Options& o : options) {
      OperandCase<T> in(l.in, o.in, 1);
      GradientCase<T> dy(l.out, {o.normed, false, Activation::none, o.scaled}, 30);
      SinkCase<T> sink(in, o.how), again(in, o.how);
      Mirror<T> weight(weights(l));
      const DeviceArray<float> partials = partials_for(l.in);
      const DeviceArray<T> dense_dy(l.out.pixels() * l.out.channels);
      const DeviceArray<T> f(l.in.pixels() * l.in.channels);
      for (SinkCase<T>* to : {&sink, &again})
        kernels::PointwiseDgrad<T>::run(
            to->device_view(), o.leaves ? dense_dy.data() : nullptr, o.leaves ? f.data() : nullptr,
            dy.device_view(), in.device_view(), weight.device(), partials.data(),
            to == &sink ? kernels::Inputs::fresh : kernels::Inputs::settled, nullptr);
      const std::vector<double> gradient = reference::load_gradient(dy.host_view());
      reference::store_gradient(
          sink.host_view(),
          reference::convolve_transposed(gradient, weight.host(), in.host_view(), dy.host_view(),
                                         kPoint, false),
          in.host_view());
      CAPTURE(l.in.channels);
      CAPTURE(l.out.channels);
      // df is a sum over the outs of dy, rounded, times weights of about 1/√ins.
      const double df = std::sqrt(double(l.out.channels) / l.in.channels);
      const double ulp = std::is_same_v<T, __half> ? 1. / 2048 : 1. / 256;
      sink.check("G", 4 + 4 * df, 8 * ulp * df * std::sqrt(double(l.in.pixels())));
      CHECK(same_bits(sink.grad.download(), again.grad.download()));
      if (!o.leaves) continue;
      if (o.normed) check_close(dense_dy, gradient, "dy");
      if (!in.host_view().plain()) check_close(f, reference::load_operand(in.host_view()), "f");
    }
}

// The same, layers that take other shapes and grids of warps, and one with many steps in a split.
std::vector<PointwiseLayer> wgrad_layers() {
  std::vector<PointwiseLayer> all = pointwise_layers();
  const auto add = [&](int batch, int height, int width, int in, int out) {
    all.push_back(layer(batch, height, width, {1, 1, 1, in, in, 0}, {1, 1, 1, out, out, 0}));
  };
  add(1, 3, 3, 192, 32);
  add(2, 6, 5, 32, 192);
  add(2, 7, 7, 288, 48);
  add(3, 7, 5, 48, 288);
  add(1, 9, 7, 128, 128);
  add(2, 7, 7, 384, 576);
  add(4, 133, 127, 8, 16);
  return all;
}

TEST_CASE_TEMPLATE("pointwise_wgrad", T, __half, __nv_bfloat16) {
  if (!has_gpu()) return note_skipped("no GPU");
  struct Options {
    OperandOptions in;
    bool normed, scaled = false;
  };
  const std::vector<Options> options = {{{true, Activation::silu, GateKind::learned}, true},
                                        {{true, Activation::silu, GateKind::learned}, true, true},
                                        {{true, Activation::relu, GateKind::none}, true, true},
                                        {{true, Activation::relu, GateKind::none}, true},
                                        {{true, Activation::relu6, GateKind::none}, false},
                                        {{true, Activation::none, GateKind::none}, true},
                                        {{false, Activation::none, GateKind::none}, true},
                                        {{false, Activation::none, GateKind::none}, false}};
  for (const PointwiseLayer& l : wgrad_layers())
    for (const Options& o : options) {
      OperandCase<T> in(l.in, o.in, 1);
      GradientCase<T> dy(l.out, {o.normed, false, Activation::none, o.scaled}, 30);
      const size_t elements = size_t(l.in.channels) * l.out.channels;
      Mirror<float> dweight(elements, 9.f), again(elements, 9.f);  // overwritten
      const DeviceArray<float> partials(wgrad_partials(
          wgrad_cut(l.in.pixels(), l.out.channels, l.in.channels, kernels::device_limits())));
      for (Mirror<float>* to : {&dweight, &again})
        kernels::PointwiseWgrad<T>::run(to->device(), dy.device_view(), in.device_view(),
                                        partials.data(), nullptr);
      reference::convolve_weight(dweight.host(),
                                 as_multiplied<T>(reference::load_gradient(dy.host_view())),
                                 as_multiplied<T>(reference::load_operand(in.host_view())),
                                 in.host_view(), dy.host_view(), kPoint, false);
      CAPTURE(l.in.channels);
      CAPTURE(l.out.channels);
      // A factor of up to about three may have been rounded the other way, after a special function
      // of the device.
      const double ulp = std::is_same_v<T, __half> ? 1. / 2048 : 1. / 256;
      Tolerance allowed = sum_tolerance(double(l.in.pixels()));
      allowed.absolute += 8 * ulp * std::sqrt(double(l.in.pixels()));
      dweight.check(allowed, "dweight");
      CHECK(same_bits(dweight.download(), again.download()));
    }
}

// Every tile lies in one unit, every channel in one group, and the shared memory that is taken is
// there.
TEST_CASE("the cut of fused products") {
  const DeviceLimits limits, a100{108, 164 << 10, 1 << 10, 40 << 20};
  for (const DeviceLimits& l : {limits, a100})
    for (const int batch : {1, 3, 128, 1024})
      for (const int side : {1, 7, 14, 28, 56, 112})
        for (const int depth : {8, 24, 64, 96, 128, 136, 480, 992})
          for (const int channels : {8, 24, 136, 192, 992, 2304})
            for (const bool by_area : {false, true}) {
              if (!product_fits(depth, channels, l)) continue;
              const int area = side * side, pixels = batch * area;
              const ProductShape shape = product_shape(depth, channels);
              const int most = partial_rows(pixels, channels);
              const ProductCut c = product_cut(shape,
                                               {.backward = true,
                                                .pixels = pixels,
                                                .area = by_area ? area : pixels,
                                                .by_area = by_area,
                                                .depth = depth,
                                                .channels = channels,
                                                .streams = 2,
                                                .reads = by_area ? 1 : 2,
                                                .constants = 3,
                                                .sums = 3,
                                                .most_units = most},
                                               l);
              CHECK(c.strips * kProductTile >= c.area);
              CHECK((c.strips - 1) * kProductTile < c.area);
              CHECK(c.tiles == (by_area ? batch : 1) * c.strips);
              CHECK(c.tiles % c.span == 0);
              CHECK(c.pieces * c.per >= c.span);
              CHECK((c.pieces - 1) * c.per < c.span);
              CHECK(c.units == c.tiles / c.span * c.pieces);
              CHECK((c.pieces == 1 || c.units <= most));
              CHECK(c.columns % (shape.chunk * kProductBlock) == 0);
              CHECK(c.groups * c.columns >= channels);
              CHECK((c.groups - 1) * c.columns < channels);
              CHECK(c.shared <= l.shared_bytes - l.reserved_bytes);
            }
}

// Every pixel lies in one unit, every block of channels in one group, and two thread blocks fit.
TEST_CASE("the cut of products whose warps keep their channels") {
  const DeviceLimits limits, a100{108, 164 << 10, 1 << 10, 40 << 20};
  for (const DeviceLimits& l : {limits, a100})
    for (const int64_t pixels : {1, 33, 6272, 100352, 401408, 12845056})
      for (const int channels : {40, 64, 72, 104, 136, 224, 256, 264, 992, 2304})
        for (const int streams : {1, 2}) {
          const KeptCut c = kept_cut(pixels, channels, streams, l);
          CHECK(c.blocks * c.groups * kProductBlock >= channels);
          CHECK(c.blocks * (c.groups - 1) * kProductBlock < channels);
          CHECK(c.blocks * c.row_groups <= kKeptWarps);
          CHECK(c.per % c.rows == 0);
          CHECK(int64_t{c.per} * c.units >= pixels);
          CHECK(int64_t{c.per} * (c.units - 1) < pixels);
          CHECK(c.units <= partial_rows(pixels, channels));
          CHECK(kKeptBlocks * (c.shared + l.reserved_bytes) <= l.shared_bytes);
        }
}

// Every channel lies in one block, every pixel in one split and in the step of one thread, and the
// shared memory that is taken is there.
TEST_CASE("the cut of the weight gradient") {
  const DeviceLimits limits, a100{108, 164 << 10, 1 << 10, 40 << 20};
  for (const DeviceLimits& l : {limits, a100})
    for (const int64_t pixels : {1, 33, 6272, 100352, 401408, 12845056})
      for (const int rows : {8, 24, 136, 288, 2304})
        for (const int columns : {8, 40, 128, 816, 2304}) {
          const WgradCut c = wgrad_cut(pixels, rows, columns, l);
          const WgradShape& shape = kWgradShapes[c.shape];
          const int warp_columns = shape.warps / c.warp_rows;
          CHECK(c.rows.packs * kWgradPack <= c.warp_rows * shape.rows);
          CHECK(c.columns.packs * kWgradPack <= warp_columns * kWgradColumns);
          CHECK(c.rows.warps + c.columns.warps == shape.warps);
          for (const WgradSide& side : {c.rows, c.columns}) {
            CHECK(side.packs * side.blocks * kWgradPack >= side.channels);
            CHECK(side.packs * (side.blocks - 1) * kWgradPack < side.channels);
            CHECK(side.pitch >= side.packs);
            CHECK(side.pitch % 2 == 1);
            CHECK(side.step * side.packs <= side.threads());
            CHECK(side.step * side.passes >= kWgradPixels);
          }
          CHECK(c.per % kWgradPixels == 0);
          CHECK(int64_t{c.per} * c.splits >= pixels);
          CHECK(int64_t{c.per} * (c.splits - 1) < pixels);
          CHECK(c.slots >= 2);
          CHECK(c.resident * (c.shared + l.reserved_bytes) <= l.shared_bytes);
          // The partial sums stay in the cache.
          CHECK(wgrad_partials(c) * int64_t{sizeof(float)} <= l.l2_bytes);
        }
}
