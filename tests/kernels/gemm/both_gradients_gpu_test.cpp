// Both gradients of pointwise convolutions against the reference: joined, of narrow operands and by
// folded weights; ragged tiles, channel counts that are multiples of 8 alone, slices, every operand
// and gradient that they take; the same bits in every run; and the cuts.
#include "kernels/folded_tiles.h"
#include "kernels/joined_tiles.h"
#include "kernels/narrow_tiles.h"
#include "tests/kernels/gemm/pointwise_layers.h"

using namespace engine;
using namespace engine::test;

namespace {

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

// What both gradients at once are made from.
struct JoinedOptions {
  OperandOptions in;
  bool normed;
  Write how;
  bool scaled = false;
  bool rounded = true;  // y as it is stored, and dy before it is multiplied; else neither
};

// CHECKs what run(sink, dweight, dy, in, weight) makes, twice, where y is W · f, and its norm is of
// its own statistics.
template <class T, class Run>
void check_both_gradients(const PointwiseLayer& l, const JoinedOptions& o, Run run) {
  OperandCase<T> in(l.in, o.in, 1);
  GradientCase<T> dy(l.out, {o.normed, false, Activation::none, o.scaled}, 30);
  SinkCase<T> sink(in, o.how), again(in, o.how);
  Mirror<T> weight(weights(l));
  OutputCase<T> out(l.out, true);
  const std::vector<double> f = as_multiplied<T>(reference::load_operand(in.host_view()));
  reference::store_output(
      out.host_view(),
      reference::convolve(f, weight.host(), in.host_view(), out.host_view(), kPoint, false),
      static_cast<double*>(nullptr));
  const auto floats = [](const std::vector<double>& values) {
    return std::vector<float>(values.begin(), values.end());
  };
  Mirror<T> y(floats(out.y.values()));
  std::vector<float> spread = floats(out.var.values());
  for (float& v : spread) v = v > 0 ? v : 1.f;  // one pixel has none
  Mirror<float> mean(floats(out.mean.values())), var(spread);
  GradientView<T> view = dy.device_view();
  GradientView<double> host = dy.host_view();
  view.x = y.device() + l.out.c0;
  host.x = (o.rounded ? y : out.y).host() + l.out.c0;
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
  reference::convolve_weight(dweight.host(), gradient, f, in.host_view(), host, kPoint, false);
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

namespace {

PointwiseLayer of(int batch, int height, int width, const Extent& in, int out, int pitch, int c0) {
  return layer(batch, height, width, in, {1, 1, 1, out, pitch, c0});
}

// Of kernels that read no output.
const std::vector<JoinedOptions> kFoldedOptions = {
    {{true, Activation::relu, GateKind::none}, true, Write::assign, true, false},
    {{true, Activation::relu, GateKind::none}, true, Write::add, false, false},
    {{true, Activation::silu, GateKind::none}, true, Write::assign, false, false},
    {{true, Activation::relu6, GateKind::none}, true, Write::add, true, false},
    {{true, Activation::none, GateKind::none}, true, Write::assign, false, false},
    {{false, Activation::none, GateKind::none}, true, Write::assign, false, false},
    {{false, Activation::none, GateKind::none}, true, Write::add, false, false}};

}  // namespace

// Operands of both widths, whole and ragged, in slices; outputs of one to four warpgroups, ragged
// ones; several tiles of a unit.
TEST_CASE_TEMPLATE("pointwise_narrow", T, __half, __nv_bfloat16) {
  if (!has_sm90()) return note_skipped("no GPU of sm_90");
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
  for (const PointwiseLayer& l : layers) {
    const int channels = l.in.channels, outs = l.out.channels;
    REQUIRE(narrow_fits(l.in.pixels(), channels, outs, kernels::device_limits()));
    for (const JoinedOptions& o : kFoldedOptions) {
      if (l.in.pixels() > 10000 && o.in.act != Activation::relu) continue;  // it takes seconds
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

namespace {

// The values of a view on the device, (pixels, channels).
template <class T>
std::vector<float> values_of(const T* device, int64_t pixels, int channels, int pitch) {
  std::vector<T> rows((pixels - 1) * pitch + channels);
  REQUIRE(cudaMemcpy(rows.data(), device, rows.size() * sizeof(T), cudaMemcpyDeviceToHost) ==
          cudaSuccess);
  std::vector<float> values;
  for (int64_t p = 0; p < pixels; ++p)
    for (int c = 0; c < channels; ++c) values.push_back(plain(rows[p * pitch + c]));
  return values;
}

// aᵀ · b of (pixels, rows) and (pixels, columns), as a library leaves it at `to`.
void multiply_pixels(float* to, const std::vector<float>& a, int rows, const std::vector<float>& b,
                     int columns) {
  std::vector<double> sums(size_t(rows) * columns);
  for (size_t p = 0; p < a.size() / rows; ++p)
    for (int r = 0; r < rows; ++r)
      for (int c = 0; c < columns; ++c)
        sums[size_t(r) * columns + c] += double(a[p * rows + r]) * b[p * columns + c];
  const std::vector<float> left(sums.begin(), sums.end());
  REQUIRE(cudaMemcpy(to, left.data(), left.size() * sizeof(float), cudaMemcpyHostToDevice) ==
          cudaSuccess);
}

}  // namespace

// One group of channels, several, ragged ones, of operands and outputs of one chunk and several, in
// slices; several tiles of a unit; f that is left, and an operand that lies there as it is.
TEST_CASE_TEMPLATE("pointwise_folded", T, __half, __nv_bfloat16) {
  if (!has_sm90()) return note_skipped("no GPU of sm_90");
  const std::vector<PointwiseLayer> layers = {of(1, 1, 1, {1, 1, 1, 8, 8, 0}, 16, 16, 0),
                                              of(3, 7, 7, {1, 1, 1, 16, 48, 8}, 96, 112, 16),
                                              of(3, 11, 9, {1, 1, 1, 48, 48, 0}, 288, 288, 0),
                                              of(2, 9, 13, {1, 1, 1, 96, 96, 0}, 576, 576, 0),
                                              of(1, 17, 19, {1, 1, 1, 136, 152, 16}, 232, 240, 8),
                                              of(2, 33, 31, {1, 1, 1, 128, 128, 0}, 512, 512, 0),
                                              of(5, 61, 59, {1, 1, 1, 72, 72, 0}, 144, 144, 0)};
  for (const PointwiseLayer& l : layers) {
    const int channels = l.in.channels, outs = l.out.channels;
    const int64_t pixels = l.in.pixels();
    REQUIRE(folded_fits(pixels, channels, outs, kernels::device_limits()));
    for (const JoinedOptions& o : kFoldedOptions) {
      if (pixels > 2000 && o.in.act != Activation::relu) continue;  // it takes seconds
      const SweepScratch partials(l.in);
      const FoldedScratch sizes = folded_scratch(
          folded_cut(pixels, channels, outs, kernels::device_limits()), channels, outs);
      const DeviceArray<float> scratch(sizes.total());
      const DeviceArray<T> f(pixels * channels);
      float* const sums = scratch.data() + sizes.before_sums();
      check_both_gradients<T>(
          l, o, [&](auto sink, float* dweight, auto dy, auto in, const T* weight) {
            const bool plain = in.plain();
            const kernels::Enqueue enqueue = kernels::PointwiseFolded<T>::prepare(
                sink, plain ? nullptr : f.data(), dy, in, weight, scratch.data(), partials.view());
            REQUIRE(enqueue);
            enqueue(nullptr);
            const auto g = values_of(dy.grad, pixels, outs, dy.pitch),
                       operand = plain ? values_of(in.x, pixels, channels, in.pitch)
                                       : values_of(f.data(), pixels, channels, channels);
            multiply_pixels(sums, g, outs, operand, channels);
            multiply_pixels(sums + int64_t{outs} * channels, operand, channels, operand, channels);
            kernels::PointwiseFolded<T>::finish(dweight, dy, weight, channels, sizes,
                                                scratch.data(), nullptr);
          });
    }
  }
}

// Every tile lies in one unit, every channel in one group, and the shared memory that is taken is
// there.
TEST_CASE("the cut of products of folded weights") {
  const DeviceLimits limits, a100{108, 164 << 10, 1 << 10, 40 << 20};
  int cuts = 0;
  for (const DeviceLimits& l : {limits, a100})
    for (const int64_t pixels : {1, 33, 6272, 25088, 100352, 401408})
      for (const int outs : {16, 144, 288, 512, 576, 816, 1024})
        for (const int channels : {8, 48, 64, 96, 128, 136, 256}) {
          if (!folded_fits(pixels, channels, outs, l)) continue;
          ++cuts;
          const FoldedCut c = folded_cut(pixels, channels, outs, l);
          CHECK(int64_t{c.tiles} * kFoldedTile >= pixels);
          CHECK(c.units * c.per >= c.tiles);
          CHECK((c.units - 1) * c.per < c.tiles);
          CHECK(c.groups * c.units <= l.multiprocessors);
          CHECK(c.groups * kFoldedColumns >= channels);
          CHECK((c.groups - 1) * kFoldedColumns < channels);
          CHECK(c.operands() >= channels);
          CHECK(c.depth() >= outs);
          CHECK(c.stages <= kFoldedMostStages);
          CHECK(c.shared <= l.shared_bytes - l.reserved_bytes);
        }
  CHECK(cuts > 200);
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
