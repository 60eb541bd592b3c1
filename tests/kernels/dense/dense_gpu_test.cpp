// Dense 3 × 3 convolutions, every direction, against the reference: images of less than a cell, of
// several to a tile, of several tiles; channel counts that end within a chunk; slices; the same bits
// in every run; and the cut.
#include <array>
#include <cstring>

#include "kernels/dense_tiles.h"
#include "tests/kernels/gpu.h"

using namespace engine;
using namespace engine::test;

namespace {

constexpr Window kWindow{3, 3, 1, 1};

// A layer: the extents of its operand and of its output.
struct Layer {
  Extent in, out;
};

// {channels, pitch, c0} of the operand and of the output.
std::vector<Layer> layers() {
  const auto layer = [](int batch, int height, int width, const std::array<int, 3>& in,
                        const std::array<int, 3>& out) {
    return Layer{{batch, height, width, in[0], in[1], in[2]},
                 {batch, height, width, out[0], out[1], out[2]}};
  };
  return {layer(1, 1, 1, {16, 16, 0}, {8, 8, 0}),      layer(3, 7, 7, {128, 128, 0}, {32, 96, 64}),
          layer(9, 3, 5, {48, 56, 8}, {24, 24, 0}),    layer(2, 14, 14, {64, 64, 0}, {32, 40, 8}),
          layer(2, 9, 75, {16, 32, 16}, {40, 40, 0}),  layer(1, 57, 13, {96, 96, 0}, {48, 64, 16}),
          layer(2, 33, 31, {112, 112, 0}, {64, 64, 0})};
}

std::vector<float> weights(const Layer& l) {
  const float deviation = 1 / std::sqrt(float(kDenseTaps * l.in.channels));
  return normal(size_t(l.in.channels) * kDenseTaps * l.out.channels, 5, 0, deviation);
}

template <class T>
bool same_bits(const std::vector<T>& a, const std::vector<T>& b) {
  return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size() * sizeof(T)) == 0;
}

}  // namespace

TEST_CASE_TEMPLATE("dense_forward", T, __half, __nv_bfloat16) {
  if (!has_gpu()) return note_skipped("no GPU");
  const std::vector<OperandOptions> operands = {{true, Activation::relu, GateKind::none},
                                                {true, Activation::none, GateKind::none},
                                                {false, Activation::relu, GateKind::none},
                                                {false, Activation::none, GateKind::none}};
  for (const Layer& l : layers())
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

// Every pixel lies in one cell of one tile, what a cell reads is staged, and the shared memory that
// is taken is there.
TEST_CASE("the cut of dense convolutions") {
  const DeviceLimits limits, a100{108, 164 << 10, 1 << 10, 40 << 20};
  for (const DeviceLimits& l : {limits, a100})
    for (const int batch : {1, 3, 64})
      for (const int height : {1, 7, 14, 57})
        for (const int width : {1, 7, 28, 56, 150})
          for (const int channels : {16, 128, 192})
            for (const int outs : {8, 32, 48, 64}) {
              const DenseCut c = dense_forward_cut(batch, height, width, channels, outs, l);
              if (c.units == 0) continue;
              CAPTURE(batch);
              CAPTURE(height);
              CAPTURE(width);
              std::vector<int> met(size_t(batch) * height * width);
              int count = 0, furthest = 0;
              for (int tile = 0; tile < c.tiles; ++tile) {
                const DensePlace place = dense_place(c, tile);
                for (int cell = 0; cell < c.cells(); ++cell) {
                  const int corner = dense_corner(c, cell);
                  for (int y = 0; y < kDenseRows; ++y)
                    for (int x = 0; x < kDenseWidth; ++x) {
                      const int at = corner + (y + 1) * c.pitch + x + 1;
                      furthest = std::max(furthest, at + c.pitch + 1);
                      const int pixel = dense_staged(c, place, at);
                      if (pixel >= 0) ++met[pixel];
                    }
                }
              }
              for (int unit = 0; unit < c.units; ++unit) count += dense_count(c, unit);
              CHECK(std::count(met.begin(), met.end(), 1) == int64_t(met.size()));
              CHECK(count == int64_t(met.size()));
              CHECK(furthest < c.staged);
              CHECK(c.cells() <= 2 * c.shape.pixels);
              CHECK(c.units * c.per >= c.tiles);
              CHECK(c.units <= partial_rows(int64_t(met.size()), outs));
              CHECK(c.staged * kDensePacks <= 32 * c.shape.threads());
              CHECK(c.shared <= l.shared_bytes - l.reserved_bytes);
            }
}
