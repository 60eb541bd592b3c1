// Pointwise convolutions as fused products, alone, joined and of narrow operands, against the
// reference: every shape of the kernel, ragged tiles, channel counts that are multiples of 8 alone,
// slices, every operand and gradient that they take; the same bits in every run; and the cuts.
#include "kernels/joined_tiles.h"
#include "kernels/narrow_tiles.h"
#include "kernels/product.h"
#include "tests/kernels/gpu.h"

using namespace engine;
using namespace engine::test;

namespace {

// A layer: the extents of its operand and of its output.
struct PointwiseLayer {
  Extent in, out;
};

PointwiseLayer layer(int batch, int height, int width, Extent in, Extent out) {
  for (Extent* e : {&in, &out}) e->batch = batch, e->height = height, e->width = width;
  return {in, out};
}

// {channels, pitch, c0} of the operand and of the output. Depths that are held, whole and in part,
// and streamed; several groups; images of less than a tile, of a tile and more.
std::vector<PointwiseLayer> pointwise_layers() {
  const auto slice = [](int channels, int pitch, int c0) {
    return Extent{1, 1, 1, channels, pitch, c0};
  };
  return {layer(1, 1, 1, slice(8, 8, 0), slice(8, 8, 0)),
          layer(2, 5, 7, slice(24, 24, 0), slice(40, 40, 0)),
          layer(3, 7, 7, slice(40, 48, 8), slice(24, 56, 16)),
          layer(2, 9, 13, slice(136, 136, 0), slice(88, 88, 0)),
          layer(1, 17, 19, slice(96, 96, 0), slice(232, 240, 8)),
          layer(2, 33, 31, slice(64, 160, 96), slice(128, 128, 0)),
          layer(5, 4, 8, slice(200, 200, 0), slice(128, 160, 32)),
          layer(3, 11, 9, slice(104, 120, 16), slice(120, 120, 0)),
          layer(2, 37, 29, slice(296, 320, 24), slice(128, 128, 0))};
}

std::vector<float> weights(const PointwiseLayer& l) {
  return normal(size_t(l.in.channels) * l.out.channels, 5, 0, 1 / std::sqrt(float(l.in.channels)));
}

constexpr Window kPoint{1, 1, 1, 0};

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
        const SliceView<double> y = out.host_view();
        reference::store_output(
            y,
            reference::convolve(reference::load_operand(in.host_view()), weight.host(),
                                in.host_view(), y, kPoint, false),
            static_cast<double*>(nullptr));
        CAPTURE(l.in.channels);
        CAPTURE(l.out.channels);
        out.check("y");
        CHECK(same_bits(out.y.download(), again.y.download()));
        CHECK(same_bits(out.mean.download(), again.mean.download()));
        CHECK(same_bits(out.var.download(), again.var.download()));
      }
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

// Groups of one to four sets of channels, ragged ones, and several tiles of a unit.
std::vector<PointwiseLayer> joined_layers() {
  std::vector<PointwiseLayer> all;
  for (const PointwiseLayer& l : pointwise_layers())
    if (joined_fits(l.in.pixels(), l.in.channels, l.out.channels, kernels::device_limits()))
      all.push_back(l);
  all.push_back(layer(2, 21, 19, {1, 1, 1, 160, 160, 0}, {1, 1, 1, 128, 128, 0}));
  all.push_back(layer(3, 9, 9, {1, 1, 1, 352, 352, 0}, {1, 1, 1, 72, 72, 0}));
  all.push_back(layer(4, 65, 63, {1, 1, 1, 64, 64, 0}, {1, 1, 1, 128, 136, 8}));
  return all;
}

namespace {

// What both gradients at once are made from.
struct JoinedOptions {
  OperandOptions in;
  bool normed;
  Write how;
  bool scaled = false;
  bool rounded = true;  // dy, before it is multiplied
};

// CHECKs what run(sink, dweight, dy, in, weight) makes, twice, where y is W · f, rounded, and its
// norm is of its own statistics.
template <class T, class Run>
void check_both_gradients(const PointwiseLayer& l, const JoinedOptions& o, Run run) {
  OperandCase<T> in(l.in, o.in, 1);
  GradientCase<T> dy(l.out, {o.normed, false, Activation::none, o.scaled}, 30);
  SinkCase<T> sink(in, o.how), again(in, o.how);
  Mirror<T> weight(weights(l));
  OutputCase<T> out(l.out, true);
  reference::store_output(
      out.host_view(),
      reference::convolve(reference::load_operand(in.host_view()), weight.host(), in.host_view(),
                          out.host_view(), kPoint, false),
      static_cast<double*>(nullptr));
  const auto floats = [](const std::vector<double>& values) {
    return std::vector<float>(values.begin(), values.end());
  };
  Mirror<T> y(floats(out.y.values()));
  std::vector<float> spread = floats(out.var.values());
  for (float& v : spread) v = std::max(v, 0.1f);  // one pixel has none
  Mirror<float> mean(floats(out.mean.values())), var(spread);
  GradientView<T> view = dy.device_view();
  GradientView<double> host = dy.host_view();
  view.x = y.device() + l.out.c0;
  host.x = y.host() + l.out.c0;
  if (o.normed) {
    view.norm.mean = mean.device(), view.norm.var = var.device();
    host.norm.mean = mean.host(), host.norm.var = var.host();
  }

  const size_t elements = size_t(l.in.channels) * l.out.channels;
  Mirror<float> dweight(elements, 9.f), dweight_again(elements, 9.f);  // overwritten
  run(sink.device_view(), dweight.device(), view, in.device_view(), weight.device());
  run(again.device_view(), dweight_again.device(), view, in.device_view(), weight.device());
  std::vector<double> gradient = reference::load_gradient(host);
  if (o.rounded) gradient = as_multiplied<T>(gradient);
  reference::store_gradient(
      sink.host_view(),
      reference::convolve_transposed(gradient, weight.host(), in.host_view(), host, kPoint, false),
      in.host_view());
  reference::convolve_weight(dweight.host(), gradient,
                             as_multiplied<T>(reference::load_operand(in.host_view())),
                             in.host_view(), host, kPoint, false);
  CAPTURE(l.in.channels);
  CAPTURE(l.out.channels);
  const double df = std::sqrt(double(l.out.channels) / l.in.channels);
  const double ulp = std::is_same_v<T, __half> ? 1. / 2048 : 1. / 256;
  const double sums = std::sqrt(double(l.in.pixels()));
  sink.check("G", 4 + 4 * df, 8 * ulp * df * sums);
  Tolerance allowed = sum_tolerance(double(l.in.pixels()));
  allowed.absolute += 8 * ulp * sums;
  dweight.check(allowed, "dweight");
  CHECK(same_bits(sink.grad.download(), again.grad.download()));
  CHECK(same_bits(sink.sums(), again.sums()));
  CHECK(same_bits(dweight.download(), dweight_again.download()));
}

}  // namespace

TEST_CASE_TEMPLATE("pointwise_joined", T, __half, __nv_bfloat16) {
  if (!has_gpu()) return note_skipped("no GPU");
  const std::vector<JoinedOptions> options = {
      {{true, Activation::relu, GateKind::none}, true, Write::add},
      {{true, Activation::silu, GateKind::none}, true, Write::assign},
      {{true, Activation::relu6, GateKind::none}, false, Write::add},
      {{true, Activation::none, GateKind::none}, true, Write::assign},
      {{false, Activation::none, GateKind::none}, false, Write::assign},
      {{false, Activation::none, GateKind::none}, true, Write::add}};
  for (const PointwiseLayer& l : joined_layers())
    for (const JoinedOptions& o : options) {
      const SweepScratch scratch(l.in);
      const DeviceArray<float> rows(joined_rows(
          joined_cut(l.in.pixels(), l.in.channels, l.out.channels, kernels::device_limits()),
          l.in.channels, l.out.channels));
      check_both_gradients<T>(
          l, o, [&](auto sink, float* dweight, auto dy, auto in, const T* weight) {
            kernels::PointwiseJoined<T>::run(sink, dweight, dy, in, weight, rows.data(),
                                             scratch.view(), nullptr);
          });
    }
}

// Operands of both widths, whole and ragged, in slices; outputs of one to four warpgroups, ragged
// ones; several tiles of a unit.
TEST_CASE_TEMPLATE("pointwise_narrow", T, __half, __nv_bfloat16) {
  int major = 0;
  if (!has_gpu() ||
      cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, 0) != cudaSuccess ||
      major != 9)
    return note_skipped("no GPU of sm_90");
  const auto of = [](int batch, int height, int width, Extent in, int out, int pitch, int c0) {
    return layer(batch, height, width, in, {1, 1, 1, out, pitch, c0});
  };
  const std::vector<PointwiseLayer> layers = {of(1, 1, 1, {1, 1, 1, 8, 8, 0}, 16, 16, 0),
                                              of(2, 5, 7, {1, 1, 1, 24, 24, 0}, 40, 40, 0),
                                              of(3, 7, 7, {1, 1, 1, 16, 48, 8}, 96, 112, 16),
                                              of(3, 21, 19, {1, 1, 1, 24, 24, 0}, 144, 144, 0),
                                              of(2, 9, 13, {1, 1, 1, 32, 32, 0}, 192, 192, 0),
                                              of(1, 17, 19, {1, 1, 1, 40, 40, 0}, 232, 240, 8),
                                              of(2, 33, 31, {1, 1, 1, 64, 160, 96}, 128, 128, 0),
                                              of(5, 4, 8, {1, 1, 1, 64, 64, 0}, 256, 256, 0),
                                              of(8, 65, 67, {1, 1, 1, 64, 64, 0}, 256, 256, 0),
                                              of(8, 105, 107, {1, 1, 1, 24, 24, 0}, 72, 72, 0)};
  const std::vector<JoinedOptions> options = {
      {{true, Activation::relu, GateKind::none}, true, Write::assign, true},
      {{true, Activation::relu, GateKind::none}, true, Write::add},
      {{true, Activation::silu, GateKind::none}, true, Write::assign},
      {{true, Activation::relu6, GateKind::none}, true, Write::add, true},
      {{true, Activation::none, GateKind::none}, true, Write::assign},
      {{false, Activation::none, GateKind::none}, true, Write::assign},
      {{false, Activation::none, GateKind::none}, true, Write::add}};
  for (const PointwiseLayer& l : layers) {
    const int channels = l.in.channels, outs = l.out.channels;
    REQUIRE(narrow_fits(l.in.pixels(), channels, outs, kernels::device_limits()));
    for (JoinedOptions o : options) {
      if (l.in.pixels() > 10000 && o.in.act != Activation::relu) continue;  // it takes seconds
      o.rounded = false;
      const SweepScratch partials(l.in);
      const DeviceArray<float> scratch(
          narrow_scratch(narrow_cut(l.in.pixels(), channels, outs, kernels::device_limits()),
                         channels, outs)
              .total());
      check_both_gradients<T>(
          l, o, [&](auto sink, float* dweight, auto dy, auto in, const T* weight) {
            const kernels::Enqueue enqueue = kernels::PointwiseNarrow<T>::prepare(
                sink, dweight, dy, in, weight, scratch.data(), partials.view());
            REQUIRE(enqueue);
            enqueue(nullptr);
          });
    }
  }
}

// Every tile lies in one unit, and the shared memory that is taken is there.
TEST_CASE("the cut of products of a narrow operand") {
  const DeviceLimits limits, a100{108, 164 << 10, 1 << 10, 40 << 20};
  int cuts = 0;
  for (const DeviceLimits& l : {limits, a100})
    for (const int64_t pixels : {1, 33, 6272, 100352, 401408, 1605632})
      for (const int outs : {16, 96, 144, 192, 256})
        for (const int channels : {8, 24, 32, 64}) {
          if (!narrow_fits(pixels, channels, outs, l)) continue;
          ++cuts;
          const NarrowCut c = narrow_cut(pixels, channels, outs, l);
          CHECK(int64_t{c.tiles} * kNarrowTile >= pixels);
          CHECK(c.units * c.per >= c.tiles);
          CHECK((c.units - 1) * c.per < c.tiles);
          CHECK(c.units <= l.multiprocessors);
          CHECK(c.columns >= channels);
          CHECK(c.stages <= kNarrowMostStages);
          CHECK(c.shared <= l.shared_bytes - l.reserved_bytes);
        }
  CHECK(cuts > 150);
}

// Every tile lies in one unit, every set of channels in one group, and the shared memory that is
// taken is there.
TEST_CASE("the cut of joined products") {
  const DeviceLimits limits, a100{108, 164 << 10, 1 << 10, 40 << 20};
  int cuts = 0;
  for (const DeviceLimits& l : {limits, a100})
    for (const int64_t pixels : {1, 33, 6272, 100352, 401408})
      for (const int outs : {8, 24, 64, 128})
        for (const int channels : {8, 64, 96, 160, 224, 512, 992}) {
          if (!joined_fits(pixels, channels, outs, l)) continue;
          ++cuts;
          const JoinedCut c = joined_cut(pixels, channels, outs, l);
          CHECK(int64_t{c.tiles} * kJoinedTile >= pixels);
          CHECK(c.units * c.per >= c.tiles);
          CHECK((c.units - 1) * c.per < c.tiles);
          CHECK(c.groups * c.units <= l.multiprocessors);
          CHECK(c.groups * c.columns() >= channels);
          CHECK((c.groups - 1) * c.columns() < channels);
          CHECK(c.sets <= kJoinedWarpgroups);
          CHECK(c.shared <= l.shared_bytes - l.reserved_bytes);
          CHECK(joined_rows(c, channels, outs) * int64_t{sizeof(float)} <= l.l2_bytes);
        }
  CHECK(cuts > 200);
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
