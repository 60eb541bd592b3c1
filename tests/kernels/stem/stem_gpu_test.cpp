// The first convolution of an image, both directions, against the reference: both windows, images
// smaller than a product and wider than a tile, odd heights, channels that end within a group, and
// in a second one; slices; the same bits in every run; and the cut.
#include <array>
#include <numeric>

#include "kernels/stem_tiles.h"
#include "tests/kernels/gpu.h"

using namespace engine;
using namespace engine::test;

namespace {

struct StemLayer {
  int kernel;
  Extent in, out;

  Window window() const { return {kernel, kernel, kStemStride, kernel / 2}; }
  size_t weights() const { return size_t(stem_window(kernel)) * out.channels; }
};

// {channels, pitch, c0} of the output.
std::vector<StemLayer> stem_layers() {
  std::vector<StemLayer> all;
  const auto add = [&](int batch, int height, int width, const std::array<int, 3>& out) {
    for (const int kernel : {3, 7})
      all.push_back({kernel,
                     {batch, height, width, kStemChannels, kStemChannels, 0},
                     {batch, (height + 1) / 2, (width + 1) / 2, out[0], out[1], out[2]}});
  };
  add(1, 1, 4, {8, 8, 0});
  add(3, 9, 12, {24, 24, 0});
  add(2, 33, 68, {40, 56, 8});
  add(1, 30, 300, {64, 64, 0});
  add(2, 64, 64, {32, 96, 64});
  add(1, 17, 40, {96, 96, 0});
  add(5, 21, 28, {80, 80, 0});
  return all;
}

}  // namespace

TEST_CASE_TEMPLATE("stem_forward", T, __half, __nv_bfloat16) {
  if (!has_gpu()) return note_skipped("no GPU");
  for (const StemLayer& l : stem_layers())
    for (const bool statistics : {true, false}) {
      OperandCase<T> in(l.in, {false, Activation::none, GateKind::none}, 1);
      OutputCase<T> out(l.out, statistics), again(l.out, statistics);
      const float deviation = 1 / std::sqrt(float(stem_window(l.kernel)));
      Mirror<T> weight(normal(l.weights(), 5, 0, deviation));
      const SweepScratch scratch(l.out);
      for (OutputCase<T>* to : {&out, &again})
        kernels::StemForward<T>::run(to->device_view(), in.device_view(), weight.device(), l.kernel,
                                     scratch.view(), nullptr);
      const SliceView<double> y = out.host_view();
      reference::store_output(
          y,
          reference::convolve(reference::load_operand(in.host_view()), weight.host(),
                              in.host_view(), y, l.window(), false),
          static_cast<double*>(nullptr));
      CAPTURE(l.kernel);
      CAPTURE(l.in.width);
      CAPTURE(l.out.channels);
      out.check("y");
      CHECK(same_bits(out.y.download(), again.y.download()));
      CHECK(same_bits(out.mean.download(), again.mean.download()));
      CHECK(same_bits(out.var.download(), again.var.download()));
    }
}

TEST_CASE_TEMPLATE("stem_wgrad", T, __half, __nv_bfloat16) {
  if (!has_gpu()) return note_skipped("no GPU");
  for (const StemLayer& l : stem_layers())
    for (const bool normed : {true, false}) {
      OperandCase<T> in(l.in, {false, Activation::none, GateKind::none}, 1);
      GradientCase<T> dy(l.out, {normed, false}, 30);
      const DeviceArray<float> rows(stem_wgrad_rows(l.in.batch, l.in.height, l.in.width, l.kernel,
                                                    l.out.channels, kernels::device_limits()));
      const DeviceArray<float> dweight(l.weights()), again(l.weights());
      for (const DeviceArray<float>* to : {&dweight, &again})
        kernels::StemWgrad<T>::run(to->data(), dy.device_view(), in.device_view(), l.kernel,
                                   rows.data(), nullptr);
      std::vector<double> expected(l.weights());
      reference::convolve_weight(expected.data(),
                                 as_multiplied<T>(reference::load_gradient(dy.host_view())),
                                 as_multiplied<T>(reference::load_operand(in.host_view())),
                                 in.host_view(), dy.host_view(), l.window(), false);
      std::vector<double> ours;
      for (const float v : dweight.download()) ours.push_back(v);
      CAPTURE(l.kernel);
      CAPTURE(l.in.width);
      CAPTURE(l.out.channels);
      // A few of the values, of about one, are rounded the other way.
      const double ulp = std::is_same_v<T, __half> ? 1. / 2048 : 1. / 256;
      const double pixels = double(dy.host_view().pixels());
      expect_close(ours, expected, {0.5 * ulp * std::sqrt(pixels), 1e-4}, "dW");
      CHECK(same_bits(dweight.download(), again.download()));
    }
}

namespace {

// Every output lies in one tile, at one position of it; the units have all tiles and count their
// outputs; every value of a window that lies in the image is staged, inside of its row; and the
// shared memory that is taken is there.
void check_cut(const StemCut& c, int most_units, const DeviceLimits& limits) {
  CAPTURE(c.batch);
  CAPTURE(c.height);
  CAPTURE(c.width);
  CAPTURE(c.kernel);
  std::vector<int> met(size_t(c.batch) * c.out_height * c.out_width);
  std::vector<int> counted(c.units);
  for (int tile = 0; tile < c.tiles; ++tile) {
    const StemPlace place = stem_place(c, tile);
    for (int y = 0; y < place.rows; ++y)
      for (int x = 0; x < place.columns; ++x)
        ++met[(size_t(place.image) * c.out_height + place.y + y) * c.out_width + place.x + x];
    counted[tile / c.per] += place.rows * place.columns;
    CHECK((place.rows > 0 && place.columns > 0));
  }
  CHECK(std::count(met.begin(), met.end(), 1) == std::ptrdiff_t(met.size()));
  for (int unit = 0; unit < c.units; ++unit) CHECK(counted[unit] == stem_count(c, unit));
  CHECK(stem_value(c.kernel, 0) >= 0);
  CHECK(stem_value(c.kernel, 0) % 2 == 0);
  CHECK(stem_value(c.kernel, c.columns - 1) + stem_row_blocks(c.kernel) * kStemBlock <= c.pitch());
  CHECK(c.columns % kStemStep == 0);
  CHECK(c.units * c.per >= c.tiles);
  CHECK((c.units - 1) * c.per < c.tiles);
  CHECK(c.units <= most_units);
  CHECK(c.shared <= limits.shared_bytes - limits.reserved_bytes);
}

}  // namespace

TEST_CASE("the cut of first convolutions") {
  const DeviceLimits limits, a100{108, 164 << 10, 1 << 10, 40 << 20};
  int cuts = 0;
  for (const DeviceLimits& l : {limits, a100})
    for (const int kernel : {3, 7})
      for (const int batch : {1, 3, 16})
        for (const int height : {1, 57, 224})
          for (const int width : {4, 32, 224, 300, 380, 600})
            for (const int outs : {8, 40, 64, 96}) {
              REQUIRE(stem_fits(batch, height, width, kernel, outs, l));
              ++cuts;
              const int64_t outputs = int64_t{batch} * ((height + 1) / 2) * ((width + 1) / 2);
              const StemCut wgrad = stem_wgrad_cut(batch, height, width, kernel, outs, l);
              check_cut(stem_forward_cut(batch, height, width, kernel, outs, l),
                        partial_rows(outputs, outs), l);
              check_cut(wgrad, l.multiprocessors, l);
              CHECK(wgrad.positions() <=
                    kStemWgradThreads / (stem_columns(outs) / kStemBlock) * kStemTogether);
            }
  CHECK(cuts > 250);
}

TEST_CASE("the inner dimension of a first convolution has every element of the window once") {
  for (const int kernel : {3, 7}) {
    std::vector<int> elements;
    for (int block = 0; block < stem_blocks(kernel) + 1; ++block)
      for (int at = 0; at < kStemBlock; ++at)
        if (const int e = stem_element(kernel, block, at); e >= 0) elements.push_back(e);
    std::vector<int> expected(stem_window(kernel));
    std::iota(expected.begin(), expected.end(), 0);
    CHECK(elements == expected);
  }
}
