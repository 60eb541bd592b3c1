// The files that the pictures of a pack come from: what tells whether one has changed, and what is
// in it.
#pragma once

#include <cstdint>

#include "io/data/pack.h"
#include "io/images/image.h"

namespace engine {

struct SourceFile {
  uint64_t size = 0;     // bytes; 0 if there is no such file
  int64_t modified = 0;  // ns since 1970
};
// The file's size and time; of a picture in memory, the size of its pixels and no time.
SourceFile source_file(const PackSource& source);

// XXH64 of the file's bytes, or of the pixels of a picture in memory; 0 if the file cannot be read.
uint64_t content_hash(const PackSource& source);

struct SourcePicture {
  Image image;
  uint64_t content = 0;  // content_hash() of the source
};
SourcePicture read_source(const PackSource& source, int channels);

}  // namespace engine
