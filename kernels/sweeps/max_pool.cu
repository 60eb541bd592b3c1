// The maximum pool of the networks' stems, both directions. Forward, a thread owns two channels of
// a strip of the image, a few windows wide, and walks down its rows: each row is loaded once but
// for the strip's edges, and the largest of three of its columns serves both of the windows that
// meet it. u rises with x, or falls, so x is compared, and u is made of the winners alone. What is
// kept of them spares the backward x: there a thread owns four channels of two columns, and walks
// down the windows that touch them.
// Bytes: forward T for each element of x and of the output, and T + 1 for the latter if winners are
// kept; backward T for each element of x, and for each of dy 2 T + 1, T more with a norm.
#include "kernels/sweeps/max_pool.cuh"

#include <type_traits>

#include "kernels/launch.cuh"
#include "kernels/merge.cuh"
#include "kernels/sweeps/ordered.cuh"
#include "kernels/transform.cuh"

namespace engine::kernels {
namespace {

constexpr Window kWindow{3, 3, 2, 1};

// Windows of a strip: as many as a thread has registers for.
template <class T>
constexpr int kStrip = sizeof(T) == 2 ? 3 : 2;
constexpr int kQuad = 4;  // channels of a thread, backward

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
inline Walks make_walks(const Sweep& sweep, int blocks, int most_tiles, int batch, int height,
                        int width, int strip, int start) {
  const auto up = [](int a, int b) { return (a + b - 1) / b; };
  const int at_once = std::max(1, device_limits().multiprocessors * blocks / sweep.groups);
  const int walkers = std::min(at_once, most_tiles) * sweep.rows;
  Walks best{};
  int64_t least = INT64_MAX;
  for (int bands = 1; bands <= height; ++bands) {
    Walks w{height, width, up(height, bands), 0, strip, up(width, strip), 0, 0, 0};
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
  // The middle column of a window lies in the image if there is such a window.
  __device__ __forceinline__ static bool outside(int i, int left, int width) {
    return i == 0 ? left < 0 : i % 2 == 0 && left + i >= width;
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
constexpr int kForwardBlocks = 2;

// The largest over three columns of a row, by window; those of a window's rows meet. `Keeps`: with
// the taps that have them, 3·row + column of the window.
template <class T, int Windows, bool Keeps>
struct Maxima {
  Words<T> best[Windows];
  Words<T> taps[Keeps ? Windows : 1];

  __device__ __forceinline__ void make(const Row<T, Windows>& row, int left, int width,
                                       const Order<T>& order) {
    const auto column = [&](int i) {
      return Row<T, Windows>::outside(i, left, width) ? Words<T>::lowest() : order.of(row.at[i]);
    };
    Words<T> last = column(0);
#pragma unroll
    for (int j = 0; j < Windows; ++j) {
      best[j] = last;
      if constexpr (Keeps) taps[j] = Words<T>::tap(0);
      meet(j, column(2 * j + 1), Words<T>::tap(1));
      last = column(2 * j + 2);
      meet(j, last, Words<T>::tap(2));
    }
  }
  // Meets those of row `row` of the windows.
  __device__ __forceinline__ void meet(const Maxima& other, int row) {
#pragma unroll
    for (int j = 0; j < Windows; ++j) {
      Words<T> tap = other.taps[Keeps ? j : 0];
      const Words<T> below = Words<T>::tap(3 * row);
#pragma unroll
      for (int i = 0; i < Words<T>::kCount; ++i) tap.at[i] += below.at[i];
      meet(j, other.best[j], tap);
    }
  }
  // Nothing was met.
  __device__ __forceinline__ void clear() {
#pragma unroll
    for (int j = 0; j < Windows; ++j) {
      best[j] = Words<T>::lowest();
      if constexpr (Keeps) taps[j] = Words<T>::tap(0);
    }
  }

 private:
  __device__ __forceinline__ void meet(int j, const Words<T>& other, const Words<T>& tap) {
    if constexpr (Keeps) taps[j] = selected(wins(other, best[j]), tap, taps[j]);
    best[j] = larger(best[j], other);
  }
};

// out = the maxima.
template <class T, bool Keeps>
__global__ void __launch_bounds__(kSweepThreads, kForwardBlocks)
    stem_forward_kernel(SliceView<T> out, OperandView<T> in, KeptMaxima<T> kept, Walks walks,
                        Partials partials) {
  constexpr int kWindows = kStrip<T>;
  __shared__ SumBuffer<kPair> buffer;
  follow();
  narrow(in);
  const int c = first_channel<kPair>();
  OutputWriter<T, kPair> writer;
  const OperandReader<T, kPair> reader(in, c);
  const Order<T> order(reader.norm);
  const int end = min(walks.items, static_cast<int>(blockIdx.y + 1) * walks.per_tile);
  for (int item = blockIdx.y * walks.per_tile + threadIdx.y; item < end && c < out.channels;
       item += blockDim.y) {
    const Place place(walks, item);
    const int left = 2 * place.left - 1;
    const T* x = in.x + int64_t{place.image} * in.height * in.width * in.pitch + c;
    Row<T, kWindows> first, second;
    Maxima<T, kWindows, Keeps> above, best, row;
    second.load(x, in, 2 * place.top - 1, left);
    above.make(second, left, in.width, order);
    first.load(x, in, 2 * place.top, left);
    second.load(x, in, 2 * place.top + 1, left);
#pragma unroll 1
    for (int y = place.top; y < place.bottom; ++y) {
      best = above;
      if (y == 0) best.clear();
      row.make(first, left, in.width, order);
      best.meet(row, 1);
      above.make(second, left, in.width, order);
      if (2 * y + 1 < in.height) best.meet(above, 2);
      if (y + 1 < place.bottom) {
        first.load(x, in, 2 * y + 2, left);
        second.load(x, in, 2 * y + 3, left);
      }
      const int64_t window = (int64_t{place.image} * out.height + y) * out.width + place.left;
#pragma unroll
      for (int j = 0; j < kWindows; ++j) {
        if (place.left + j >= out.width) continue;
        Vector<T, kPair> won = order.back(best.best[j]);
        Loaded<float> loaded[kPair];
        reader.load(loaded, won, in);
        const float result[kPair] = {loaded[0].h, loaded[1].h};
        writer.store(out.y + (window + j) * out.pitch + c, result, out.mean != nullptr);
        if constexpr (Keeps) {
          Vector<uint8_t, kPair> taps;
#pragma unroll
          for (int k = 0; k < kPair; ++k) {
            const int tap = best.taps[j].of(k);
            if (order.flat && reader.norm[k].scale() == 0) {  // the first pixel of the window
              const int top = max(2 * y - 1, 0), column = max(left + 2 * j, 0);
              won.at[k] = x[int64_t{top * in.width + column} * in.pitch + k];
            }
            taps.at[k] = loaded[k].slope != 0 ? tap : kNoTap;
          }
          store_vector(kept.taps + (window + j) * out.channels + c, taps);
          store_vector(kept.x + (window + j) * out.channels + c, won);
        }
      }
    }
  }
  if (!out.mean) return;
  writer.statistics.leave(partials.rows, c, out.channels, buffer.floats);
  finish_statistics(
      out.mean, out.var, partials, static_cast<double>(out.pixels()),
      [&](int tile) { return walks.count(tile); }, out.channels, buffer);
}

// ---------------------------------------------------------------- backward

constexpr int kBackwardBlocks = 2;

// What a thread reads of a window, and what the window gives, to which tap.
template <class T>
struct Read {
  typename GradientReader<T, kQuad, true>::Raw dy;
  Vector<uint8_t, kQuad> taps;
  Vector<T, kQuad> x;
};
struct Given {
  float g[kQuad];
  int taps[kQuad];

  __device__ __forceinline__ void give(float (&to)[kQuad], int tap) const {
#pragma unroll
    for (int k = 0; k < kQuad; ++k)
      if (taps[k] == tap) to[k] += g[k];
  }
};

// G =, and its sums. A cell is the two by two pixels of the operand whose first one is in the
// middle of a window, and which at most three more windows touch: to the right and below. A walk
// goes down the cells of a column of windows, and takes the sums of those.
template <class T>
__global__ void __launch_bounds__(kSweepThreads, kBackwardBlocks)
    stem_backward_kernel(GradientSink<T> sink, GradientView<T> dy, OperandView<T> in,
                         KeptMaxima<T> kept, Walks walks, Partials partials) {
  __shared__ SumBuffer<kQuad> buffer;
  follow();
  dy.gate = nullptr;
  const int c = first_channel<kQuad>();
  GradientWriter<T, kQuad> writer;
  FoldedNorm norm[kQuad];
  load_norm(norm, in.norm, c, in.channels);
  const GradientReader<T, kQuad, true> gradient(dy, c);
  const int end = min(walks.items, static_cast<int>(blockIdx.y + 1) * walks.per_tile);
  for (int item = blockIdx.y * walks.per_tile + threadIdx.y; item < end && c < in.channels;
       item += blockDim.y) {
    const Place place(walks, item);
    const bool has_right = place.left + 1 < dy.width;
    Read<T> ahead[2];
    // Asks for the windows of row y, on the walk's column and to the right of it.
    const auto read = [&](int y) {
      const int64_t first =
          (int64_t{place.image} * dy.height + min(y, dy.height - 1)) * dy.width + place.left;
#pragma unroll
      for (int j = 0; j < 2; ++j) {
        const int64_t pixel = first + (j == 1 && has_right), at = pixel * dy.channels + c;
        ahead[j].dy = gradient.read(dy, pixel);
        ahead[j].taps = load_vector<kQuad>(kept.taps + at);
        if (j == 0) ahead[j].x = load_vector<kQuad>(kept.x + at);
      }
    };
    // Makes of them what they give.
    const auto make = [&](Given(&given)[2], int y) {
#pragma unroll
      for (int j = 0; j < 2; ++j) {
        Given& to = given[j];
        const bool exists = y < dy.height && (j == 0 || has_right);
        gradient.value(to.g, ahead[j].dy, dy, place.image);
        float x[kQuad];
        if (j == 0) to_floats(x, ahead[j].x);
#pragma unroll
        for (int k = 0; k < kQuad; ++k) {
          to.taps[k] = exists ? ahead[j].taps.at[k] : kNoTap;
          if (to.taps[k] == kNoTap) to.g[k] = 0.f;
          if (j == 0 && y < place.bottom) {
            writer.sum_t[k] += to.g[k];
            const float xhat = (x[k] - norm[k].mean) * norm[k].inv_std;
            writer.sum_t_xhat[k] = fmaf(to.g[k], xhat, writer.sum_t_xhat[k]);
          }
          to.g[k] *= norm[k].scale();
        }
      }
    };
    Given above[2], below[2];
    read(place.top);
    make(above, place.top);
    read(place.top + 1);
#pragma unroll 1
    for (int y = place.top; y < place.bottom; ++y) {
      make(below, y + 1);
      if (y + 1 < place.bottom) read(y + 2);
      float df[2][2][kQuad] = {};
      above[0].give(df[0][0], 4);
      above[0].give(df[0][1], 5);
      above[1].give(df[0][1], 3);
      above[0].give(df[1][0], 7);
      below[0].give(df[1][0], 1);
      above[0].give(df[1][1], 8);
      above[1].give(df[1][1], 6);
      below[0].give(df[1][1], 2);
      below[1].give(df[1][1], 0);
      const int row = 2 * y, column = 2 * place.left;
      T* const to = sink.grad +
                    ((int64_t{place.image} * in.height + row) * in.width + column) * sink.pitch + c;
#pragma unroll
      for (int i = 0; i < 2; ++i)
#pragma unroll
        for (int j = 0; j < 2; ++j)
          if (row + i < in.height && column + j < in.width)
            store_vector(to + (int64_t{i} * in.width + j) * sink.pitch, vector_of<T>(df[i][j]));
#pragma unroll
      for (int j = 0; j < 2; ++j) above[j] = below[j];
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
                          const KeptMaxima<T>& kept, const Partials& partials,
                          cudaStream_t stream) {
  if (!serves(in, window) || !vectors_fit<kPair>(out.y, out.channels, out.pitch)) return false;
  const auto run = [&](auto kernel) {
    const Sweep sweep =
        make_sweep(out.pixels(), out.channels, kPair, {1, kSummedGroup, kForwardBlocks});
    const Walks walks = make_walks(sweep, kForwardBlocks, partial_rows(out.pixels(), out.channels),
                                   in.batch, out.height, out.width, kStrip<T>, 1);
    launch(kernel, dim3(sweep.groups, walks.tiles), sweep.block(), 0, stream, out, in, kept, walks,
           partials);
  };
  if (kept.taps)
    run(stem_forward_kernel<T, true>);
  else
    run(stem_forward_kernel<T, false>);
  return true;
}

template <class T>
bool StemPool<T>::backward(const GradientSink<T>& sink, const GradientView<T>& dy,
                           const OperandView<T>& in, const Window& window,
                           const KeptMaxima<T>& kept, const Partials& partials,
                           cudaStream_t stream) {
  if (!kept.taps || !serves(in, window) || dy.gated() || sink.gated() ||
      sink.how != Write::assign || !vectors_fit<kQuad>(sink.grad, in.channels, sink.pitch) ||
      !vectors_fit<kQuad>(dy.grad, dy.channels, dy.pitch) ||
      !vectors_fit<kQuad>(dy.x, dy.channels, dy.pitch))
    return false;
  const Sweep sweep =
      make_sweep(dy.pixels(), in.channels, kQuad, {1, kSummedGroup, kBackwardBlocks});
  const Walks walks = make_walks(sweep, kBackwardBlocks, partial_rows(dy.pixels(), in.channels),
                                 in.batch, dy.height, dy.width, 1, 1);
  launch(stem_backward_kernel<T>, dim3(sweep.groups, walks.tiles), sweep.block(), 0, stream, sink,
         dy, in, kept, walks, partials);
  return true;
}

template struct StemPool<float>;
template struct StemPool<__half>;
template struct StemPool<__nv_bfloat16>;

}  // namespace engine::kernels
