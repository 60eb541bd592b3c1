// What a batch's logits are compared with, for every backend: torch.nn.CrossEntropyLoss with
// class weights and label smoothing, each row with one class or a mix of two; or
// torch.nn.BCEWithLogitsLoss with weights of positives, each row with several labels.
#pragma once

#include <cmath>
#include <cstdint>

#include "kernels/image.h"
#include "kernels/targets.h"

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

// What the logit z of one label is compared with: q from 0 to 1, of which `negative` = 1 − q and
// `positive` = w·q with w the weight of the label's positives. The loss of the entry is
//   −(w·q·log σ(z) + (1 − q)·log(1 − σ(z))).
// Both are 0 where the label is missing.
struct LabelTarget {
  double positive = 0, negative = 0;
};

// q from 0 to 1, or below 0 where it is not known: where the label is missing in one of the images
// that have a share. A smoothing s moves q to (1 − s)·q + s/2.
ENGINE_HOST_DEVICE double mixed_presence(Presence own, Presence other, double share,
                                         double smoothing) {
  if (share == 0) own = other;
  if (share == 1) other = own;
  if (own == Presence::missing || other == Presence::missing) return -1;
  const double q =
      (own == Presence::present ? share : 0.) + (other == Presence::present ? 1 - share : 0.);
  return (1 - smoothing) * q + smoothing / 2;
}

// (1 − q)·z + (1 − q + w·q)·log(1 + e^−z), which overflows for no z. R: float or double.
template <class R>
ENGINE_HOST_DEVICE double label_loss(R z, const LabelTarget& target) {
  const R below = z < 0 ? -z : R(0);
#ifdef __CUDA_ARCH__
  const R softplus = log1p(exp(-fabs(z))) + below;
#else
  const R softplus = std::log1p(std::exp(-std::abs(z))) + below;
#endif
  return target.negative * static_cast<double>(z) +
         (target.negative + target.positive) * static_cast<double>(softplus);
}

// Its slope, (1 − q)·σ(z) − w·q·σ(−z).
template <class R>
ENGINE_HOST_DEVICE R label_slope(R z, const LabelTarget& target) {
  return R(target.negative) * sigmoid(z) - R(target.positive) * sigmoid(-z);
}

// Whether a prediction of "present where z > 0" is wrong; of what is missing none is.
template <class R>
ENGINE_HOST_DEVICE bool is_wrong(R z, Presence presence) {
  return presence == Presence::present ? !(z > 0) : presence == Presence::absent && !(z <= 0);
}

// The targets and mixes of all staging slots.
struct TargetView {
  const int32_t* labels = nullptr;     // (kSlots, capacity): the class of each image, or
  const Presence* presence = nullptr;  // (kSlots, capacity, classes): which labels it has
  const Mix* mixes = nullptr;          // (kSlots, capacity); null: nothing is mixed
  // (classes,); of labels those of their positives; null: all 1.
  const double* class_weights = nullptr;
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

  // Of image n itself, whatever it is mixed with.
  ENGINE_HOST_DEVICE Presence presence_of(int n, int label) const {
    return presence[(int64_t{params->slot} * capacity + n) * classes + label];
  }
  ENGINE_HOST_DEVICE LabelTarget label(int n, int label) const {
    const Presence own = presence_of(n, label);
    const Mix mix = mixes && params->mixed ? mixes[int64_t{params->slot} * capacity + n] : Mix{};
    const Presence other = mix.share == 1 ? own : presence_of(mix.partner, label);
    const double q = mixed_presence(own, other, double{mix.share}, smoothing);
    if (q < 0) return {};
    return {.positive = class_weights ? q * class_weights[label] : q, .negative = 1 - q};
  }
};

}  // namespace engine
