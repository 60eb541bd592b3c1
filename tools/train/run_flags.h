// The flags that a run was started with, as its folder keeps them: args.json and command.txt of the
// first start, args-2.json and command-2.txt of the second, and so on.
#pragma once

#include <filesystem>
#include <optional>
#include <string>
#include <string_view>

#include "tools/cli/options.h"

namespace engine {

// "args.json", or the first of "args-2.json", "args-3.json", … that is not in the run's folder yet.
std::string first_free(const std::filesystem::path& run, std::string_view stem,
                       std::string_view extension);

// The folder of the run that `--resume PATH` names: PATH, or that of the checkpoint PATH.
std::filesystem::path run_of(const std::filesystem::path& path);

// The flags of the latest start of a run, but those that are of one start only: --out, --resume and
// those of --lr-find; nothing if its folder keeps none. Error(usage) if the file cannot be read.
std::optional<Config> latest_flags(const std::filesystem::path& run);

// Makes paths absolute, so that the flags mean the same from any folder. Of a flag that takes other
// words, too ("FILE|NAME"), only the value that is a file.
void make_paths_absolute(const Flags& flags);

}  // namespace engine
