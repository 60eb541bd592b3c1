#include "io/images/encode.h"

#include <csetjmp>
#include <cstdio>
#include <cstdlib>

#include <jpeglib.h>

#include <algorithm>
#include <cctype>
#include <string>

#include "engine/error.h"
#include "io/files/atomic_file.h"

namespace engine {
namespace {

struct EncoderErrors : jpeg_error_mgr {
  std::jmp_buf jump;
};

[[noreturn]] void stop_encoding(j_common_ptr jpeg) {
  std::longjmp(static_cast<EncoderErrors*>(jpeg->err)->jump, 1);
}

// Owns the encoder and its output, so that the function with setjmp owns nothing.
struct Encoder {
  jpeg_compress_struct jpeg{};
  EncoderErrors errors{};
  unsigned char* output = nullptr;
  unsigned long size = 0;

  ~Encoder() {
    jpeg_destroy_compress(&jpeg);
    std::free(output);
  }

  bool run(const Image& image, int quality) {
    jpeg.err = jpeg_std_error(&errors);
    errors.error_exit = stop_encoding;
    if (setjmp(errors.jump) != 0) return false;
    jpeg_create_compress(&jpeg);
    jpeg_mem_dest(&jpeg, &output, &size);
    jpeg.image_width = JDIMENSION(image.width);
    jpeg.image_height = JDIMENSION(image.height);
    jpeg.input_components = image.channels;
    jpeg.in_color_space = image.channels == 3 ? JCS_RGB : JCS_GRAYSCALE;
    jpeg_set_defaults(&jpeg);
    jpeg_set_quality(&jpeg, quality, TRUE);
    jpeg_start_compress(&jpeg, TRUE);
    while (jpeg.next_scanline < jpeg.image_height) {
      auto* row = const_cast<JSAMPROW>(image.row(int(jpeg.next_scanline)));
      jpeg_write_scanlines(&jpeg, &row, 1);
    }
    jpeg_finish_compress(&jpeg);
    return true;
  }
};

}  // namespace

std::vector<std::byte> encode_jpeg(const Image& image, int quality) {
  Encoder encoder;
  require(encoder.run(image, quality), Failure::internal, "JPEG encoding of {}x{} pixels failed",
          image.width, image.height);
  const auto* bytes = reinterpret_cast<const std::byte*>(encoder.output);
  return {bytes, bytes + encoder.size};
}

void write_image(const std::filesystem::path& path, const Image& image, int quality) {
  std::string extension = path.extension().string();
  std::transform(extension.begin(), extension.end(), extension.begin(),
                 [](unsigned char c) { return std::tolower(c); });
  const bool jpeg = extension == ".jpg" || extension == ".jpeg";
  require(jpeg || extension == ".png", Failure::usage, "{}: write .jpg or .png", path.string());
  const auto bytes = jpeg ? encode_jpeg(image, quality) : encode_png(image);
  const std::span<const std::byte> parts[] = {bytes};
  write_file_atomically(path, parts);
}

}  // namespace engine
