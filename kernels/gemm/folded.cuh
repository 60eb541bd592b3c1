// A batch norm's backward through y = W · f, without y. With dy = φ·G − p·y + q, for
// each channel of y φ = 1 (gamma·inv_std of a sum's gradient), p = k1·inv_std and q = p·mean − k0,
//   df = (φ·W)ᵀ · G − (Wᵀ · p · W) · f + Wᵀ · q
//   dW = φ · (G · fᵀ) − p · W · (f · fᵀ) + q · (Σ f)ᵀ.
// The weights of df are folded before it, and dW is made behind sums over all pixels.
#pragma once

#include <cuda_runtime_api.h>

#include "kernels/folded_tiles.h"
#include "kernels/kernels.h"

namespace engine::kernels {

// What is handed on: folded weights (C' + 2 C, C) and their vectors (C,), sums and their
// rows.
template <class T>
struct FoldedMemory {
  T* folded;
  // df = unit·(offset + ratio·(what f makes) + (what G makes)).
  float *ratio, *offset, *unit;
  float *sums, *rows;  // `rows` is null where there is one unit

  FoldedMemory(float* at, const FoldedScratch& scratch, int channels)
      : folded(reinterpret_cast<T*>(at)),
        ratio(at + scratch.folded),
        offset(ratio + channels),
        unit(offset + channels),
        sums(unit + channels),
        rows(scratch.rows ? sums + scratch.sums : nullptr) {}
};

// Folds the weights (C', C) of a layer.
template <class T>
void fold_weights(const FoldedMemory<T>& to, const GradientView<T>& dy, const T* weight,
                  int channels, cudaStream_t stream);

// dweight (C', C) from the sums: G · fᵀ (C', C), f · fᵀ (C, C) and Σ f (C,).
template <class T>
void finish_weight(float* dweight, const FoldedMemory<T>& from, const GradientView<T>& dy,
                   const T* weight, int channels, cudaStream_t stream);

}  // namespace engine::kernels
