// WebP through libwebp: still pictures and the first frame of animations. Outside that frame the
// canvas is black, and the colours of transparent pixels are kept, as PIL's convert("RGB") does.
#include <webp/decode.h>
#include <webp/demux.h>

#include <memory>

#include "engine/error.h"
#include "io/images/decoders.h"
#include "io/images/exif.h"

namespace engine {
namespace {

class WebpFile {
 public:
  WebpFile(std::span<const std::byte> file, std::string_view name) {
    const WebPData data{reinterpret_cast<const uint8_t*>(file.data()), file.size()};
    WebPDemuxState state = WEBP_DEMUX_PARSE_ERROR;
    demuxer_.reset(WebPDemuxPartial(&data, &state));
    const bool whole = demuxer_ && (state == WEBP_DEMUX_PARSED_HEADER || state == WEBP_DEMUX_DONE);
    require(whole && WebPDemuxGetFrame(demuxer_.get(), 1, &frame_) != 0, Failure::data,
            "{}: WebP: {}", name, state == WEBP_DEMUX_PARSE_ERROR ? "damaged" : "truncated");
  }
  ~WebpFile() { WebPDemuxReleaseIterator(&frame_); }
  WebpFile(const WebpFile&) = delete;
  WebpFile& operator=(const WebpFile&) = delete;

  const WebPIterator& frame() const { return frame_; }
  int width() const { return int(WebPDemuxGetI(demuxer_.get(), WEBP_FF_CANVAS_WIDTH)); }
  int height() const { return int(WebPDemuxGetI(demuxer_.get(), WEBP_FF_CANVAS_HEIGHT)); }

  // EXIF's, or that of XMP.
  int orientation() const { return picture_orientation(chunk("EXIF"), chunk("XMP ")); }

 private:
  // The bytes of a chunk, which lie in the file; none if it has no such chunk.
  std::span<const std::byte> chunk(const char* type) const {
    WebPChunkIterator found{};
    std::span<const std::byte> bytes;
    if (WebPDemuxGetChunk(demuxer_.get(), type, 1, &found) != 0)
      bytes = std::as_bytes(std::span(found.chunk.bytes, found.chunk.size));
    WebPDemuxReleaseChunkIterator(&found);
    return bytes;
  }

  struct Delete {
    void operator()(WebPDemuxer* demuxer) const { WebPDemuxDelete(demuxer); }
  };
  std::unique_ptr<WebPDemuxer, Delete> demuxer_;
  WebPIterator frame_{};
};

}  // namespace

bool is_webp(std::span<const std::byte> file) {
  constexpr size_t kAfterSize = 8;
  return starts_with(file, "RIFF") && file.size() > kAfterSize &&
         starts_with(file.subspan(kAfterSize), "WEBP");
}

Image decode_webp(std::span<const std::byte> file, std::string_view name) {
  const WebpFile webp(file, name);
  check_image_size(webp.width(), webp.height(), name);
  const WebPIterator& frame = webp.frame();
  require(frame.complete != 0, Failure::data, "{}: WebP: truncated", name);
  Image image(webp.width(), webp.height(), 3);
  const size_t stride = size_t(image.width) * 3;
  uint8_t* first = image.row(frame.y_offset) + size_t(frame.x_offset) * 3;
  const size_t room = image.pixels.size() - size_t(first - image.pixels.data());
  require(WebPDecodeRGBInto(frame.fragment.bytes, frame.fragment.size, first, room, int(stride)),
          Failure::data, "{}: WebP: damaged or truncated pixels", name);
  return upright(std::move(image), webp.orientation());
}

ImageInfo inspect_webp(std::span<const std::byte> file, std::string_view name) {
  const WebpFile webp(file, name);
  return {.format = "webp",
          .width = webp.width(),
          .height = webp.height(),
          .channels = 3,
          .alpha = webp.frame().has_alpha != 0,
          .orientation = webp.orientation()};
}

}  // namespace engine
