// How a pack lies in its file, for pack.cpp and pack_writer.cpp only: a header, which has the spec,
// the pixels of each picture at a multiple of kPackAlignment, then the index: a Record for each
// picture, then their paths as length (u32) and bytes. Numbers are in the byte order of this
// machine; another one fails the header's checksum.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "io/data/pack.h"
#include "io/files/checksum.h"

namespace engine {

inline constexpr char kPackMagic[8] = {'E', 'N', 'G', 'P', 'A', 'C', 'K', '\n'};
inline constexpr uint32_t kPackVersion = 3;
inline constexpr uint64_t kPackAlignment = 64;
inline constexpr uint64_t kPackPixels = 4096;  // where they begin

struct PackHeader {
  char magic[8] = {};
  uint32_t version = 0;
  int32_t resize_height = 0, resize_width = 0;
  int32_t interpolation = 0, channels = 0;
  uint32_t count = 0;           // pictures
  uint64_t index_offset = 0;    // also where the pixels end
  uint64_t index_bytes = 0;     // up to the end of the file
  uint64_t index_checksum = 0;  // XXH64
  uint64_t checksum = 0;        // XXH64 of all that is above

  uint64_t own_checksum() const {
    return xxh64(std::as_bytes(std::span(this, 1)).first(offsetof(PackHeader, checksum)));
  }
};

}  // namespace engine
