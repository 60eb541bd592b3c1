#include "io/images/formats.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <iterator>

#include "engine/error.h"
#include "io/images/decoders.h"

namespace engine {
namespace {

using File = std::span<const std::byte>;

Image decode_whole_jpeg(File file, std::string_view name) {
  return decode_jpeg(file, name, {}, {}, {}).image;
}

constexpr Format kFormats[] = {
    {"jpeg", [](File f) { return starts_with(f, "\xff\xd8\xff"); }, decode_whole_jpeg,
     inspect_jpeg},
    {"png", [](File f) { return starts_with(f, "\x89PNG"); }, decode_png, inspect_png},
    {"bmp", [](File f) { return starts_with(f, "BM"); }, decode_bmp, inspect_bmp},
    {"gif", [](File f) { return starts_with(f, "GIF8"); }, decode_gif, inspect_gif},
    {"pnm", is_pnm, decode_pnm, inspect_pnm},
    {"tiff", is_tiff, decode_tiff, inspect_tiff},
    {"webp", is_webp, decode_webp, inspect_webp},
    {"tga", [](File) { return true; }, decode_tga, inspect_tga},
};

// Magic bytes at their place, and how the format is called.
struct Unread {
  size_t at;
  std::string_view magic, name;
};

constexpr Unread kUnread[] = {
    {4, "ftypavif", "AVIF"},
    {4, "ftypavis", "AVIF"},
    {4, "ftyphei", "HEIC"},
    {4, "ftyphev", "HEIC"},
    {4, "ftypmif1", "HEIC or AVIF"},
    {4, "ftypmsf1", "HEIC or AVIF"},
    {4, "jP  \r\n\x87\n", "JPEG 2000"},
    {0, "\xff\x4f\xff\x51", "JPEG 2000"},
    {4, "JXL \r\n\x87\n", "JPEG XL"},
    {0, "\xff\x0a", "JPEG XL"},
    {128, "DICM", "DICOM"},
    {0, "8BPS", "Photoshop"},
    {0, "%PDF", "PDF"},
    {0, "%!PS", "PostScript"},
    {0, "<svg", "SVG"},
    {0, "DDS ", "DDS"},
    {0, "SIMPLE  =", "FITS"},
    {0, "qoif", "QOI"},
    {0, "P7", "PAM"},
    {0, "Pf", "PFM"},
    {0, "PF", "PFM"},
    {0, "\x89HDF", "HDF5"},
};

bool is(const Unread& format, File file) {
  return file.size() >= format.at && starts_with(file.subspan(format.at), format.magic);
}

}  // namespace

bool starts_with(File file, std::string_view magic) {
  return file.size() >= magic.size() && std::memcmp(file.data(), magic.data(), magic.size()) == 0;
}

const Format& format_of(File file, std::string_view name) {
  require(!file.empty(), Failure::data, "{}: the file is empty", name);
  for (const Unread& unread : kUnread)
    require(!is(unread, file), Failure::data,
            "{}: a {} file, which is not read; convert it to PNG or JPEG", name, unread.name);
  return *std::ranges::find_if(kFormats, [&](const Format& f) { return f.matches(file); });
}

}  // namespace engine
