// The memory of decoders follows what they read: a child process decodes one file, and its peak is
// measured. Files that promise much and hold little are refused before memory is taken for them.
#include <doctest/doctest.h>
#include <fmt/format.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>
#include <zlib.h>

#include <cstdint>
#include <filesystem>
#include <span>
#include <string>
#include <vector>

#include "engine/error.h"
#include "io/files/atomic_file.h"
#include "io/files/bytes.h"
#include "io/images/decode.h"
#include "io/images/encode.h"
#include "io/images/preprocess.h"
#include "tests/io/images/pillow.h"
#include "tests/io/images/png_chunk.h"
#include "tests/support.h"

using namespace engine;
using namespace engine::test;
using namespace std::string_literals;

namespace {

// What a child's peak exceeds that of an idle child by, in bytes, and whether `action` threw.
struct Outcome {
  int64_t peak = 0;
  bool refused = false;
};

template <class Action>
Outcome in_child(const Action& action) {
  const pid_t child = fork();
  REQUIRE(child >= 0);
  if (child == 0) {
    try {
      action();
    } catch (const Error&) {
      _exit(3);
    }
    _exit(0);
  }
  int status = 0;
  rusage usage{};
  REQUIRE(wait4(child, &status, 0, &usage) == child);
  REQUIRE(WIFEXITED(status));
  return {.peak = int64_t{usage.ru_maxrss} * 1024, .refused = WEXITSTATUS(status) != 0};
}

Outcome decoding(const std::string& file, int channels = 3) {
  const int64_t idle = in_child([] {}).peak;
  Outcome outcome = in_child([&] { decode(std::as_bytes(std::span(file)), "a.file", channels); });
  outcome.peak -= idle;
  return outcome;
}

// RGB of 8 bits with any bytes as its pixels.
std::string png(uint32_t width, uint32_t height, const std::string& pixels) {
  uLongf size = compressBound(pixels.size());
  std::string data(size, 0);
  compress(reinterpret_cast<Bytef*>(data.data()), &size,
           reinterpret_cast<const Bytef*>(pixels.data()), pixels.size());
  data.resize(size);
  const std::string header = big_endian(width) + big_endian(height) + "\10\2\0\0\0"s;
  return "\x89PNG\r\n\x1a\n" + png_chunk("IHDR", header) + png_chunk("IDAT", data) +
         png_chunk("IEND", "");
}

constexpr int64_t kMiB = 1 << 20;

// Sanitizers keep what is freed, and shadows of what is used.
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
constexpr bool kSanitized = true;
#else
constexpr bool kSanitized = false;
#endif

}  // namespace

TEST_CASE("files that promise more than they hold are refused without memory for it") {
  if (kSanitized) return note_skipped("peaks of memory under a sanitizer");
  const std::string side = "\x41\x34"s;  // 13377, below the limits
  const std::string bmp_size = side + "\0\0"s + side + "\0\0"s;
  const std::string core = "BM" + std::string(8, '\0') + "\x36\0\0\0"s + "\x28\0\0\0"s + bmp_size;
  const std::string whole = std::string(as_text(encode_jpeg(noise_image(16, 16, 3, 1), 90)));
  const size_t frame = whole.find("\xff\xc0");
  std::string jpeg = whole;
  for (const size_t at : {frame + 5, frame + 7}) jpeg.replace(at, 2, "\x34\x41");
  // Half a gigabyte of text, the first of it.
  const std::string pixel = png(1, 1, std::string(4, '\0'));
  constexpr size_t kHeader = 33;  // signature and IHDR
  const std::string text =
      pixel.substr(0, kHeader) + big_endian(1 << 29) + "tEXta" + pixel.substr(kHeader);
  const std::vector<std::pair<std::string, std::string>> files = {
      {"gif", "GIF89a" + side + side + "\x80\0\0"s + std::string(6, '\0') + ',' +
                  std::string(4, '\0') + "\1\0\1\0\0\2\2\x44\1\0;"s},
      {"bmp", core + "\1\0\x18\0"s + std::string(34, '\0')},
      {"tga", "\0\0\2"s + std::string(9, '\0') + side + side + "\x18\0"s + std::string(99, '\0')},
      {"tga runs", "\0\0\12"s + std::string(9, '\0') + side + side + "\x18\0"s + "\xff\0\0\0"s},
      {"pnm", "P6 13377 13377 255 x"},
      {"pnm text", "P3 13377 13377 255 1 2 3"},
      {"png", png(13377, 13377, std::string(40'132, '\0'))},
      {"png data", png(16, 16, std::string(size_t{128} << 20, '\0'))},
      {"png text", text},
      {"jpeg", jpeg},
  };
  for (const auto& [name, file] : files) {
    CAPTURE(name);
    const Outcome outcome = decoding(file);
    CHECK(outcome.refused);
    CHECK(outcome.peak < 16 * kMiB);
  }
}

TEST_CASE("a file with more bytes than any picture is refused unread, and named") {
  const TemporaryFolder folder;
  const std::filesystem::path holes = folder.path() / "holes.png";
  write_file_atomically(holes, "\x89PNG\r\n\x1a\n");
  std::filesystem::resize_file(holes, kMaxImageBytes + 1);  // no byte of these is on a disk
  const int64_t idle = in_child([] {}).peak;
  const Outcome outcome = in_child([&] { read_image(holes, 3); });
  CHECK(outcome.refused);
  CHECK(mentions(message_of([&] { read_image(holes, 3); }), holes.string() + ": 2147483649 bytes"));
  if (kSanitized) return;  // a sanitizer ends the process that asks for so much
  CHECK(outcome.peak - idle < 16 * kMiB);
  // What has no such limit fits into memory, or says that it does not.
  std::filesystem::resize_file(holes, uint64_t{1} << 43);
  CHECK(mentions(message_of([&] { read_file(holes); }), "no memory for its 8796093022208 bytes"));
}

TEST_CASE("decoding takes at most twice the memory of the picture") {
  if (kSanitized) return note_skipped("peaks of memory under a sanitizer");
  constexpr int kSide = 3000;
  const Image noise = noise_image(kSide / 10, kSide / 10, 3, 3);
  Image large(kSide, kSide, 3);
  for (int y = 0; y < kSide; ++y)
    for (int x = 0; x < kSide * 3; ++x) large.row(y)[x] = noise.row(y % 300)[x % 900];
  const std::string pixels(reinterpret_cast<const char*>(large.pixels.data()), large.pixels.size());
  const auto bytes = int64_t(large.pixels.size());
  const std::vector<std::pair<std::string, std::string>> files = {
      {"jpeg", std::string(as_text(encode_jpeg(large, 90)))},
      {"png", std::string(as_text(encode_png(large)))},
      {"pnm", fmt::format("P6 {0} {0} 255\n", kSide) + pixels},
  };
  for (const auto& [name, file] : files)
    for (const int channels : {1, 3}) {
      CAPTURE(name);
      CAPTURE(channels);
      const Outcome outcome = decoding(file, channels);
      CHECK_FALSE(outcome.refused);
      CHECK(outcome.peak < 2 * bytes);
    }
}

TEST_CASE("a thin picture takes memory for its crop alone") {
  if (kSanitized) return note_skipped("peaks of memory under a sanitizer");
  const Image thin = noise_image(1, 65'500, 3, 5);
  const Preprocess preprocess;  // shorter side 256, crop 224: 256 x 16,768,000 pixels between
  const int64_t idle = in_child([] {}).peak;
  const Outcome outcome = in_child([&] { evaluate_transform(thin, preprocess); });
  CHECK_FALSE(outcome.refused);
  CHECK(outcome.peak - idle < 16 * kMiB);
  const Image part = evaluate_transform(thin, preprocess);
  CHECK(part.width == 224);
  // The middle of the picture, between two of its pixels.
  const Image tall = crop(thin, 0, 32'740, 1, 20);
  const Image expected = center_crop(resize(tall, 256, 20 * 256, Interpolation::bilinear), 224);
  CHECK(same_pixels(part, expected));
}
