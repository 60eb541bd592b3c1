// Files that are there completely or not at all, whatever happens while they are written.
#pragma once

#include <cstddef>
#include <filesystem>
#include <span>
#include <string_view>

namespace engine {

// Writes the parts one after the other into a temporary file in the same folder, syncs it, renames
// it to `path` and syncs the folder. On failure the temporary is removed and an Error(data) with
// the system's reason is thrown; what was at `path` before is untouched.
void write_file_atomically(const std::filesystem::path& path,
                           std::span<const std::span<const std::byte>> parts);
void write_file_atomically(const std::filesystem::path& path, std::string_view text);

}  // namespace engine
