// The innermost loops of the CPU backend: one thread, some pixels of one image, vectors over
// channels. rows.cpp is compiled once per instruction set; row_kernels() picks the table that this
// processor can run. The loops take plain pointers alone, so that nothing compiled for a newer
// processor leaks into code that every processor runs.
#pragma once

#include <cstdint>

#include "kernels/operand.h"

namespace engine::cpu {

constexpr int kVector = 16;  // the widest vector; channels in scratch are padded to a multiple
constexpr int64_t padded(int64_t channels) {
  return (channels + kVector - 1) / kVector * kVector;
}

// The constants of a norm, hoisted out of the loops; each is padded(channels) long.
// xhat = (x − mean)·inv_std, u = (x − mean)·scale + beta, scale = gamma·inv_std.
struct NormRow {
  const float *mean, *inv_std, *scale, *beta;
};

struct OperandRows {
  const float* x;  // (pixels, pitch)
  int64_t pitch;
  int channels;
  NormRow norm;
  Activation act;
  const float* gate;  // (padded,): factor per channel, or null
  const float* mask;  // (pixels, channels): factor per element, or null
};

struct GradientRows {
  const float *grad, *x;  // (pixels, pitch); x null: grad is dy
  int64_t pitch;
  int channels;
  NormRow norm;
  const float *k0, *k1;   // (padded,)
  bool scaled;            // grad is a sum's, to be scaled
  const float *gate, *q;  // (padded,), null: not gated
  Activation act;
};

// With t = df·gate·act', grad = (or +=) scale·t, and the sums are Σt and Σt·xhat. If gated, grad =
// (or +=) df, and the sums are Σdf·h, Σdf·act' and Σdf·act'·xhat.
struct SinkRows {
  float* grad;  // (pixels, pitch); null: only f is wanted
  int64_t pitch;
  bool add, gated;
  float* sums[3];  // (padded,), +=; null: not wanted
  float* f;        // (pixels, f_pitch): the operand, for the weight gradient; null: not wanted
  int64_t f_pitch;
};

struct OutputRows {
  float* y;  // (pixels, pitch)
  int64_t pitch;
  const float* dense;  // (pixels, dense_pitch); may be y
  int64_t dense_pitch;
  const float* other;  // (pixels, other_pitch), added; or null
  int64_t other_pitch;
  const float* bias;      // (padded,) or null
  const float* shift;     // (padded,)
  float *first, *second;  // (padded,), += Σ(y − shift), Σ(y − shift)²; null: no statistics
  int channels;
  Activation act;  // of the sum of all that
};

// out[o] = Σ rows[i][o·stride + k]·taps[i][k]: one row of a depthwise map, or of its transpose.
struct CorrelateRows {
  float* out;  // (width, out_step)
  int64_t out_step;
  int width, channels;
  const float* const* rows;  // count rows of (columns, padded)
  const float* const* taps;  // count rows of (kernel, padded)
  int count, kernel, stride;
};

struct RowKernels {
  const char* name;
  void (*load_operand)(float* f, int64_t f_pitch, const OperandRows& in, int64_t pixels);
  void (*load_gradient)(float* dy, int64_t dy_pitch, const GradientRows& gradient, int64_t pixels);
  void (*store_gradient)(const SinkRows& sink, const float* df, int64_t df_pitch,
                         const OperandRows& in, int64_t pixels);
  void (*store_output)(const OutputRows& out, int64_t pixels);
  void (*multiply_slopes)(float* dy, const float* h, int64_t n, Activation act);  // dy *= act'(h)
  // pooled, slope, slope_xhat (padded,) += Σh, Σh', Σh'·xhat.
  void (*squeeze)(float* const sums[3], const OperandRows& in, int64_t pixels);
  void (*column_sums)(float* sums, const float* x, int64_t pitch, int64_t pixels, int channels);
  void (*correlate)(const CorrelateRows& rows);
  // taps[k] (kernel, padded) += Σ_j f[j·stride + k]·dy[j], over `width` pixels j; the rows f and dy
  // are (columns, padded).
  void (*correlate_taps)(float* taps, const float* f, const float* dy, int width, int channels,
                         int kernel, int stride);
  void (*add_scaled)(float* y, const float* x, float factor, int64_t n);  // y += factor·x
  void (*maximum)(float* y, const float* x, int64_t n);                   // y = max(y, x), or NaN
  // Where f is the maximum, df += what is left of dy, of which then nothing is left. NaN is left.
  void (*route_maximum)(float* df, float* left, const float* f, const float* best, int64_t n);
};

// The best table that this processor can run.
const RowKernels& row_kernels();

// ---- the tables; the last two run only where their instructions exist
const RowKernels& row_kernels_v2();
const RowKernels& row_kernels_v3();
const RowKernels& row_kernels_v4();

}  // namespace engine::cpu
