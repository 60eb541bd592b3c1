// What loading a batch takes beside the pixels: plain numbers that the host draws and the device
// applies.
#pragma once

#include <cstdint>

namespace engine {

// What of another sample of the same batch is mixed into a sample. The label counts likewise:
// loss = share · CE(label) + (1 − share) · CE(label of the partner).
struct Mix {
  int32_t partner;  // position in the batch
  float share;      // of the sample itself
  // The box that is taken from the partner (cutmix), in pixels, right and bottom not included. An
  // empty box: share · sample + (1 − share) · partner, in float after normalisation (mixup).
  int16_t left, top, right, bottom;
};

}  // namespace engine
