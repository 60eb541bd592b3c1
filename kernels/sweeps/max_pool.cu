// The maximum pool of the networks' stems, both directions. A thread owns two channels of a strip
// of the image, a few windows wide, and walks down its rows. Each row is loaded once but for the
// strip's edges, its elements are transformed once, and its maxima over three columns serve both of
// the windows that meet it.
// Bytes: forward T for each element of x and of the output; backward 2 T for each element of x and
// 2 T for each of dy, T without a norm.
#include "kernels/sweeps/max_pool.cuh"

#include <climits>

#include "kernels/launch.cuh"
#include "kernels/merge.cuh"
#include "kernels/transform.cuh"

namespace engine::kernels {
namespace {

constexpr int kPair = 2;  // channels of a thread
constexpr Window kWindow{3, 3, 2, 1};

// Windows of a strip: as many as a thread has registers for.
template <class T>
constexpr int kStrip = sizeof(T) == 2 ? 3 : 2;

// How a (height, width) grid of windows is cut, for each image: into bands of rows and strips of
// columns. A walk is a strip of a band; a block has `per_tile` of them, one after the other in each
// row of its threads.
struct Walks {
  int height, width;           // of the image, in windows
  int band, bands;             // rows of a band, bands of an image
  int strip, across;           // windows of a strip, strips of a band
  int items, per_tile, tiles;  // walks of the batch and of a block, blocks of a group

  // The windows of the walks before `item`.
  __host__ __device__ int before(int item) const {
    const int image = item / (bands * across), left = item - image * bands * across;
    const int top = left / across * band, rows = band < height - top ? band : height - top;
    const int columns = left % across * strip;
    return (image * height + top) * width + rows * columns;
  }
  // The windows of a block.
  __host__ __device__ int count(int tile) const {
    const int begin = tile * per_tile, end = begin + per_tile < items ? begin + per_tile : items;
    return before(end) - before(begin);
  }
};

// The place of a walk.
struct Place {
  int image, top, bottom, left;  // rows [top, bottom) of windows, the first column

  __device__ Place(const Walks& w, int item) {
    image = item / (w.bands * w.across);
    const int rest = item - image * w.bands * w.across;
    top = rest / w.across * w.band;
    bottom = min(w.height, top + w.band);
    left = rest % w.across * w.strip;
  }
};

// The walks that take the fewest rows, one after the other, if a walk reads `start` rows of windows
// more than it has.
template <class T>
Walks make_walks(const Sweep& sweep, int blocks, int most_tiles, int batch, int height, int width,
                 int start) {
  const auto up = [](int a, int b) { return (a + b - 1) / b; };
  const int at_once = std::max(1, device_limits().multiprocessors * blocks / sweep.groups);
  const int walkers = std::min(at_once, most_tiles) * sweep.rows;
  Walks best{};
  int64_t least = INT64_MAX;
  for (int bands = 1; bands <= height; ++bands) {
    Walks w{height, width, up(height, bands), 0, kStrip<T>, up(width, kStrip<T>), 0, 0, 0};
    w.bands = up(height, w.band);
    w.items = batch * w.bands * w.across;
    const int turns = up(w.items, walkers);
    const int64_t rows = int64_t{turns} * (w.band + start);
    if (rows >= least) continue;
    least = rows;
    w.per_tile = turns * sweep.rows;
    w.tiles = up(w.items, w.per_tile);
    best = w;
  }
  return best;
}

// ---------------------------------------------------------------- rows of the operand

// Where the columns from `left` on lie in a row, the last one in the place of those outside.
// Offsets are made where they are used: all of them would not fit in registers.
struct Columns {
  int pitch, last;

  __device__ __forceinline__ Columns(int left, int width, int pitch)
      : pitch(pitch), last((width - 1 - left) * pitch) {
    asm volatile("" : "+r"(this->pitch), "+r"(last));
  }
  __device__ __forceinline__ int offset(int i) const { return min(i * pitch, last); }
};

constexpr int kNothing = INT_MIN;
constexpr int kInfinity = 0x7f800000;  // NaN is larger

// The columns of a strip of `Windows` windows: the last one of the strip before, then its own.
// Columns and rows outside of the image hold its nearest pixels.
template <class T, int Windows>
struct Row {
  static constexpr int kColumns = 2 * Windows + 1;
  Vector<T, kPair> at[kColumns];

  // `x` is an image at the thread's channels, `left` the first column.
  __device__ __forceinline__ void load(const T* x, const OperandView<T>& in, int row, int left) {
    const Columns columns(left, in.width, in.pitch);
    x += int64_t{min(max(row, 0), in.height - 1) * in.width + left} * in.pitch;
    at[0] = load_vector<kPair>(x + (left < 0 ? columns.pitch : 0));
#pragma unroll
    for (int i = 1; i < kColumns; ++i) at[i] = load_vector<kPair>(x + columns.offset(i));
  }

  // What maxima are taken of: the bits of column i, which relu leaves in the order of the values,
  // NaN being the largest; `kNothing` outside of the image, which −0 equals.
  __device__ __forceinline__ void key(int (&key)[kPair], int i, int left, const OperandView<T>& in,
                                      const OperandReader<T, kPair>& reader) const {
    Loaded<float> loaded[kPair];
    reader.load(loaded, at[i], in);
    // The middle column of a window lies in the image if there is such a window.
    const bool outside = i == 0 ? left < 0 : i % 2 == 0 && left + i >= in.width;
#pragma unroll
    for (int k = 0; k < kPair; ++k) key[k] = outside ? kNothing : __float_as_int(loaded[k].h);
  }
};

// What the kernels make constants of.
template <class T>
__device__ __forceinline__ void narrow(OperandView<T>& in) {
  in.act = Activation::relu;
  in.gate = nullptr;
  in.random.keep = 1;
}

// ---------------------------------------------------------------- forward

// Blocks of a multiprocessor: what the registers are cut for.
constexpr int kForwardBlocks = 3;
template <class T>
constexpr int kBackwardBlocks = sizeof(T) == 2 ? 2 : 1;

// The maxima over three columns of a row, by window.
template <int Windows>
struct Maxima {
  int key[Windows][kPair];

  template <class T>
  __device__ __forceinline__ void make(const Row<T, Windows>& row, int left,
                                       const OperandView<T>& in,
                                       const OperandReader<T, kPair>& reader) {
    int last[kPair], middle[kPair], next[kPair];
    row.key(last, 0, left, in, reader);
#pragma unroll
    for (int j = 0; j < Windows; ++j) {
      row.key(middle, 2 * j + 1, left, in, reader);
      row.key(next, 2 * j + 2, left, in, reader);
#pragma unroll
      for (int k = 0; k < kPair; ++k) {
        key[j][k] = max(max(last[k], middle[k]), next[k]);
        last[k] = next[k];
      }
    }
  }
  __device__ __forceinline__ void join(const Maxima& other) {
#pragma unroll
    for (int j = 0; j < Windows; ++j)
#pragma unroll
      for (int k = 0; k < kPair; ++k) key[j][k] = max(key[j][k], other.key[j][k]);
  }
};

// out = the maxima.
template <class T>
__global__ void __launch_bounds__(kSweepThreads, kForwardBlocks)
    stem_forward_kernel(SliceView<T> out, OperandView<T> in, Walks walks, Partials partials) {
  constexpr int kWindows = kStrip<T>;
  __shared__ SumBuffer<kPair> buffer;
  follow();
  narrow(in);
  const int c = first_channel<kPair>();
  OutputWriter<T, kPair> writer;
  const OperandReader<T, kPair> reader(in, c);
  const int end = min(walks.items, static_cast<int>(blockIdx.y + 1) * walks.per_tile);
  for (int item = blockIdx.y * walks.per_tile + threadIdx.y; item < end && c < out.channels;
       item += blockDim.y) {
    const Place place(walks, item);
    const int left = 2 * place.left - 1;
    const T* x = in.x + int64_t{place.image} * in.height * in.width * in.pitch + c;
    Row<T, kWindows> first, second;
    Maxima<kWindows> above, maxima, below;
    second.load(x, in, 2 * place.top - 1, left);
    above.make(second, left, in, reader);
    first.load(x, in, 2 * place.top, left);
    second.load(x, in, 2 * place.top + 1, left);
#pragma unroll 1
    for (int y = place.top; y < place.bottom; ++y) {
      maxima.make(first, left, in, reader);
      below.make(second, left, in, reader);
      if (y + 1 < place.bottom) {
        first.load(x, in, 2 * y + 2, left);
        second.load(x, in, 2 * y + 3, left);
      }
      if (y > 0) maxima.join(above);
      if (2 * y + 1 < in.height) maxima.join(below);
      T* to = out.y + (int64_t{place.image * out.height + y} * out.width + place.left) * out.pitch;
#pragma unroll
      for (int j = 0; j < kWindows; ++j) {
        if (place.left + j >= out.width) continue;
        const float result[kPair] = {__int_as_float(maxima.key[j][0]),
                                     __int_as_float(maxima.key[j][1])};
        writer.store(to + int64_t{j} * out.pitch + c, result, out.mean != nullptr);
      }
      above = below;
    }
  }
  if (!out.mean) return;
  writer.statistics.leave(partials.rows, c, out.channels, buffer.floats);
  finish_statistics(
      out.mean, out.var, partials, static_cast<double>(out.pixels()),
      [&](int tile) { return walks.count(tile); }, out.channels, buffer);
}

// ---------------------------------------------------------------- backward

// The maxima of a window, and the taps that have them: bit 3·row + column of the window, the second
// channel's 16 bits higher.
struct Winner {
  int key[kPair];
  uint32_t taps;

  // The first of equals wins, but of NaN the last, as in PyTorch.
  __device__ __forceinline__ void meet(const int (&other)[kPair], uint32_t of) {
#pragma unroll
    for (int k = 0; k < kPair; ++k) {
      const uint32_t replaced = __byte_perm(taps, of, k == 0 ? 0x3254 : 0x7610);  // one half of it
      taps = other[k] > min(key[k], kInfinity) ? replaced : taps;
      key[k] = max(key[k], other[k]);
    }
  }
};

// A tap of both channels.
__device__ constexpr uint32_t both(int tap) {
  return 0x10001u << tap;
}

// The winners by window: of one row of the operand as if it were the windows' first, or of all.
template <int Windows>
struct Winners {
  Winner at[Windows];

  template <class T>
  __device__ __forceinline__ void make(const Row<T, Windows>& row, int left,
                                       const OperandView<T>& in,
                                       const OperandReader<T, kPair>& reader) {
    int last[kPair], middle[kPair];
    row.key(last, 0, left, in, reader);
#pragma unroll
    for (int j = 0; j < Windows; ++j) {
      at[j] = {{last[0], last[1]}, both(0)};
      row.key(middle, 2 * j + 1, left, in, reader);
      at[j].meet(middle, both(1));
      row.key(last, 2 * j + 2, left, in, reader);
      at[j].meet(last, both(2));
    }
  }
  // Meets the winners of row `row` of the windows.
  __device__ __forceinline__ void meet(const Winners& other, int row) {
#pragma unroll
    for (int j = 0; j < Windows; ++j) at[j].meet(other.at[j].key, other.at[j].taps << 3 * row);
  }
  // Nothing was met.
  __device__ __forceinline__ void clear() {
#pragma unroll
    for (int j = 0; j < Windows; ++j) at[j] = {{kNothing, kNothing}, 0};
  }
};

// What the windows of a row give to their winners.
template <int Windows>
struct Given {
  float d[Windows][kPair];
  uint32_t taps[Windows];

  // dy of row `y` of windows, zero outside.
  template <class T>
  __device__ __forceinline__ void load(const GradientView<T>& dy,
                                       const GradientReader<T, kPair, true>& reader, int image,
                                       int y, int left) {
    typename GradientReader<T, kPair, true>::Raw raw[Windows];
    const Columns columns(left, dy.width, dy.pitch);
    const int first = (image * dy.height + min(y, dy.height - 1)) * dy.width + left;
    const int64_t at = int64_t{first} * dy.pitch + reader.c;
#pragma unroll
    for (int j = 0; j < Windows; ++j)
      raw[j].grad = load_vector<kPair>(dy.grad + at + columns.offset(j));
    if (dy.normed()) {
#pragma unroll
      for (int j = 0; j < Windows; ++j)
        raw[j].x = load_vector<kPair>(dy.x + at + columns.offset(j));
    }
#pragma unroll
    for (int j = 0; j < Windows; ++j) {
      reader.value(d[j], raw[j], dy, image);
      const bool exists = y < dy.height && left + j < dy.width;
#pragma unroll
      for (int k = 0; k < kPair; ++k) d[j][k] = exists ? d[j][k] : 0.f;
    }
  }
  __device__ __forceinline__ void name(const Winners<Windows>& winners) {
#pragma unroll
    for (int j = 0; j < Windows; ++j) taps[j] = winners.at[j].taps;
  }
  // df += what the windows give to column `column` of the strip, in row `row` of the windows.
  __device__ __forceinline__ void give(float (&df)[kPair], int column, int row) const {
    const auto add = [&](int j, int tap) {
#pragma unroll
      for (int k = 0; k < kPair; ++k)
        if (taps[j] & 1u << (16 * k + tap)) df[k] += d[j][k];
    };
    add(column / 2, 3 * row + 1 + column % 2);
    if (column % 2 == 1) add(column / 2 + 1, 3 * row);
  }
};

// G of one row of the strip, from `to` on: df of a column is what `gather` makes of zero. `columns`
// of them lie in the image; the others get nothing.
template <class T, int Windows, class Gather>
__device__ __forceinline__ void store_row(GradientWriter<T, kPair>& writer, T* to, int pitch,
                                          const OperandView<T>& in,
                                          const OperandReader<T, kPair>& reader,
                                          const Row<T, Windows>& row, int columns, Gather gather) {
#pragma unroll
  for (int i = 0; i < 2 * (Windows - 1); ++i) {
    float t[kPair] = {};
    gather(t, i);
    Loaded<float> loaded[kPair];
    reader.load(loaded, row.at[i + 1], in);
    writer.take(t, loaded, reader.norm);
    if (i < columns) store_vector(to, vector_of<T>(t));
    to += pitch;
  }
}

// G =, and its sums. In step y a walk meets rows 2y and 2y + 1 of the operand, which ends the
// windows of row y; so rows 2y − 1 and 2y get their gradients. It begins two steps early.
template <class T>
__global__ void __launch_bounds__(kSweepThreads, kBackwardBlocks<T>)
    stem_backward_kernel(GradientSink<T> sink, GradientView<T> dy, OperandView<T> in, Walks walks,
                         Partials partials) {
  constexpr int kWindows = kStrip<T> + 1;  // that touch the strip
  __shared__ SumBuffer<kPair> buffer;
  follow();
  narrow(in);
  dy.gate = nullptr;
  const int c = first_channel<kPair>();
  GradientWriter<T, kPair> writer;
  const OperandReader<T, kPair> reader(in, c);
  const GradientReader<T, kPair, true> gradient(dy, c);
  const int end = min(walks.items, static_cast<int>(blockIdx.y + 1) * walks.per_tile);
  for (int item = blockIdx.y * walks.per_tile + threadIdx.y; item < end && c < in.channels;
       item += blockDim.y) {
    const Place place(walks, item);
    const int left = 2 * place.left, columns = in.width - left;
    const int64_t pixel = int64_t{place.image} * in.height * in.width;
    const T* x = in.x + pixel * in.pitch + c;
    T* grad = sink.grad + (pixel + left) * sink.pitch + c;
    const auto row_of = [&](int y) { return grad + int64_t{y * in.width} * sink.pitch; };
    Row<T, kWindows> row_above;
    Winners<kWindows> above;  // of row 2y − 1
    Given<kWindows> before = {};
    above.clear();
#pragma unroll 1
    for (int y = max(0, place.top - 2); y < place.bottom; ++y) {
      Row<T, kWindows> first, second;
      first.load(x, in, 2 * y, left - 1);
      second.load(x, in, 2 * y + 1, left - 1);
      Given<kWindows> given;
      given.load(dy, gradient, place.image, y, place.left);
      Winners<kWindows> row;
      row.make(first, left - 1, in, reader);
      above.meet(row, 1);
      row.make(second, left - 1, in, reader);
      if (2 * y + 1 < in.height) above.meet(row, 2);
      given.name(above);
      if (y > 0 && y >= place.top && 2 * y - 1 < in.height)
        store_row(writer, row_of(2 * y - 1), sink.pitch, in, reader, row_above, columns,
                  [&](float(&df)[kPair], int i) {
                    before.give(df, i, 2);
                    given.give(df, i, 0);
                  });
      if (y >= place.top && 2 * y < in.height)
        store_row(writer, row_of(2 * y), sink.pitch, in, reader, first, columns,
                  [&](float(&df)[kPair], int i) { given.give(df, i, 1); });
      before = given;
      row_above = second;
      above = row;
    }
  }
  if (!takes_sums(sink)) return;
  writer.leave(partials.rows, c, in.channels, buffer.floats);
  finish_norm_sums(sink, in, partials, buffer);
}

template <class T>
bool serves(const OperandView<T>& in, const Window& window) {
  return window == kWindow && in.act == Activation::relu && !in.gate && !in.random.present() &&
         vectors_fit<kPair>(in);
}

}  // namespace

template <class T>
bool StemPool<T>::forward(const SliceView<T>& out, const OperandView<T>& in, const Window& window,
                          const Partials& partials, cudaStream_t stream) {
  if (!serves(in, window) || !vectors_fit<kPair>(out.y, out.channels, out.pitch)) return false;
  const Sweep sweep =
      make_sweep(out.pixels(), out.channels, kPair, {1, kSummedGroup, kForwardBlocks});
  const Walks walks = make_walks<T>(sweep, kForwardBlocks, partial_rows(out.pixels(), out.channels),
                                    in.batch, out.height, out.width, 1);
  launch(stem_forward_kernel<T>, dim3(sweep.groups, walks.tiles), sweep.block(), 0, stream, out, in,
         walks, partials);
  return true;
}

template <class T>
bool StemPool<T>::backward(const GradientSink<T>& sink, const GradientView<T>& dy,
                           const OperandView<T>& in, const Window& window, const Partials& partials,
                           cudaStream_t stream) {
  if (!serves(in, window) || dy.gated() || sink.gated() || sink.how != Write::assign ||
      !vectors_fit<kPair>(sink.grad, in.channels, sink.pitch) ||
      !vectors_fit<kPair>(dy.grad, dy.channels, dy.pitch) ||
      !vectors_fit<kPair>(dy.x, dy.channels, dy.pitch))
    return false;
  const Sweep sweep =
      make_sweep(in.pixels(), in.channels, kPair, {1, kSummedGroup, kBackwardBlocks<T>});
  const Walks walks =
      make_walks<T>(sweep, kBackwardBlocks<T>, partial_rows(in.pixels(), in.channels), in.batch,
                    in.height / 2 + 1, (in.width + 1) / 2, 1);
  launch(stem_backward_kernel<T>, dim3(sweep.groups, walks.tiles), sweep.block(), 0, stream, sink,
         dy, in, walks, partials);
  return true;
}

template struct StemPool<float>;
template struct StemPool<__half>;
template struct StemPool<__nv_bfloat16>;

}  // namespace engine::kernels
