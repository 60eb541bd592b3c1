// Depthwise convolutions on the matrix units against the reference, whose factors are rounded to
// the storage type as theirs are: every tile, ragged stacks of images, odd sizes, channels that are
// no multiple of a group, slices, the same bits in every run; and the tiles.
#include <cmath>

#include "kernels/banded_tiles.h"
#include "tests/kernels/gpu.h"

using namespace engine;
using namespace engine::test;

namespace {

const std::vector<Window> kBandedWindows = {{3, 3, 1, 1}, {3, 3, 2, 1}, {5, 5, 1, 2}, {5, 5, 2, 2}};

// Channels in eights. Images of up to 7, 14, 28 pixels and more, whole and ragged, and stacks that
// the batch does not fill.
std::vector<Extent> banded_extents() {
  return {{1, 7, 7, 16, 16, 0},    {9, 5, 6, 72, 88, 8},   {5, 7, 7, 40, 40, 0},
          {3, 13, 9, 24, 48, 16},  {2, 14, 14, 40, 40, 0}, {1, 15, 6, 8, 8, 0},
          {2, 29, 31, 40, 56, 16}, {1, 28, 28, 24, 24, 0}, {3, 50, 7, 16, 16, 0}};
}

bool has_matrix_kernels() {
  int major = 0;
  return has_gpu() &&
         cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, 0) == cudaSuccess &&
         major >= 9;
}

// Partial sums of a launch, and counters that it leaves at zero.
class Scratch {
 public:
  Scratch(const BandedTile& tile, int sums, const Extent& e)
      : rows_(banded_partials(tile, sums, e.batch, e.height, e.width, e.channels,
                              kernels::device_limits())),
        done_(kernels::kMaxGroups) {}
  kernels::Partials view() const { return {rows_.data(), done_.data()}; }
  bool counters_are_zero() const {
    return done_.download() == std::vector<unsigned>(kernels::kMaxGroups);
  }

 private:
  DeviceArray<float> rows_;
  DeviceArray<unsigned> done_;
};

// A forward, run once for each object made of the same arguments.
template <class T>
struct ForwardCase {
  ForwardCase(const Extent& e, const Window& w, Activation act)
      : window(w),
        in(e, {true, act, GateKind::none}, 1),
        out(output_of(e, w), true),
        weight(normal(size_t(e.channels) * w.kernel_h * w.kernel_h, 5, 0, 0.3f)) {
    const Extent& o = out.extent;
    const BandedTile* tile = banded_forward_tile(w, act, o.height, o.width);
    REQUIRE(tile);
    const Scratch scratch(*tile, kBandedStatistics, o);
    const kernels::Enqueue enqueue = kernels::BandedForward<T>::prepare(
        out.device_view(), in.device_view(), weight.device(), w, scratch.view());
    REQUIRE(enqueue);
    enqueue(nullptr);
    CHECK(scratch.counters_are_zero());
  }

  void check() {
    const SliceView<double> y = out.host_view();
    const std::vector<double> f = as_multiplied<T>(reference::load_operand(in.host_view()));
    reference::store_output(y,
                            reference::convolve(f, weight.host(), in.host_view(), y, window, true),
                            static_cast<double*>(nullptr));
    out.check("y");
  }

  Window window;
  OperandCase<T> in;
  OutputCase<T> out;
  Mirror<T> weight;
};

// A backward of an output that a squeeze-excite gates.
template <class T>
struct BackwardCase {
  BackwardCase(const Extent& e, const Window& w, Activation act, Write how)
      : window(w),
        in(e, {true, act, GateKind::none}, 1),
        dy(output_of(e, w), {true, true, Activation::silu}, 30),
        sink(in, how),
        weight(normal(size_t(e.channels) * w.kernel_h * w.kernel_h, 5, 0, 0.3f)),
        dweight(weight.values().size(), 9.f) {
    const BandedTile* tile = banded_backward_tile(w, act, e.height, e.width);
    REQUIRE(tile);
    const Scratch scratch(*tile, banded_sums(w.kernel_h), e);
    const kernels::Enqueue enqueue =
        kernels::BandedBackward<T>::prepare(sink.device_view(), dweight.device(), dy.device_view(),
                                            in.device_view(), weight.device(), w, scratch.view());
    REQUIRE(enqueue);
    enqueue(nullptr);
    CHECK(scratch.counters_are_zero());
  }

  // Some factors, at random, round the other way than the reference's: a sum is off by their ulps.
  void check() {
    const double off = tolerance(kType<T>).absolute * std::sqrt(double(dy.extent.pixels()));
    const std::vector<double> gradient = as_multiplied<T>(reference::load_gradient(dy.host_view()));
    const std::vector<double> f = as_multiplied<T>(reference::load_operand(in.host_view()));
    reference::convolve_weight(dweight.host(), gradient, f, in.host_view(), dy.host_view(), window,
                               true);
    reference::store_gradient(
        sink.host_view(),
        reference::convolve_transposed(gradient, weight.host(), in.host_view(), dy.host_view(),
                                       window, true),
        in.host_view());
    dweight.check({sum_tolerance(4.0 * dy.extent.pixels()).absolute + off, 1e-5}, "dweight");
    sink.check("G", 12, off);  // up to 25 terms of 0.3, times gamma·inv_std
  }

  Window window;
  OperandCase<T> in;
  GradientCase<T> dy;
  SinkCase<T> sink;
  Mirror<T> weight;
  Mirror<float> dweight;
};

template <class T>
std::vector<double> downloaded(const Mirror<T>& mirror) {
  std::vector<double> values;
  for (const T& v : mirror.download()) values.push_back(plain(v));
  return values;
}

}  // namespace

TEST_CASE_TEMPLATE("banded depthwise forward", T, __half, __nv_bfloat16) {
  if (!has_matrix_kernels()) return note_skipped("no GPU of sm_90");
  for (const Extent& e : banded_extents())
    for (const Window& w : kBandedWindows)
      for (const Activation act : {Activation::silu, Activation::none}) {
        if (act == Activation::none && (w.kernel_h != 3 || w.stride != 1)) continue;
        CAPTURE(w.kernel_h);
        CAPTURE(w.stride);
        CAPTURE(e.height);
        CAPTURE(e.channels);
        ForwardCase<T>(e, w, act).check();
      }
}

TEST_CASE_TEMPLATE("banded depthwise backward", T, __half, __nv_bfloat16) {
  if (!has_matrix_kernels()) return note_skipped("no GPU of sm_90");
  for (const Extent& e : banded_extents())
    for (const Window& w : kBandedWindows) {
      CAPTURE(w.kernel_h);
      CAPTURE(w.stride);
      CAPTURE(e.height);
      CAPTURE(e.channels);
      BackwardCase<T>(e, w, Activation::silu, Write::assign).check();
      if (w.kernel_h != 3 || w.stride != 1) continue;
      for (const Write how : {Write::assign, Write::add})
        BackwardCase<T>(e, w, Activation::none, how).check();
    }
}

TEST_CASE_TEMPLATE("banded depthwise convolutions have the same bits in every run", T, __half,
                   __nv_bfloat16) {
  if (!has_matrix_kernels()) return note_skipped("no GPU of sm_90");
  const Extent e{40, 28, 28, 64, 64, 0};
  for (const Window& w : kBandedWindows) {
    const ForwardCase<T> y0(e, w, Activation::silu), y1(e, w, Activation::silu);
    CHECK(downloaded(y0.out.y) == downloaded(y1.out.y));
    CHECK(downloaded(y0.out.mean) == downloaded(y1.out.mean));
    CHECK(downloaded(y0.out.var) == downloaded(y1.out.var));
    const BackwardCase<T> g0(e, w, Activation::silu, Write::assign),
        g1(e, w, Activation::silu, Write::assign);
    CHECK(downloaded(g0.sink.grad) == downloaded(g1.sink.grad));
    CHECK(g0.sink.sums() == g1.sink.sums());
    CHECK(downloaded(g0.dweight) == downloaded(g1.dweight));
  }
}

TEST_CASE("layers that no banded kernel takes") {
  const auto tile = [](const Window& w, Activation act) {
    return banded_forward_tile(w, act, 28, 28);
  };
  CHECK(tile({3, 3, 1, 1}, Activation::silu));
  CHECK(!tile({3, 3, 1, 0}, Activation::silu));
  CHECK(!tile({3, 3, 3, 1}, Activation::silu));
  CHECK(!tile({7, 7, 1, 3}, Activation::silu));
  CHECK(!tile({5, 5, 1, 2}, Activation::relu6));
}

// Every place of every stack of images has one block, and a block something to do.
TEST_CASE("tiles of banded depthwise convolutions") {
  const DeviceLimits limits;
  const auto check = [&](const BandedTile* tile, int batch, int height, int width, int channels) {
    REQUIRE(tile);
    CHECK((!tile->whole() || (height <= tile->rows() && width <= 2 * tile->pairs)));
    const BandedCut cut = banded_cut(*tile, batch, height, width, channels, limits);
    CHECK(cut.groups * tile->channels() >= channels);
    CHECK((cut.groups - 1) * tile->channels() < channels);
    CHECK(cut.tiles_x * 2 * tile->pairs >= width);
    CHECK((cut.tiles_x - 1) * 2 * tile->pairs < width);
    CHECK(cut.tiles_y * tile->rows() >= height);
    CHECK((cut.tiles_y - 1) * tile->rows() < height);
    CHECK(cut.splits >= 1);
    CHECK((cut.splits - 1) * tile->images < batch);
    CHECK((cut.rows() <= kMaxTiles || cut.splits == 1));
  };
  for (const int batch : {1, 2, 5, 128, 1024})
    for (const int size : {1, 5, 7, 8, 14, 28, 56, 112, 225})
      for (const int channels : {8, 24, 40, 144, 2304})
        for (const Window& w : kBandedWindows) {
          const int out = (size - 1) / w.stride + 1;
          check(banded_forward_tile(w, Activation::silu, out, out), batch, out, out, channels);
          check(banded_backward_tile(w, Activation::silu, size, size), batch, size, size, channels);
        }
}
