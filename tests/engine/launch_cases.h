// A session's list of launches, for every backend: what it names, and that it is the step.
#pragma once

#include "engine/backend.h"

namespace engine::test {

// CHECKs that the launches of a training step of mnist_cnn, efficientnet_b0 and densenet121 at 64
// pixels have a name, a shape and bytes, and list the forward of every step in the graph's order
// and the backward in reverse; that an evaluation has the forward alone; that enqueuing the
// launches by hand leaves the bits that Session::train leaves; and that lean memory leaves the same
// bits and has what it computes again ahead of the backward that reads it.
void check_launches(Backend& backend);

}  // namespace engine::test
