// The files that pictures come from: what tells whether one has changed, and what is in it.
#pragma once

#include <cstdint>

#include "io/data/pack.h"
#include "io/images/image.h"

namespace engine {

struct SourceFile {
  uint64_t size = 0;     // bytes; 0 if there is no such file
  int64_t modified = 0;  // ns since 1970
};
SourceFile source_file(const PackSource& source);  // of a picture in memory: what is known of it

// XXH64 of the file's bytes, of a picture in memory that of its pixels; 0 if it cannot be read.
uint64_t content_hash(const PackSource& source);

struct SourcePicture {
  Image image;
  uint64_t content = 0;  // the hash
};
SourcePicture read_source(const PackSource& source, int channels);

}  // namespace engine
