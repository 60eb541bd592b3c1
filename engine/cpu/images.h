// The staging slot, or the records of the pack that it holds, to the network's input.
#pragma once

#include "engine/cpu/threads.h"
#include "kernels/image.h"

namespace engine::cpu {

void load_images(const Threads& threads, float* image, const InputView& view);  // (batch, H, W, C)

}  // namespace engine::cpu
