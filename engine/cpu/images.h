// Turns the bytes of the staging slot, or the records of the pack that it holds, into the network's
// input.
#pragma once

#include "engine/cpu/threads.h"
#include "kernels/image.h"

namespace engine::cpu {

// Writes image, (batch, H, W, C).
void load_images(const Threads& threads, float* image, const InputView& view);

}  // namespace engine::cpu
