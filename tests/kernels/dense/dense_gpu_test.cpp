// Dense 3 × 3 convolutions, every direction, against the reference: images of less than a product,
// of several to a tile, of several tiles; channel counts that end within a chunk or a group;
// slices; the same bits in every run; and the cut.
#include <array>

#include "kernels/dense_tiles.h"
#include "tests/kernels/gpu.h"

using namespace engine;
using namespace engine::test;

namespace {

constexpr Window kWindow{3, 3, 1, 1};

// A layer: the extents of its operand and of its output.
struct DenseLayer {
  Extent in, out;
};

// {channels, pitch, c0} of the operand and of the output.
std::vector<DenseLayer> dense_layers() {
  const auto layer = [](int batch, int height, int width, const std::array<int, 3>& in,
                        const std::array<int, 3>& out) {
    return DenseLayer{{batch, height, width, in[0], in[1], in[2]},
                      {batch, height, width, out[0], out[1], out[2]}};
  };
  return {layer(1, 1, 1, {16, 16, 0}, {8, 8, 0}),     layer(3, 7, 7, {128, 128, 0}, {32, 96, 64}),
          layer(9, 3, 5, {48, 56, 8}, {24, 24, 0}),   layer(2, 14, 14, {64, 64, 0}, {32, 40, 8}),
          layer(2, 9, 75, {16, 32, 16}, {40, 40, 0}), layer(1, 57, 13, {96, 96, 0}, {48, 64, 16}),
          layer(2, 33, 31, {64, 64, 0}, {64, 64, 0})};
}

std::vector<float> weights(const DenseLayer& l) {
  const float deviation = 1 / std::sqrt(float(kDenseTaps * l.in.channels));
  return normal(size_t(l.in.channels) * kDenseTaps * l.out.channels, 5, 0, deviation);
}

}  // namespace

TEST_CASE_TEMPLATE("dense_forward", T, __half, __nv_bfloat16) {
  if (!has_gpu()) return note_skipped("no GPU");
  const std::vector<OperandOptions> operands = {{true, Activation::relu, GateKind::none},
                                                {true, Activation::none, GateKind::none},
                                                {false, Activation::relu, GateKind::none},
                                                {false, Activation::none, GateKind::none}};
  for (const DenseLayer& l : dense_layers())
    for (const OperandOptions& o : operands)
      for (const bool statistics : {true, false}) {
        OperandCase<T> in(l.in, o, 1);
        OutputCase<T> out(l.out, statistics), again(l.out, statistics);
        Mirror<T> weight(weights(l));
        const SweepScratch scratch(l.out);
        for (OutputCase<T>* to : {&out, &again})
          kernels::DenseForward<T>::run(to->device_view(), in.device_view(), weight.device(),
                                        scratch.view(), nullptr);
        const SliceView<double> y = out.host_view();
        reference::store_output(
            y,
            reference::convolve(reference::load_operand(in.host_view()), weight.host(),
                                in.host_view(), y, kWindow, false),
            static_cast<double*>(nullptr));
        CAPTURE(l.in.channels);
        CAPTURE(l.out.channels);
        out.check("y");
        CHECK(same_bits(out.y.download(), again.y.download()));
        CHECK(same_bits(out.mean.download(), again.mean.download()));
        CHECK(same_bits(out.var.download(), again.var.download()));
      }
}

TEST_CASE_TEMPLATE("dense_wgrad", T, __half, __nv_bfloat16) {
  if (!has_gpu()) return note_skipped("no GPU");
  struct Options {
    OperandOptions in;
    bool normed;
  };
  const std::vector<Options> options = {{{true, Activation::relu, GateKind::none}, true},
                                        {{true, Activation::none, GateKind::none}, false},
                                        {{false, Activation::none, GateKind::none}, true}};
  for (const DenseLayer& l : dense_layers())
    for (const Options& o : options) {
      OperandCase<T> in(l.in, o.in, 1);
      GradientCase<T> dy(l.out, {o.normed, false}, 30);
      const size_t count = size_t(l.in.channels) * kDenseTaps * l.out.channels;
      const DeviceArray<float> rows(dense_wgrad_rows(l.in.batch, l.in.height, l.in.width,
                                                     l.in.channels, l.out.channels,
                                                     kernels::device_limits()));
      const DeviceArray<float> dweight(count), again(count);
      for (const DeviceArray<float>* to : {&dweight, &again})
        kernels::DenseWgrad<T>::run(to->data(), dy.device_view(), in.device_view(), rows.data(),
                                    nullptr);
      std::vector<double> expected(count);
      reference::convolve_weight(expected.data(),
                                 as_multiplied<T>(reference::load_gradient(dy.host_view())),
                                 as_multiplied<T>(reference::load_operand(in.host_view())),
                                 in.host_view(), dy.host_view(), kWindow, false);
      std::vector<double> ours;
      for (const float v : dweight.download()) ours.push_back(v);
      CAPTURE(l.in.channels);
      CAPTURE(l.out.channels);
      // A few of the values, of about one, are rounded the other way.
      const double ulp = std::is_same_v<T, __half> ? 1. / 2048 : 1. / 256;
      expect_close(ours, expected, {0.5 * ulp * std::sqrt(double(l.in.pixels())), 1e-4}, "dW");
      CHECK(same_bits(dweight.download(), again.download()));
    }
}

TEST_CASE_TEMPLATE("dense_dgrad", T, __half, __nv_bfloat16) {
  if (!has_gpu()) return note_skipped("no GPU");
  struct Options {
    OperandOptions in;
    bool normed;
    Write how;
  };
  const std::vector<Options> options = {
      {{true, Activation::relu, GateKind::none}, true, Write::assign},
      {{true, Activation::relu, GateKind::none}, false, Write::add},
      {{true, Activation::none, GateKind::none}, true, Write::add},
      {{false, Activation::relu, GateKind::none}, true, Write::assign},
      {{false, Activation::none, GateKind::none}, true, Write::add},
      {{false, Activation::none, GateKind::none}, false, Write::assign}};
  for (const DenseLayer& l : dense_layers())
    for (const Options& o : options) {
      OperandCase<T> in(l.in, o.in, 1);
      GradientCase<T> dy(l.out, {o.normed, false}, 30);
      SinkCase<T> sink(in, o.how), again(in, o.how);
      Mirror<T> weight(weights(l));
      const SweepScratch scratch(l.in);
      for (SinkCase<T>* to : {&sink, &again})
        kernels::DenseDgrad<T>::run(
            to->device_view(), dy.device_view(), in.device_view(), weight.device(), scratch.view(),
            to == &sink ? kernels::Inputs::fresh : kernels::Inputs::settled, nullptr);
      reference::store_gradient(sink.host_view(),
                                reference::convolve_transposed(
                                    as_multiplied<T>(reference::load_gradient(dy.host_view())),
                                    weight.host(), in.host_view(), dy.host_view(), kWindow, false),
                                in.host_view());
      CAPTURE(l.in.channels);
      CAPTURE(l.out.channels);
      sink.check("G");
      CHECK(same_bits(sink.grad.download(), again.grad.download()));
      CHECK(same_bits(sink.sums(), again.sums()));
    }
}

namespace {

// The pixel of the batch at position i of a tile, or −1.
int pixel_at(const DenseCut& c, const DensePlace& place, int i) {
  const int offset = dense_offset(c, i);
  return offset != kDenseBorder && i >= place.begin && i < place.end ? place.pixel + offset : -1;
}

// The pixel a tap away, or −1 outside of the image.
int neighbour(const DenseCut& c, int pixel, int tap) {
  const int x = pixel % c.width + tap % 3 - 1, y = pixel / c.width % c.height + tap / 3 - 1;
  const bool inside = x >= 0 && x < c.width && y >= 0 && y < c.height;
  return inside ? pixel + (tap / 3 - 1) * c.width + tap % 3 - 1 : -1;
}

// Every pixel is one result of one tile, and is multiplied there; each of its taps is where the
// tap's offset says, and nothing is if it lies outside of the image; nor is there anything where
// products reach beyond; the units have all tiles; and the shared memory that is taken is there.
// Products are of `depth` positions, which end `ahead` or more behind the last result.
void check_cut(const DenseCut& c, int depth, int ahead, int most_units,
               const DeviceLimits& limits) {
  const int64_t pixels = int64_t{c.batch} * c.height * c.width;
  CAPTURE(c.batch);
  CAPTURE(c.height);
  CAPTURE(c.width);
  std::vector<int> met(pixels);
  int64_t wrong = 0;
  for (int tile = 0; tile < c.tiles; ++tile) {
    const DensePlace place = dense_place(c, tile);
    for (int i = 0; i < place.last; ++i) {
      const int pixel = pixel_at(c, place, i);
      if (i < c.first() || pixel < 0) continue;
      ++met[pixel];
      wrong += i + ahead >= c.first() + c.products * depth;
      for (int tap = 0; tap < kDenseTaps; ++tap)
        wrong += pixel_at(c, place, i + (tap / 3 - 1) * c.pitch + tap % 3 - 1) !=
                 neighbour(c, pixel, tap);
    }
    for (int i = c.staged(); i < c.plane; ++i) wrong += pixel_at(c, place, i) >= 0;
  }
  int64_t count = 0;
  for (int unit = 0; unit < c.units; ++unit) count += dense_count(c, unit);
  CHECK(std::count(met.begin(), met.end(), 1) == pixels);
  CHECK(wrong == 0);
  CHECK(count == pixels);
  CHECK(c.staged() <= c.plane);
  CHECK(2 * c.first() + c.products * depth <= c.plane);
  CHECK(c.units * c.per >= c.tiles);
  CHECK((c.units - 1) * c.per < c.tiles);
  CHECK(c.units <= most_units);
  CHECK(c.shared <= limits.shared_bytes - limits.reserved_bytes);
}

}  // namespace

TEST_CASE("the cut of dense convolutions") {
  const DeviceLimits limits, a100{108, 164 << 10, 1 << 10, 40 << 20};
  int cuts = 0;
  for (const DeviceLimits& l : {limits, a100})
    for (const int batch : {1, 3, 16})
      for (const int height : {1, 7, 14, 57})
        for (const int width : {1, 7, 28, 56, 150})
          for (const auto& [channels, outs] :
               {std::pair{16, 8}, {128, 32}, {192, 48}, {96, 48}, {64, 64}}) {
            if (!dense_fits(batch, height, width, channels, outs, l)) continue;
            ++cuts;
            const int64_t pixels = int64_t{batch} * height * width;
            const auto cut_by = [&](auto cut) {
              return cut(batch, height, width, channels, outs, l);
            };
            const DenseCut forward = cut_by(dense_forward_cut), dgrad = cut_by(dense_dgrad_cut),
                           wgrad = cut_by(dense_wgrad_cut);
            check_cut(forward, kDenseRows, 0, partial_rows(pixels, outs), l);
            check_cut(dgrad, kDenseRows, 0, partial_rows(pixels, channels), l);
            check_cut(wgrad, kDenseWgradDepth, 2, l.multiprocessors, l);
            CHECK(forward.products <= dense_most_products(dense_columns(outs)));
            CHECK(forward.staged() <= kDenseMostStaged);
            CHECK(dgrad.staged() <= kDenseMostStaged);
            CHECK(wgrad.staged() <= kDenseWgradStaged);
          }
  CHECK(cuts > 250);
}
