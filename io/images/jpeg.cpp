// JPEG through libjpeg-turbo's libjpeg interface with its defaults, which are PIL's (accurate
// integer DCT, smooth chroma upsampling). libjpeg reports errors by a jump, so the functions that
// call setjmp own nothing that needs a destructor.
#include <csetjmp>
#include <cstdio>
#include <cstring>

#include <jpeglib.h>

#include <jerror.h>

#include <algorithm>
#include <utility>
#include <vector>

#include "engine/error.h"
#include "io/images/decoders.h"
#include "io/images/exif.h"

namespace engine {
namespace {

constexpr int kMaxScans = 100;  // a tiny progressive file may legally ask for minutes of work

struct DecoderErrors : jpeg_error_mgr {
  std::jmp_buf jump;
  char text[JMSG_LENGTH_MAX];
};

[[noreturn]] void stop_decoding(j_common_ptr jpeg) {
  auto* errors = static_cast<DecoderErrors*>(jpeg->err);
  errors->format_message(jpeg, errors->text);
  std::longjmp(errors->jump, 1);
}

// Whether the scans up to the present one hold every coefficient. If the file ends then, only the
// end marker is missing; where data of the present scan are missing too, JWRN_HIT_MARKER follows.
bool is_last_scan(const jpeg_decompress_struct& jpeg) {
  if (!jpeg.cur_comp_info[0]) return false;  // no scan has begun
  if (!jpeg.progressive_mode)
    return jpeg.comps_in_scan == jpeg.num_components ||
           jpeg.input_scan_number >= jpeg.num_components;
  return jpeg.coef_bits &&
         std::all_of(jpeg.coef_bits, jpeg.coef_bits + jpeg.num_components, [](const auto& bits) {
           return std::all_of(std::begin(bits), std::end(bits),
                              [](int missing) { return missing == 0; });
         });
}

// Warnings after which libjpeg invents pixels are errors here; the others (bytes between markers,
// odd versions) are not.
void on_message(j_common_ptr jpeg, int level) {
  if (level >= 0) return;  // a trace, not a warning
  switch (jpeg->err->msg_code) {
    case JWRN_ARITH_BAD_CODE:
    case JWRN_HIT_MARKER:
    case JWRN_HUFF_BAD_CODE:
    case JWRN_MUST_RESYNC: stop_decoding(jpeg);
    case JWRN_JPEG_EOF:
      if (!is_last_scan(*reinterpret_cast<j_decompress_ptr>(jpeg))) stop_decoding(jpeg);
      return;
    default: return;
  }
}

void on_progress(j_common_ptr jpeg) {
  if (reinterpret_cast<j_decompress_ptr>(jpeg)->input_scan_number <= kMaxScans) return;
  auto* errors = static_cast<DecoderErrors*>(jpeg->err);
  std::snprintf(errors->text, sizeof errors->text, "more than %d scans", kMaxScans);
  std::longjmp(errors->jump, 1);
}

// Steps return false after an error, whose text is then in error(). They are called in the order in
// which they stand.
class JpegFile {
 public:
  JpegFile() = default;
  ~JpegFile() { jpeg_destroy_decompress(&jpeg_); }  // harmless on a zeroed struct
  JpegFile(const JpegFile&) = delete;
  JpegFile& operator=(const JpegFile&) = delete;

  const char* error() const { return errors_.text; }
  const jpeg_decompress_struct& state() const { return jpeg_; }

  bool read_header(std::span<const std::byte> file) {
    jpeg_.err = jpeg_std_error(&errors_);
    errors_.error_exit = stop_decoding;
    errors_.emit_message = on_message;
    if (setjmp(errors_.jump) != 0) return false;
    jpeg_create_decompress(&jpeg_);
    progress_.progress_monitor = on_progress;
    jpeg_.progress = &progress_;
    jpeg_save_markers(&jpeg_, JPEG_APP0 + 1, 0xFFFF);
    jpeg_mem_src(&jpeg_, reinterpret_cast<const unsigned char*>(file.data()), file.size());
    jpeg_read_header(&jpeg_, TRUE);
    return true;
  }

  bool start(J_COLOR_SPACE space, unsigned denominator) {
    if (setjmp(errors_.jump) != 0) return false;
    jpeg_.out_color_space = space;
    jpeg_.scale_num = 1;
    jpeg_.scale_denom = denominator;
    jpeg_start_decompress(&jpeg_);
    return true;
  }

  // Limits every row that is read to the columns left to left + width, or some more on both sides.
  bool narrow(unsigned& left, unsigned& width) {
    if (setjmp(errors_.jump) != 0) return false;
    jpeg_crop_scanline(&jpeg_, &left, &width);
    return true;
  }

  // Passes over the first rows, which nobody wants: only their coefficients are read.
  bool skip(unsigned rows) {
    if (setjmp(errors_.jump) != 0) return false;
    jpeg_skip_scanlines(&jpeg_, rows);
    return true;
  }

  bool read_rows(uint8_t* pixels, unsigned rows) {
    if (setjmp(errors_.jump) != 0) return false;
    const size_t stride = size_t{jpeg_.output_width} * size_t(jpeg_.output_components);
    const unsigned first = jpeg_.output_scanline;
    while (jpeg_.output_scanline < first + rows) {
      JSAMPROW row = pixels + (jpeg_.output_scanline - first) * stride;
      jpeg_read_scanlines(&jpeg_, &row, 1);
    }
    return true;
  }

  // Reads the rows that are left, so that a damaged or cut file is noticed. What follows the last
  // one, be it the end marker or what a phone appends, is not read. `row` takes one row of pixels.
  bool finish(uint8_t* row) {
    if (setjmp(errors_.jump) != 0) return false;
    // Skipping the last row would skip what is left of the file unread.
    const unsigned left = jpeg_.output_height - jpeg_.output_scanline;
    if (left > 1) jpeg_skip_scanlines(&jpeg_, left - 1);
    if (left > 0) jpeg_read_scanlines(&jpeg_, &row, 1);
    return true;
  }

 private:
  jpeg_decompress_struct jpeg_{};
  DecoderErrors errors_{};
  jpeg_progress_mgr progress_{};
};

// EXIF and XMP both stand in APP1 segments.
int orientation(const jpeg_decompress_struct& jpeg) {
  constexpr std::string_view kXmpSignature{"http://ns.adobe.com/xap/1.0/\0", 29};
  std::span<const std::byte> exif, xmp;
  for (auto* marker = jpeg.marker_list; marker; marker = marker->next) {
    const auto segment = std::as_bytes(std::span(marker->data, marker->data_length));
    if (exif.empty() && starts_with(segment, kExifSignature)) exif = segment;
    if (starts_with(segment, kXmpSignature)) xmp = segment.subspan(kXmpSignature.size());
  }
  return picture_orientation(exif, xmp);
}

unsigned scale_denominator(const jpeg_decompress_struct& jpeg, int reduce_to) {
  if (reduce_to <= 0) return 1;
  const unsigned shorter = std::min(jpeg.image_width, jpeg.image_height);
  for (const unsigned denominator : {8u, 4u, 2u})
    if ((shorter + denominator - 1) / denominator >= unsigned(reduce_to)) return denominator;
  return 1;
}

// In the pixels' data, 0xFF is followed by other bytes.
bool has_end_marker(std::span<const std::byte> after_header) {
  constexpr std::byte kEnd[] = {std::byte{0xFF}, std::byte{JPEG_EOI}};
  return !std::ranges::search(after_header, kEnd).empty();
}

// A Huffman code has at least one bit and every block of 8x8 pixels at least one code. A header
// that promises more than the file can hold is refused before memory is taken for it.
void check_file_size(const jpeg_decompress_struct& jpeg, size_t bytes, std::string_view name) {
  if (jpeg.arith_code) return;
  size_t blocks = 0;
  for (int i = 0; i < jpeg.num_components; ++i)
    blocks += size_t{jpeg.comp_info[i].width_in_blocks} * jpeg.comp_info[i].height_in_blocks;
  require(bytes >= blocks / 8, Failure::data, "{}: truncated, {}x{} pixels in {} bytes of JPEG",
          name, jpeg.image_width, jpeg.image_height, bytes);
}

}  // namespace

DecodedPart decode_jpeg(std::span<const std::byte> file, std::string_view name,
                        DecodeOptions options, const ChoosePart& choose, Image recycled) {
  JpegFile jpeg;
  const auto check = [&](bool ok) { require(ok, Failure::data, "{}: {}", name, jpeg.error()); };

  check(jpeg.read_header(file));
  const jpeg_decompress_struct& state = jpeg.state();
  check_image_size(state.image_width, state.image_height, name);
  require(state.jpeg_color_space != JCS_UNKNOWN, Failure::data,
          "{}: a JPEG file of {} components; 1, 3 and 4 are known", name, state.num_components);
  check_file_size(state, file.size(), name);

  const int held = orientation(state);  // the markers are gone once decoding has finished
  J_COLOR_SPACE space = JCS_RGB;
  if (state.jpeg_color_space == JCS_GRAYSCALE) space = JCS_GRAYSCALE;
  if (state.jpeg_color_space == JCS_CMYK || state.jpeg_color_space == JCS_YCCK) space = JCS_CMYK;

  check(jpeg.start(space, scale_denominator(state, options.reduce_to)));
  DecodedPart part{.image = std::move(recycled),
                   .width = int(state.output_width),
                   .height = int(state.output_height)};
  CropWindow wanted{0, 0, part.width, part.height};
  if (choose && held == 1) wanted = choose(part.width, part.height);
  if (wanted.width < part.width) {
    // Chroma at half size is interpolated from the neighbours, so it would differ at the edges.
    constexpr int kMargin = 2;
    const int begin = std::max(0, wanted.left - kMargin);
    const int end = std::min(part.width, wanted.left + wanted.width + kMargin);
    unsigned left = unsigned(begin), width = unsigned(end - begin);
    check(jpeg.narrow(left, width));
    part.left = int(left);
  }
  part.top = wanted.top;
  part.image.width = int(state.output_width);
  part.image.height = wanted.height;
  part.image.channels = state.output_components;
  const size_t stride = size_t{state.output_width} * size_t(state.output_components);
  part.image.pixels.resize(stride * size_t(wanted.height));
  if (wanted.top > 0) check(jpeg.skip(unsigned(wanted.top)));
  check(jpeg.read_rows(part.image.pixels.data(), unsigned(wanted.height)));
  if (options.reduce_to <= 0 || !choose) {
    std::vector<uint8_t> row(stride);
    check(jpeg.finish(row.data()));
  }
  if (part.image.channels == 4) part.image = ink_to_rgb(std::move(part.image), Ink::inverted);
  part.image = upright(std::move(part.image), held);
  if (held >= 5) std::swap(part.width, part.height);
  return part;
}

ImageInfo inspect_jpeg(std::span<const std::byte> file, std::string_view name) {
  JpegFile jpeg;
  require(jpeg.read_header(file), Failure::data, "{}: {}", name, jpeg.error());
  const jpeg_decompress_struct& state = jpeg.state();
  return {.format = "jpeg",
          .width = static_cast<int>(state.image_width),
          .height = static_cast<int>(state.image_height),
          .channels = state.num_components,
          .bits = state.data_precision,
          .orientation = orientation(state),
          .ended = has_end_marker(file.last(state.src->bytes_in_buffer))};
}

}  // namespace engine
