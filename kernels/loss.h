// What a batch's logits are compared with, for every backend: torch.nn.CrossEntropyLoss with
// class weights and label smoothing, each row with one label or a mix of two.
#pragma once

#include <cstdint>

#include "kernels/image.h"

namespace engine {

// Row n's loss is −Σ_c q[c]·log p[c] with
//   q[c] = (1 − smoothing)·w[c]·(share·[c = label] + (1 − share)·[c = other]) + smoothing/C·w[c].
// The step's is the sum of the rows' over params->divisor.
struct TargetRow {
  int label = 0, other = 0;
  double own = 1, others = 0, spread = 0;  // of the label, of the other, of every class
  const double* class_weights = nullptr;

  ENGINE_HOST_DEVICE double at(int c) const {
    const double part = (c == label ? own : 0.) + (c == other ? others : 0.) + spread;
    return class_weights && part != 0 ? part * class_weights[c] : part;
  }
};

// How many classes stand before the label's: of equal logits the lower class does; NaN counts as
// the largest, as in torch.topk.
template <class T>
ENGINE_HOST_DEVICE bool stands_before(T z, int c, T of_label, int label) {
  return c != label && (!(z <= of_label) || (z == of_label && c < label));
}
template <class T>
int rank_of(int label, const T* logits, int classes) {
  int rank = 0;
  for (int c = 0; c < classes; ++c) rank += stands_before(logits[c], c, logits[label], label);
  return rank;
}

// The labels and mixes of all staging slots.
struct TargetView {
  const int32_t* labels = nullptr;        // (kSlots, capacity)
  const Mix* mixes = nullptr;             // (kSlots, capacity); null: nothing is mixed
  const double* class_weights = nullptr;  // (classes,); null: all 1
  double smoothing = 0;
  int capacity = 0, classes = 0;
  const StepParams* params = nullptr;

  ENGINE_HOST_DEVICE TargetRow row(int n) const {
    const int64_t first = int64_t{params->slot} * capacity;
    TargetRow row{.label = labels[first + n],
                  .other = labels[first + n],
                  .own = 1 - smoothing,
                  .others = 0,
                  .spread = smoothing / classes,
                  .class_weights = class_weights};
    if (mixes && params->mixed) {
      const Mix& mix = mixes[first + n];
      row.other = labels[first + mix.partner];
      row.others = row.own * (1 - double{mix.share});
      row.own *= double{mix.share};
    }
    return row;
  }
};

}  // namespace engine
