// ZIP archives as PyTorch writes them: entries are stored, not compressed. zip64 is understood.
#pragma once

#include <map>
#include <string>

#include "io/files/bytes.h"

namespace engine {

// A view of an archive, whose bytes stay with the caller. A malformed archive is an Error(weights),
// which begins with `path`.
class ZipArchive {
 public:
  ZipArchive(Bytes file, const std::string& path);

  bool contains(const std::string& name) const { return entries_.contains(name); }
  Bytes read(const std::string& name) const;  // its CRC-32 is checked
  // The stem of the one entry `<stem>/<leaf>`. It is an Error if there is none or more than one.
  std::string stem_of(std::string_view leaf) const;

 private:
  struct Entry {
    uint64_t header;         // offset of the local header
    uint64_t stored, bytes;  // in the archive, and unpacked
    uint32_t crc;
    bool plain;  // neither compressed nor encrypted
  };
  struct Directory {
    uint64_t offset, entries;
  };
  Directory find_directory() const;
  void read_entry(ByteReader& in);
  void refuse_overlaps() const;

  Bytes file_;
  std::string path_;
  std::map<std::string, Entry> entries_;
};

}  // namespace engine
