// Dense 3 × 3 convolution, the gradient of its weight: dW[o][tap][c] = Σ over pixels of
// dy(pixel)·f(pixel + tap), with dy and f made once for each pixel of a tile. A persistent block
// has a group of 64 channels and holds its share of dW in registers over all of its tiles. Its
// three warpgroups have a row of the window each: the rows of a product are the channels of f,
// taken into registers once for the three taps of the row; its columns are the outs of dy, shifted
// by a tap; the inner dimension runs over positions. While a tile is multiplied, the next one is
// staged in turns, in which the warpgroups are out of step: one stages while the others multiply.
// Blocks leave their sums as rows, which merge_rows() merges.
// For each pixel it moves, in values of T, C, what the borders of the tiles read again, and for
// each group of channels C' (G), or 2 C' (G, y) behind a norm, of which all but the first come from
// L2. The rows are 4 bytes for each weight and unit, written and read.
#include "kernels/dense/tile.cuh"
#include "kernels/kernels.h"
#include "kernels/launch.cuh"
#include "kernels/merge_rows.cuh"

namespace engine::kernels {
namespace {

constexpr int kGroupPacks = kDenseGroup / kPack;
constexpr int kFraction = 256;

// A pack, or any bits, for whoever takes none of them.
template <class T>
__device__ __forceinline__ Pack<T> load_or_any(bool wanted, const T* from) {
  uint4 bits;
  asm volatile(
      "{\n.reg .pred p;\nsetp.ne.b32 p, %5, 0;\n@p ld.global.v4.b32 {%0, %1, %2, %3}, [%4];\n}\n"
      : "=r"(bits.x), "=r"(bits.y), "=r"(bits.z), "=r"(bits.w)
      : "l"(from), "r"(int{wanted}));
  return *reinterpret_cast<const Pack<T>*>(&bits);
}

// What is staged in one turn: a run of positions of f or of 32 outs of dy, in the tile `step` of
// the block.
struct StagingTurn {
  int step = 0, kind = 0;  // 0: f; from 1 on: dy
  int from = 0;
  DensePlace place;
  int kept = 0;  // positions of f that the tile before has, as its last ones
};

// 8 · Tiles outs.
template <class T, int Tiles>
struct DenseWgradKernel {
  static constexpr int kColumns = 8 * Tiles, kOutPacks = dense_wgrad_packs(kColumns) - kGroupPacks;
  static constexpr int kKinds = 1 + kOutPacks / kDensePacks;
  static constexpr int kTogether = Tiles <= 4 ? 3 : 2;  // positions of a thread in a turn
  static constexpr int kStep = kDenseWgradThreads / kDensePacks, kRun = kTogether * kStep;
  static_assert(kDenseWgradStaged % kRun == 0);
  // A pack of f in each of its two chunks, or of G and y.
  struct Batch {
    Pack<T> packs[2][kTogether];
    uint32_t inside;  // which positions are pixels
  };
  using Sums = float[3][Tiles][4];
  using Rows = uint32_t[2][4];  // of f, for a product and the one after it

  const GradientView<T>& dy;
  const OperandView<T>& in;
  const DenseCut& cut;
  DenseThread me;
  int c0 = blockIdx.x * kDenseGroup;
  int begin = blockIdx.y * cut.per, steps = min(cut.per, cut.tiles - begin);
  int turns = kKinds * dense_up(cut.staged(), kRun);  // of a tile
  // The shared memory: f and dy of two tiles, constants, places of positions.
  Pack<T>* stages = reinterpret_cast<Pack<T>*>(dynamic_shared);
  float* floats = reinterpret_cast<float*>(stages + 2 * (kGroupPacks + kOutPacks) * cut.plane);
  Constants of_in{floats, floats + kDenseGroup};
  Constants of_dy{floats + 2 * kDenseGroup, floats + 2 * kDenseGroup + kOutPacks* kPack};
  DenseOffsets offsets{reinterpret_cast<int*>(floats + dense_wgrad_floats(kColumns))};

  // Of a tile: f, then dy.
  __device__ __forceinline__ Pack<T>* stage(int step) const {
    return stages + step % 2 * (kGroupPacks + kOutPacks) * cut.plane;
  }
  // Products reach positions beyond those that are staged.
  __device__ __forceinline__ void clear_ends() const {
    const int ends = cut.plane - cut.staged();
    for (int i = me.index; i < 2 * (kGroupPacks + kOutPacks) * ends; i += me.count)
      store_vector(&stages[i / ends * cut.plane + cut.staged() + i % ends].at[0], Pack<T>{});
  }
  __device__ __forceinline__ void stage_constants() const {
    of_in.stage(kDenseGroup, c0, in.channels, me,
                [&](int c) { return fold_norm(in.norm.channel(c), in.act); });
    DenseThread other = me;  // so that no thread waits twice
    other.index = me.count - 1 - me.index;
    of_dy.stage(kOutPacks * kPack, 0, dy.channels, other, [&](int c) {
      return GradientSource<T>{dy, nullptr}.constants(c);
    });
  }

  __device__ __forceinline__ StagingTurn first_turn(int step) const {
    const DensePlace place = dense_place(cut, begin + step);
    return {step, 0, 0, place, step > 0 && place.begin == 0 ? cut.first() + cut.pitch : 0};
  }
  __device__ __forceinline__ void advance(StagingTurn& turn) const {
    turn.from += kRun;
    if (turn.from < cut.staged()) return;
    turn.from = 0;
    if (++turn.kind == kKinds) turn = first_turn(turn.step + 1);
  }
  // Asks for what a turn stages, at the positions that have pixels; of dy, those with results.
  // Where there are no such channels it reads others: the sums that they go into are left.
  __device__ __forceinline__ void read(Batch& batch, const StagingTurn& turn) const {
    DensePlace place = turn.place;
    if (turn.kind == 0) {
      place.begin = max(place.begin, turn.kept);
      const int c = c0 + me.pack * kPack, second = c + kDenseChunk;
      ask(batch, turn, place, in.x + (c < in.channels ? c : c0),
          in.x + (second < in.channels ? second : c0), in.pitch);
    } else {
      place.begin = cut.first(), place.end = place.last;
      const int c = (turn.kind - 1) * kDenseChunk + me.pack * kPack, o = c < dy.channels ? c : 0;
      ask(batch, turn, place, dy.grad + o, (dy.normed() ? dy.x : dy.grad) + o, dy.pitch);
    }
  }
  // Leaves f, or dy = G + scale·y + shift.
  __device__ __forceinline__ void leave(const Batch& batch, const StagingTurn& turn) const {
    const int c = me.pack * kPack;
    if (turn.kind == 0) {
#pragma unroll
      for (int chunk = 0; chunk < 2; ++chunk)
        visit_operand(in, of_in, chunk * kDenseChunk + c, [&](auto change) {
          put(batch, turn, turn.kept, chunk * kDensePacks,
              [&](int i) { return change(batch.packs[chunk][i]); });
        });
      return;
    }
    const int chunk = turn.kind - 1, pack = kGroupPacks + chunk * kDensePacks;
    if (!dy.normed()) return put(batch, turn, 0, pack, [&](int i) { return batch.packs[0][i]; });
    float a[kPack], b[kPack];
    of_dy.load(a, b, chunk * kDenseChunk + c);
    put(batch, turn, 0, pack,
        [&](int i) { return complete_pack(batch.packs[0][i], batch.packs[1][i], a, b); });
  }

  // Where the warp's rows of f lie: position i of them is the pixel above, at, or below position
  // i + 1 from the tile's first pixel on.
  __device__ __forceinline__ uint32_t rows(int step) const {
    return rows_address<Inner::positions>(
        banded::shared_address(stage(step) + me.warpgroup * cut.pitch), cut.plane);
  }
  __device__ __forceinline__ void begin_tile(Rows& a, int step) const {
    load_rows<Inner::positions>(a[0], rows(step));
  }
  // Begins products [from, to) of a tile. At position i of f, tap kw belongs to dy at i − kw.
  __device__ __forceinline__ void multiply(Sums& sum, Rows& a, int step, int from, int to) const {
    const uint64_t of_dy = planes_descriptor<Inner::positions>(
        banded::shared_address(stage(step) + kGroupPacks * cut.plane + cut.first() - 2), cut.plane);
    const uint32_t of_f = rows(step);
#pragma unroll 1
    for (int first = from * kDenseWgradDepth; first < to * kDenseWgradDepth;
         first += kDenseWgradDepth)
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const int at = first + half * kWarpgroupDepth;
        open_products();
#pragma unroll
        for (int kw = 0; kw < 3; ++kw)
          multiply_rows<T, Inner::positions>(sum[kw], a[half], moved(of_dy, at + 2 - kw));
        commit_products();
        wait_products<1>();  // so the other rows are free
        load_rows<Inner::positions>(a[1 - half], of_f + (at + kWarpgroupDepth) * kPackBytes);
      }
  }

  // row (C', 9, C) = the block's channels of dW.
  __device__ __forceinline__ void leave(const Sums& sum, float* row) const {
    constexpr int kVector = 4, kVectors = kDenseGroup / kVector;
    float* const buffer = reinterpret_cast<float*>(dynamic_shared);  // (outs, 9, kDenseSumPitch)
#pragma unroll
    for (int kw = 0; kw < 3; ++kw)
#pragma unroll
      for (int j = 0; j < Tiles; ++j)
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          const int o = j * 8 + 2 * me.t + i % 2, c = me.warp % 4 * 16 + i / 2 * 8 + me.g;
          buffer[(o * kDenseTaps + me.warpgroup * 3 + kw) * kDenseSumPitch + c] = sum[kw][j][i];
        }
    __syncthreads();
    for (int i = me.index; i < dy.channels * kDenseTaps * kVectors; i += me.count) {
      const int at = i / kVectors, c = i % kVectors * kVector;
      if (c0 + c < in.channels)
        *reinterpret_cast<float4*>(row + int64_t{at} * in.channels + c0 + c) =
            *reinterpret_cast<const float4*>(buffer + at * kDenseSumPitch + c);
    }
  }

 private:
  __device__ __forceinline__ void ask(Batch& batch, const StagingTurn& turn,
                                      const DensePlace& place, const T* one, const T* two,
                                      int pitch) const {
    batch.inside = 0;
#pragma unroll
    for (int i = 0; i < kTogether; ++i) {
      const int pixel = offsets.pixel(place, turn.from + me.at + i * kStep, place.end);
      batch.packs[0][i] = load_or_any(pixel >= 0, row_at(one, pixel, pitch));
      batch.packs[1][i] = load_or_any(pixel >= 0, row_at(two, pixel, pitch));
      batch.inside |= uint32_t{pixel >= 0} << i;
    }
  }
  // Stores make(i) of the batch's pixels in four planes from `pack` on, and zeros at its other
  // positions; the first `kept` positions are those of the tile before.
  template <class Make>
  __device__ __forceinline__ void put(const Batch& batch, const StagingTurn& turn, int kept,
                                      int pack, Make make) const {
    const int plane = (pack + me.pack) * cut.plane;
    Pack<T>* const to = stage(turn.step) + plane;
    const Pack<T>* const before = stage(turn.step + 1) + plane + cut.rows * cut.pitch;
#pragma unroll
    for (int i = 0; i < kTogether; ++i) {
      const int at = turn.from + me.at + i * kStep;
      if (at < kept)
        to[at] = before[at];
      else if (at < cut.plane)
        store_or_zero(to + at, make(i), batch.inside >> i & 1);
    }
  }
};

template <class T, int Tiles>
__global__ void __launch_bounds__(kDenseWgradThreads, 1)
    dense_wgrad_kernel(float* __restrict__ rows, const __grid_constant__ GradientView<T> dy,
                       const __grid_constant__ OperandView<T> in,
                       const __grid_constant__ DenseCut cut) {
  using Kernel = DenseWgradKernel<T, Tiles>;
  const Kernel k{dy, in, cut};
  k.offsets.stage(cut, k.me);
  k.clear_ends();
  __syncthreads();
  follow();
  StagingTurn turn = k.first_turn(0);
  typename Kernel::Batch batches[Kernel::kKinds], &batch = batches[0];
#pragma unroll 1
  for (; turn.from < cut.staged(); turn.from += Kernel::kRun) {
#pragma unroll
    for (turn.kind = 0; turn.kind < Kernel::kKinds; ++turn.kind) k.read(batches[turn.kind], turn);
    if (turn.from == 0) {
      k.stage_constants();
      __syncthreads();
    }
#pragma unroll
    for (turn.kind = 0; turn.kind < Kernel::kKinds; ++turn.kind) k.leave(batches[turn.kind], turn);
  }
  turn = k.first_turn(1);
  if (turn.step < k.steps) k.read(batch, turn);
  show_to_products();
  __syncthreads();

  // Of 3 turns + 1 shares of a tile's products, a warpgroup makes three between two of its turns.
  const int share = cut.products * kFraction / (3 * k.turns + 1);
  typename Kernel::Sums sum = {};
  typename Kernel::Rows a;
#pragma unroll 1
  for (int step = 0; step < k.steps; ++step) {
    k.begin_tile(a, step);
    int made = 0;
#pragma unroll 1
    for (int i = 0; i < k.turns && turn.step < k.steps; ++i) {
      const int until = (3 * i + k.me.warpgroup + 1) * share / kFraction;
      k.multiply(sum, a, step, made, until);
      made = until;
      k.leave(batch, turn);
      k.advance(turn);
      if (turn.step < k.steps) k.read(batch, turn);
    }
    k.multiply(sum, a, step, made, cut.products);
    wait_products<0>();
    show_to_products();
    __syncthreads();
  }
  k.leave(sum, rows + int64_t{blockIdx.y} * dy.channels * kDenseTaps * in.channels);
}

template <class T, int Tiles>
void run(float* dweight, const GradientView<T>& dy, const OperandView<T>& in, float* rows,
         const DenseCut& cut, cudaStream_t stream) {
  const auto kernel = dense_wgrad_kernel<T, Tiles>;
  cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, cut.shared);
  const int groups = dense_up(in.channels, kDenseGroup);
  launch(kernel, dim3(groups, cut.units), kDenseWgradThreads, cut.shared, stream, rows, dy, in,
         cut);
  const int64_t count = int64_t{dy.channels} * kDenseTaps * in.channels;
  merge_rows(dweight, rows, cut.units, count, stream);
}

}  // namespace

template <class T>
void DenseWgrad<T>::run(float* dweight, const GradientView<T>& dy, const OperandView<T>& in,
                        float* rows, cudaStream_t stream) {
  const DenseCut cut =
      dense_wgrad_cut(in.batch, in.height, in.width, in.channels, dy.channels, device_limits());
  switch (dense_columns(dy.channels)) {
    case 32: return kernels::run<T, 4>(dweight, dy, in, rows, cut, stream);
    case 48: return kernels::run<T, 6>(dweight, dy, in, rows, cut, stream);
    default: return kernels::run<T, 8>(dweight, dy, in, rows, cut, stream);
  }
}

template struct DenseWgrad<__half>;
template struct DenseWgrad<__nv_bfloat16>;

}  // namespace engine::kernels
