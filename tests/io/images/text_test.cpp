#include "io/images/text.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <string>
#include <vector>

#include "io/files/utf8.h"
#include "io/images/contact_sheet.h"
#include "tests/io/images/pillow.h"
#include "tests/support.h"

using namespace engine;
using namespace engine::test;

namespace {

constexpr const char* kFont = ENGINE_FONT;

Image white(int width, int height, int channels) {
  Image image(width, height, channels);
  std::ranges::fill(image.pixels, uint8_t{255});
  return image;
}

Image drawn(const Font& font, std::u32string_view text, int channels = 1) {
  Image image = white(200, 40, channels);
  font.draw(image, 5, 25, text);
  return image;
}

long ink(const Image& image) {
  long sum = 0;
  for (const uint8_t value : image.pixels) sum += 255 - value;
  return sum;
}

}  // namespace

TEST_CASE("UTF-8: characters, and U+FFFD for bytes that belong to none") {
  CHECK(decode_utf8("") == U"");
  CHECK(decode_utf8("Übel Größe") == U"Übel Größe");
  CHECK(decode_utf8("a\u20AC\U0001F40E") == U"a\u20AC\U0001F40E");
  CHECK(decode_utf8("a\xFF"
                    "b") == U"a\uFFFDb");
  CHECK(decode_utf8("\xC3") == U"\uFFFD");                                // cut
  CHECK(decode_utf8("\xC0\x80") == U"\uFFFD\uFFFD");                      // overlong
  CHECK(decode_utf8("\xED\xA0\x80") == U"\uFFFD\uFFFD\uFFFD");            // a surrogate
  CHECK(decode_utf8("\xF4\x90\x80\x80") == U"\uFFFD\uFFFD\uFFFD\uFFFD");  // beyond U+10FFFF
}

TEST_CASE("every character has a glyph of its own, and a text is as wide as their advances") {
  const Font font(kFont, 16);
  const std::u32string text = U"Übel Größe";
  std::vector<Image> glyphs;
  int advances = 0;
  for (const char32_t character : text) {
    const std::u32string_view one(&character, 1);
    advances += font.width(one);
    CHECK(font.width(one) > 0);
    if (character == U' ') continue;
    const Image glyph = drawn(font, one);
    CHECK(ink(glyph) > 0);
    for (const Image& other : glyphs)
      if (text.find(character) == size_t(&character - text.data()))
        CHECK_FALSE(same_pixels(glyph, other));
    glyphs.push_back(glyph);
  }
  CHECK(font.width(text) == advances);
  CHECK(font.width(U"") == 0);
  CHECK_FALSE(same_pixels(drawn(font, U"Ü"), drawn(font, U"U")));
  CHECK_FALSE(same_pixels(drawn(font, U"ß"), drawn(font, U"\uFFFD")));
  CHECK(ink(drawn(font, U"\uFFFD")) > 0);
  CHECK(ink(drawn(font, U"\U0010FFFF")) > 0);  // in no font: its box
}

TEST_CASE("text is drawn in black on every channel, at its place, and clipped at the edges") {
  const Font font(kFont, 16);
  const Image gray = drawn(font, U"Größe"), color = drawn(font, U"Größe", 3);
  for (size_t i = 0; i < gray.pixels.size(); ++i)
    for (size_t c = 0; c < 3; ++c) REQUIRE(color.pixels[3 * i + c] == gray.pixels[i]);
  for (int y = 0; y < gray.height; ++y)
    for (int x = 0; x < gray.width; ++x)
      if (gray.row(y)[x] != 255) {
        CHECK(x >= 4);
        CHECK(x < 5 + font.width(U"Größe") + 1);
        CHECK(y >= 25 - 16);
        CHECK(y < 25 + 6);
      }
  for (const int left : {-100, -8, 15, 100})
    for (const int baseline : {-100, 2, 8, 24, 100}) {
      Image small = white(20, 20, 3);
      font.draw(small, left, baseline, U"WgjW");
      const bool outside = std::abs(left) == 100 || std::abs(baseline) == 100;
      CHECK(outside == (ink(small) == 0));
    }
}

TEST_CASE("a font that cannot be read is an error that names it") {
  CHECK(mentions(message_of([] { Font("/nonexistent.ttf", 12); }), "/nonexistent.ttf: "));
  CHECK(mentions(message_of([] { Font(ENGINE_SOURCE_DIR "/LICENSE", 12); }), "LICENSE: "));
}

TEST_CASE("contact sheets: labels in any script, cut where they do not fit, and never a crash") {
  const std::vector<Image> pictures(2, white(60, 10, 3));
  const auto sheet = [&](const std::string& first, const std::string& second) {
    return contact_sheet(pictures, std::vector{first, second}, kFont, 2);
  };
  CHECK(ink(sheet("", "")) == 0);
  CHECK_FALSE(same_pixels(sheet("Übel", ""), sheet("Ubel", "")));
  CHECK_FALSE(same_pixels(sheet("Größe", ""), sheet("??????e", "")));
  CHECK(same_pixels(sheet("\xFF\xC3", ""), sheet("\uFFFD\uFFFD", "")));
  CHECK(ink(sheet("\xFF", "")) > 0);
  const std::string begins(100, 'n');  // reaches the edge of its picture and no further
  CHECK(same_pixels(sheet(begins, ""), sheet(begins + "ß", "")));
  CHECK(ink(sheet(begins, "x")) == ink(sheet(begins, "")) + ink(sheet("", "x")));
  CHECK(sheet("a\nb", "").height == sheet("a", "").height + 16);
}

TEST_CASE("characters that no font has are boxes, and some are not drawn at all") {
  const Font font(kFont, 16);
  const std::u32string horse = U"\U0001F40E", missing = U"\u9ED1", box = U"\U0010FFFF";
  CHECK(font.width(missing) > 0);
  CHECK(same_pixels(drawn(font, missing), drawn(font, box)));
  CHECK(font.width(missing + horse + U"a") ==
        font.width(missing) + font.width(horse) + font.width(U"a"));
  // Joiners and variation selectors are no boxes of their own.
  CHECK(font.width(U"a\u200D\uFE0Fb") == font.width(U"ab"));
  CHECK(same_pixels(drawn(font, U"a\u200D\uFE0Fb"), drawn(font, U"ab")));

  // A fallback that cannot be read is passed over; one that has no glyph either leaves the box.
  const Font with(kFont, 16, {"/nonexistent.ttf", ENGINE_SOURCE_DIR "/LICENSE", kFont});
  CHECK(same_pixels(drawn(with, missing), drawn(font, missing)));
  CHECK(same_pixels(drawn(with, U"Größe"), drawn(font, U"Größe")));
}

TEST_CASE("fallbacks have the characters that the font lacks") {
  const Font font(kFont, 16);
  const std::u32string missing = U"\u9ED1";
  const std::vector<std::filesystem::path> fonts = fallback_fonts();
  if (fonts.empty()) return note_skipped("no font with Chinese characters");
  const Font chinese(kFont, 16, fonts);
  CHECK(ink(drawn(chinese, missing)) > 0);
  CHECK_FALSE(same_pixels(drawn(chinese, missing), drawn(font, missing)));
  CHECK(chinese.width(missing) > font.width(U"n"));  // as wide as its glyph
  CHECK(same_pixels(drawn(chinese, U"Größe"), drawn(font, U"Größe")));
}

TEST_CASE("small pictures are enlarged by whole pixels") {
  Image small(3, 2, 3);
  for (size_t i = 0; i < small.pixels.size(); ++i) small.pixels[i] = uint8_t(i);
  const Image large = enlarge_to_at_least(small, 5);
  CHECK(large.width == 9);
  CHECK(large.height == 6);
  for (int y = 0; y < 6; ++y)
    for (int x = 0; x < 9; ++x)
      for (int c = 0; c < 3; ++c) CHECK(large.row(y)[x * 3 + c] == small.row(y / 3)[x / 3 * 3 + c]);
  CHECK(same_pixels(enlarge_to_at_least(small, 2), small));
  CHECK(enlarge_to_at_least(Image(28, 28, 1), kLegibleSide).width == 168);
}
