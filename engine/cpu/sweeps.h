// Sweeps over tensors: what kernels/operand.h says per element, for one worker's range of pixels, cut at images, with
// constants hoisted and sums taken on the way. Pixels are numbered over the whole batch. Every object belongs to one
// worker; merge() joins the sums of all workers in their order, in double. The vector loops are in rows.h.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "engine/cpu/rows.h"
#include "engine/cpu/workspace.h"
#include "kernels/operand.h"

namespace engine::cpu {

// About so many pixels are summed in float before they are merged in double.
constexpr int64_t kTilePixels = 512;

// The constants of a norm in a worker's own memory. Memory is the step's only while the step runs: renew() comes first.
class NormConstants {
 public:
  NormConstants(const NormView<float>& norm, int channels, Workspace& workspace);
  static size_t bytes(int channels) { return 4 * block_bytes<float>(padded(channels)); }
  void renew();
  NormRow row() const { return {mean_, inv_std_, scale_, beta_}; }

 private:
  NormView<float> norm_;
  int channels_;
  float *mean_, *inv_std_, *scale_, *beta_;
};

// f(x).
class OperandReader {
 public:
  OperandReader(const OperandView<float>& view, Workspace& workspace);
  static size_t bytes(const OperandView<float>& view);
  void renew() { norm_.renew(); }  // at the start of a step
  // f, (last − first, f_pitch).
  void load(float* f, int64_t f_pitch, int64_t first, int64_t last);
  const OperandView<float>& view() const { return view_; }
  // Calls body(rows, pixels, offset from first) for pieces of one image and at most kTilePixels.
  template <class Body>
  void for_pieces(int64_t first, int64_t last, const Body& body);

 private:
  OperandRows rows(int64_t first, int64_t pixels);

  OperandView<float> view_;
  NormConstants norm_;
  float *gate_, *mask_;  // factors of one image, of one piece
};

// dy.
class GradientReader {
 public:
  GradientReader(const GradientView<float>& view, Workspace& workspace);
  static size_t bytes(const GradientView<float>& view);
  void renew();
  void load(float* dy, int64_t dy_pitch, int64_t first, int64_t last);
  const GradientView<float>& view() const { return view_; }
  // The gradient itself is dy.
  bool direct() const { return !view_.normed() && !view_.gated(); }

 private:
  GradientView<float> view_;
  NormConstants norm_;
  float *k0_, *k1_, *gate_, *q_;
};

// From df: the operand's gradient and its sums, and f(x) itself for whoever needs it next.
// A learned gate's sums are per image: then a worker must own whole images and go through them in order.
class GradientWriter {
 public:
  GradientWriter(const GradientSink<float>& sink, const OperandView<float>& in,
                 Workspace& workspace);
  static size_t bytes(const GradientSink<float>& sink, const OperandView<float>& in);
  void renew();
  bool wanted() const { return sink_.grad != nullptr; }
  // df may be stored as it is.
  bool direct() const { return in_.view().plain() && !sink_.dgamma; }
  const GradientSink<float>& sink() const { return sink_; }
  OperandReader& operand() { return in_; }
  void store(const float* df, int64_t df_pitch, float* f, int64_t f_pitch, int64_t first,
             int64_t last);
  // dgamma, dbeta, k0, k1 += the sums of all workers.
  static void merge(std::vector<GradientWriter>& workers);

 private:
  bool takes_sums() const { return sink_.gated() || sink_.dgamma || sink_.k0; }
  void begin_piece(int64_t image);
  void merge_tile();

  GradientSink<float> sink_;
  OperandReader in_;
  float* tile_[3];   // sums of one tile
  double* sums_[2];  // of this worker
  int64_t tile_pixels_ = 0;
  int64_t image_ = -1;        // of the tile, if gated
  bool image_begun_ = false;  // its (N, C) sums hold something already
};

// Adds Σt and Σt·xhat to what a sink asks for.
void add_sums(const GradientSink<float>& sink, const OperandView<float>& in, const double* sum_t,
              const double* sum_t_xhat);

// y and its statistics.
class OutputWriter {
 public:
  OutputWriter(const SliceView<float>& out, const float* bias, Workspace& workspace);
  static size_t bytes(const SliceView<float>& out);
  void renew();
  // y = dense + bias + other. dense may be y; other may be null.
  void store(const float* dense, int64_t dense_pitch, const float* other, int64_t other_pitch,
             int64_t first, int64_t last);
  // Statistics and bias of what stands in y already.
  void finish(int64_t first, int64_t last);
  static void merge(std::vector<OutputWriter>& workers);

 private:
  void merge_tile();

  SliceView<float> out_;
  const float* bias_;
  float *padded_bias_, *shift_, *first_, *second_;  // the last three of one tile
  double *mean_, *m2_;                              // of this worker: mean, Σ(y − mean)²
  int64_t tile_pixels_ = 0, count_ = 0;
};

// Column sums of one worker.
class ColumnSums {
 public:
  ColumnSums(int channels, Workspace& workspace);
  static size_t bytes(int channels) {
    return block_bytes<float>(padded(channels)) + block_bytes<double>(channels);
  }
  void renew();
  void add(const float* x, int64_t pitch, int64_t pixels);
  const double* sums() const { return sums_; }
  static void merge(float* to, const std::vector<ColumnSums>& workers);  // +=

 private:
  int channels_;
  float* tile_;
  double* sums_;
};

// Calls body(image, first, last) for the pieces of a range of pixels that lie in one image and in at most kTilePixels.
template <class Body>
void for_image_pieces(int64_t pixels_per_image, int64_t first, int64_t last, const Body& body) {
  while (first < last) {
    const int64_t image = first / pixels_per_image;
    const int64_t end = std::min({last, (image + 1) * pixels_per_image, first + kTilePixels});
    body(static_cast<int>(image), first, end);
    first = end;
  }
}

template <class Body>
void OperandReader::for_pieces(int64_t first, int64_t last, const Body& body) {
  for_image_pieces(
      int64_t{view_.height} * view_.width, first, last,
      [&](int, int64_t from, int64_t to) { body(rows(from, to - from), to - from, from - first); });
}

}  // namespace engine::cpu
