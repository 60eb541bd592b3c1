#include "engine/cpu/sweeps.h"

#include <algorithm>
#include <cmath>

namespace engine::cpu {

namespace {

const RowKernels& kernels() {
  return row_kernels();
}

void copy_or_zero(float* to, const float* from, int channels) {
  if (from)
    std::copy_n(from, channels, to);
  else
    std::fill_n(to, channels, 0.f);
}

}  // namespace

// ---------------------------------------------------------------- norms

NormConstants::NormConstants(const NormView<float>& norm, int channels, Workspace& workspace)
    : norm_(norm), channels_(channels) {
  for (float** row : {&mean_, &inv_std_, &scale_, &beta_})
    *row = workspace.take<float>(padded(channels));
}

void NormConstants::renew() {
  for (int c = 0; c < channels_; ++c) {
    const ChannelNorm<float> n = norm_.channel(c);
    mean_[c] = n.mean;
    inv_std_[c] = n.inv_std;
    scale_[c] = n.scale();
    beta_[c] = n.beta;
  }
}

// ---------------------------------------------------------------- operands

OperandReader::OperandReader(const OperandView<float>& view, Workspace& workspace)
    : view_(view),
      norm_(view.norm, view.channels, workspace),
      gate_(workspace.take<float>(padded(view.channels))),
      mask_(nullptr) {
  if (view.random.present() && !view.random.whole_image)
    mask_ = workspace.take<float>(kTilePixels * view.channels);
}

OperandRows OperandReader::rows(int64_t first, int64_t pixels) {
  const int64_t per_image = int64_t{view_.height} * view_.width;
  const int image = static_cast<int>(first / per_image);
  OperandRows rows{.x = view_.x + first * view_.pitch,
                   .pitch = view_.pitch,
                   .channels = view_.channels,
                   .norm = norm_.row(),
                   .act = view_.act,
                   .gate = nullptr,
                   .mask = nullptr};
  if (view_.gate) {
    std::copy_n(view_.gate + int64_t{image} * view_.channels, view_.channels, gate_);
    rows.gate = gate_;
  } else if (mask_) {
    const int64_t element = (first - image * per_image) * view_.channels;
    for (int64_t i = 0; i < pixels * view_.channels; ++i)
      mask_[i] = view_.random.value(image, static_cast<uint32_t>(element + i));
    rows.mask = mask_;
  } else if (view_.random.present()) {
    std::fill_n(gate_, view_.channels, view_.random.value(image, 0));
    rows.gate = gate_;
  }
  return rows;
}

void OperandReader::load(float* f, int64_t f_pitch, int64_t first, int64_t last) {
  for_pieces(first, last, [&](const OperandRows& rows, int64_t pixels, int64_t offset) {
    kernels().load_operand(f + offset * f_pitch, f_pitch, rows, pixels);
  });
}

// ---------------------------------------------------------------- gradients

GradientReader::GradientReader(const GradientView<float>& view, Workspace& workspace)
    : view_(view), norm_(view.norm, view.channels, workspace) {
  for (float** row : {&k0_, &k1_, &gate_, &q_}) *row = workspace.take<float>(padded(view.channels));
}

void GradientReader::renew() {
  norm_.renew();
  copy_or_zero(k0_, view_.k0, view_.channels);
  copy_or_zero(k1_, view_.k1, view_.channels);
}

void GradientReader::load(float* dy, int64_t dy_pitch, int64_t first, int64_t last) {
  const int64_t per_image = int64_t{view_.height} * view_.width;
  for_image_pieces(per_image, first, last, [&](int image, int64_t from, int64_t to) {
    GradientRows rows{.grad = view_.grad + from * view_.pitch,
                      .x = direct() ? nullptr : view_.x + from * view_.pitch,
                      .pitch = view_.pitch,
                      .channels = view_.channels,
                      .norm = norm_.row(),
                      .k0 = k0_,
                      .k1 = k1_,
                      .scaled = view_.scaled,
                      .gate = nullptr,
                      .q = nullptr,
                      .act = view_.act};
    if (view_.gated()) {
      std::copy_n(view_.gate + int64_t{image} * view_.channels, view_.channels, gate_);
      std::copy_n(view_.q + int64_t{image} * view_.channels, view_.channels, q_);
      rows.gate = gate_;
      rows.q = q_;
    }
    kernels().load_gradient(dy + (from - first) * dy_pitch, dy_pitch, rows, to - from);
  });
}

GradientWriter::GradientWriter(const GradientSink<float>& sink, const OperandView<float>& in,
                               Workspace& workspace)
    : sink_(sink), in_(in, workspace) {
  for (float*& row : tile_) row = workspace.take<float>(padded(in.channels));
  for (double*& row : sums_) row = workspace.take<double>(in.channels);
}

void GradientWriter::renew() {
  in_.renew();
  for (double* row : sums_) std::fill_n(row, in_.view().channels, 0.);
  tile_pixels_ = 0;
  image_ = -1;
}

void GradientWriter::store(const float* df, int64_t df_pitch, float* f, int64_t f_pitch,
                           int64_t first, int64_t last) {
  const OperandView<float>& in = in_.view();
  const int64_t per_image = int64_t{in.height} * in.width;
  in_.for_pieces(first, last, [&](const OperandRows& rows, int64_t pixels, int64_t offset) {
    const bool sums = takes_sums();
    if (sums) begin_piece((first + offset) / per_image);
    float* grad = sink_.grad ? sink_.grad + (first + offset) * sink_.pitch : nullptr;
    const SinkRows sink{.grad = grad,
                        .pitch = sink_.pitch,
                        .add = sink_.how == Write::add,
                        .gated = sink_.gated(),
                        .sums = {sums ? tile_[0] : nullptr, tile_[1], tile_[2]},
                        .f = f ? f + offset * f_pitch : nullptr,
                        .f_pitch = f_pitch};
    kernels().store_gradient(sink, df + offset * df_pitch, df_pitch, rows, pixels);
    tile_pixels_ += sums ? pixels : 0;
    if (tile_pixels_ >= kTilePixels) merge_tile();
  });
}

void GradientWriter::begin_piece(int64_t image) {
  if (sink_.gated() && image != image_) {
    merge_tile();
    image_ = image;
    image_begun_ = false;
  }
  if (tile_pixels_ > 0) return;
  for (float* row : tile_) std::fill_n(row, padded(in_.view().channels), 0.f);
}

void GradientWriter::merge_tile() {
  if (tile_pixels_ == 0) return;
  tile_pixels_ = 0;
  const int channels = in_.view().channels;
  if (!sink_.gated()) {
    for (int s = 0; s < 2; ++s)
      for (int c = 0; c < channels; ++c) sums_[s][c] += tile_[s][c];
    return;
  }
  float* const totals[3] = {sink_.dz_h, sink_.dz_slope, sink_.dz_slope_xhat};
  for (int s = 0; s < 3; ++s) {
    float* total = totals[s] + image_ * channels;
    for (int c = 0; c < channels; ++c) total[c] = tile_[s][c] + (image_begun_ ? total[c] : 0.f);
  }
  image_begun_ = true;
}

void add_sums(const GradientSink<float>& sink, const OperandView<float>& in, const double* sum_t,
              const double* sum_t_xhat) {
  for (int c = 0; c < in.channels; ++c) {
    const double share = in.norm.channel(c).scale() / static_cast<double>(in.pixels());
    if (sink.dbeta) sink.dbeta[c] += static_cast<float>(sum_t[c]);
    if (sink.dgamma) sink.dgamma[c] += static_cast<float>(sum_t_xhat[c]);
    if (sink.k0) sink.k0[c] += static_cast<float>(share * sum_t[c]);
    if (sink.k1) sink.k1[c] += static_cast<float>(share * sum_t_xhat[c]);
  }
}

// ---------------------------------------------------------------- outputs

OutputWriter::OutputWriter(const SliceView<float>& out, const float* bias, Workspace& workspace,
                           Activation act)
    : out_(out), bias_(bias), act_(act) {
  for (float** row : {&padded_bias_, &shift_, &first_, &second_})
    *row = workspace.take<float>(padded(out.channels));
  mean_ = workspace.take<double>(out.channels);
  m2_ = workspace.take<double>(out.channels);
}

void OutputWriter::renew() {
  copy_or_zero(padded_bias_, bias_, out_.channels);
  std::fill_n(mean_, out_.channels, 0.);
  std::fill_n(m2_, out_.channels, 0.);
  tile_pixels_ = count_ = 0;
}

void OutputWriter::store(const float* dense, int64_t dense_pitch, const float* other,
                         int64_t other_pitch, int64_t first, int64_t last) {
  for (int64_t from = first; from < last; from += kTilePixels) {
    const int64_t pixels = std::min(kTilePixels, last - from), offset = from - first;
    const float* tile = dense + offset * dense_pitch;
    const float* addend = other ? other + offset * other_pitch : nullptr;
    if (out_.mean && tile_pixels_ == 0) {
      for (int c = 0; c < out_.channels; ++c) {
        shift_[c] = tile[c] + padded_bias_[c] + (addend ? addend[c] : 0.f);
        first_[c] = second_[c] = 0;
      }
    }
    kernels().store_output({.y = out_.y + from * out_.pitch,
                            .pitch = out_.pitch,
                            .dense = tile,
                            .dense_pitch = dense_pitch,
                            .other = addend,
                            .other_pitch = other_pitch,
                            .bias = bias_ ? padded_bias_ : nullptr,
                            .shift = shift_,
                            .first = out_.mean ? first_ : nullptr,
                            .second = second_,
                            .channels = out_.channels,
                            .act = act_},
                           pixels);
    tile_pixels_ += pixels;
    if (out_.mean && tile_pixels_ >= kTilePixels) merge_tile();
  }
}

void OutputWriter::finish(int64_t first, int64_t last) {
  if (bias_ || out_.mean) store(out_.y + first * out_.pitch, out_.pitch, nullptr, 0, first, last);
}

// Chan, Golub & LeVeque (1983): two sets of n and m values, whose means are d apart, have together
// Σ(y − mean)² = M2 + M2' + d²·nm/(n + m).
void OutputWriter::merge_tile() {
  if (tile_pixels_ == 0) return;
  const double n = static_cast<double>(count_), m = static_cast<double>(tile_pixels_),
               part = m / (n + m);
  for (int c = 0; c < out_.channels; ++c) {
    const double first = first_[c] / m;
    const double d = shift_[c] + first - mean_[c];
    m2_[c] += second_[c] - first * first_[c] + d * d * n * part;
    mean_[c] += d * part;
  }
  count_ += tile_pixels_;
  tile_pixels_ = 0;
}

// ---------------------------------------------------------------- column sums

ColumnSums::ColumnSums(int channels, Workspace& workspace)
    : channels_(channels),
      tile_(workspace.take<float>(padded(channels))),
      sums_(workspace.take<double>(channels)) {}

void ColumnSums::renew() {
  std::fill_n(sums_, channels_, 0.);
}

void ColumnSums::add(const float* x, int64_t pitch, int64_t pixels) {
  for (int64_t from = 0; from < pixels; from += kTilePixels) {
    std::fill_n(tile_, padded(channels_), 0.f);
    kernels().column_sums(tile_, x + from * pitch, pitch, std::min(kTilePixels, pixels - from),
                          channels_);
    for (int c = 0; c < channels_; ++c) sums_[c] += tile_[c];
  }
}

}  // namespace engine::cpu
