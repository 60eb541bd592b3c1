// Sweeps over tensors: what kernels/operand.h says per element, for one worker's range of pixels,
// cut at images, with constants hoisted and sums taken on the way. Pixels are numbered over the
// whole batch. Every object belongs to one worker; merge() joins the sums of all workers in their
// order, in double, and takes the workers and the member that holds the object. The vector loops
// are in rows.h.
#pragma once

#include <algorithm>
#include <cstdint>
#include <functional>
#include <vector>

#include "engine/cpu/rows.h"
#include "engine/cpu/workspace.h"
#include "kernels/operand.h"

namespace engine::cpu {

// About this many pixels are summed in float before they are merged in double.
constexpr int64_t kTilePixels = 512;

// The constants of a norm in a worker's own memory, which belongs to the step only while it runs:
// renew() comes first.
class NormConstants {
 public:
  NormConstants(const NormView<float>& norm, int channels, Workspace& workspace);
  void renew();
  NormRow row() const { return {mean_, inv_std_, scale_, beta_}; }

 private:
  NormView<float> norm_;
  int channels_;
  float *mean_, *inv_std_, *scale_, *beta_;
};

// Loads an operand, f(x).
class OperandReader {
 public:
  OperandReader(const OperandView<float>& view, Workspace& workspace);
  void renew() { norm_.renew(); }  // at the start of a step
  // Writes f, (last − first, f_pitch).
  void load(float* f, int64_t f_pitch, int64_t first, int64_t last);
  const OperandView<float>& view() const { return view_; }
  // Calls body(rows, pixels, offset from first) for pieces of one image and at most kTilePixels.
  template <class Body>
  void for_pieces(int64_t first, int64_t last, const Body& body);

 private:
  OperandRows rows(int64_t first, int64_t pixels);

  OperandView<float> view_;
  NormConstants norm_;
  float *gate_, *mask_;  // the factors of one image, of one piece
};

// Loads the gradient of an output, dy.
class GradientReader {
 public:
  GradientReader(const GradientView<float>& view, Workspace& workspace);
  void renew();
  void load(float* dy, int64_t dy_pitch, int64_t first, int64_t last);
  // The gradient itself is dy.
  bool direct() const { return !view_.normed() && !view_.gated(); }

 private:
  GradientView<float> view_;
  NormConstants norm_;
  float *k0_, *k1_, *gate_, *q_;
};

// Stores the operand's gradient and its sums from df, and f(x) itself for whoever needs it next. A
// learned gate's sums are per image: then a worker must own whole images and go through them in
// order.
class GradientWriter {
 public:
  GradientWriter(const GradientSink<float>& sink, const OperandView<float>& in,
                 Workspace& workspace);
  void renew();
  bool wanted() const { return sink_.wanted(); }
  // df may be stored as it is.
  bool direct() const { return in_.view().plain() && !sink_.dgamma; }
  const GradientSink<float>& sink() const { return sink_; }
  OperandReader& operand() { return in_; }
  void store(const float* df, int64_t df_pitch, float* f, int64_t f_pitch, int64_t first,
             int64_t last);
  // dgamma, dbeta, k0, k1 += the sums of all workers.
  template <class Workers, class Member = std::identity>
  static void merge(Workers& workers, Member member = {});

 private:
  bool takes_sums() const { return sink_.gated() || sink_.summed(); }
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

// Stores y and takes its statistics.
class OutputWriter {
 public:
  OutputWriter(const SliceView<float>& out, const float* bias, Workspace& workspace,
               Activation act = Activation::none);
  void renew();
  // y = act(dense + bias + other). dense may be y; other may be null.
  void store(const float* dense, int64_t dense_pitch, const float* other, int64_t other_pitch,
             int64_t first, int64_t last);
  // Adds the bias to what stands in y already, and takes its statistics.
  void finish(int64_t first, int64_t last);
  // Mean and variance of y from those of all workers.
  template <class Workers, class Member = std::identity>
  static void merge(Workers& workers, Member member = {});

 private:
  void merge_tile();

  SliceView<float> out_;
  const float* bias_;
  Activation act_;
  float *padded_bias_, *shift_, *first_, *second_;  // the last three are of one tile
  double *mean_, *m2_;                              // this worker's mean and Σ(y − mean)²
  int64_t tile_pixels_ = 0, count_ = 0;
};

// The column sums of one worker.
class ColumnSums {
 public:
  ColumnSums(int channels, Workspace& workspace);
  void renew();
  void add(const float* x, int64_t pitch, int64_t pixels);
  // to += the sums of all workers.
  template <class Workers, class Member = std::identity>
  static void merge(float* to, Workers& workers, Member member = {});

 private:
  int channels_;
  float* tile_;
  double* sums_;
};

// Calls body(image, first, last) for the pieces of a range of pixels, each of one image and of at
// most kTilePixels.
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

// ---------------------------------------------------------------- the sums of all workers

template <class Workers, class Member>
void GradientWriter::merge(Workers& workers, Member member) {
  const GradientWriter& all = std::invoke(member, workers.front());
  if (!all.wanted() || !all.takes_sums()) return;
  for (auto& worker : workers) std::invoke(member, worker).merge_tile();
  if (all.sink_.gated()) return;
  const int channels = all.in_.view().channels;
  for (size_t w = 1; w < workers.size(); ++w) {
    const GradientWriter& other = std::invoke(member, workers[w]);
    for (int s = 0; s < 2; ++s)
      for (int c = 0; c < channels; ++c) all.sums_[s][c] += other.sums_[s][c];
  }
  add_sums(all.sink_, all.in_.view(), all.sums_[0], all.sums_[1]);
}

template <class Workers, class Member>
void OutputWriter::merge(Workers& workers, Member member) {
  const SliceView<float>& out = std::invoke(member, workers.front()).out_;
  if (!out.mean) return;
  for (auto& worker : workers) std::invoke(member, worker).merge_tile();
  for (int c = 0; c < out.channels; ++c) {
    double mean = 0, m2 = 0, n = 0;
    for (auto& worker : workers) {
      const OutputWriter& w = std::invoke(member, worker);
      if (w.count_ == 0) continue;
      const double m = static_cast<double>(w.count_), d = w.mean_[c] - mean;
      m2 += w.m2_[c] + d * d * n * m / (n + m);
      mean += d * m / (n + m);
      n += m;
    }
    out.mean[c] = static_cast<float>(mean);
    out.var[c] = static_cast<float>(std::max(m2 / n, 0.));
  }
}

template <class Workers, class Member>
void ColumnSums::merge(float* to, Workers& workers, Member member) {
  for (auto& worker : workers) {
    const ColumnSums& w = std::invoke(member, worker);
    for (int c = 0; c < w.channels_; ++c) to[c] += static_cast<float>(w.sums_[c]);
  }
}

}  // namespace engine::cpu
