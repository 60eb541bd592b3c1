// The verbs that main.cpp's table lists, one source file each (or a few of one kind). Each reads its own options
// from the command and returns an exit code.
#pragma once

#include "tools/engine/options.h"

namespace engine {

int version(const Command& command);

}  // namespace engine
