// engine show-batch: the sheet is the batch that the loader gives, and what cannot be shown.
#include <doctest/doctest.h>
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <string>

#include "io/data/loader.h"
#include "io/data/mix.h"
#include "io/data/sample.h"
#include "io/images/contact_sheet.h"
#include "io/images/decode.h"
#include "tests/io/images/pillow.h"
#include "tests/support.h"
#include "tests/tools/engine/drawn_set.h"
#include "tests/tools/engine/program.h"
#include "tools/data/augment_options.h"
#include "tools/data/data_options.h"
#include "tools/data/preprocess_options.h"
#include "tools/machine/environment.h"

using namespace engine;
using namespace engine::test;
namespace fs = std::filesystem;

namespace {

Image part_of(const Image& sheet, int left, int top, int side) {
  Image part(side, side, 3);
  for (int y = 0; y < side; ++y)
    std::copy_n(sheet.row(top + y) + size_t(left) * 3, size_t(side) * 3, part.row(y));
  return part;
}

}  // namespace

TEST_CASE("show-batch: the sheet holds the batch of the loader, its labels and its mixtures") {
  const Drawn drawn;
  const fs::path sheet_file = drawn.path("sheet.png");
  constexpr int kSide = 32, kCount = 7, kColumns = 3;
  constexpr int kShown = 5 * kSide;  // each pixel is a square of 5 x 5, so that people see it
  for (const bool mixed : {false, true}) {
    CAPTURE(mixed);
    const Outcome outcome = engine_cli(fmt::format(
        "show-batch --data {} --cache ram --model mobilenet_v2 --image-size {} --count {} "
        "--columns {} --epoch 2 --step 1 --seed 5 --threads 3 --aug standard --randaugment 2,9 {} "
        "--out {}",
        drawn.set.string(), kSide, kCount, kColumns, mixed ? "--mixup 0.8 --cutmix 1" : "",
        sheet_file.string()));
    REQUIRE(outcome.code == 0);
    CHECK(outcome.out.empty());
    CHECK(mentions(outcome.err, "sheet.png: 7 images of epoch 2, step 1"));

    DataOptions options;
    options.data = drawn.set;
    options.cache = CacheKind::ram;
    TrainingData data = load_training_data(options);
    AugmentOptions flags;
    flags.augment = Augment::standard;
    flags.randaugment = "2,9";
    if (mixed) flags.mixup = 0.8f, flags.cutmix = 1.f;
    const AugmentConfig augment = augment_config(flags);
    const Preprocess preprocess = choose_preprocess("mobilenet_v2", std::nullopt, {}, kSide);
    open_cache(data, options, preprocess, {});
    Loader loader(data.train, training_input(data.train, preprocess, augment, false),
                  {.width = kSide, .height = kSide, .batch = kCount, .seed = 5});
    loader.start(2, kCount);
    const Batch& batch = *loader.next();
    std::vector<Image> pictures;
    std::vector<std::string> names;
    for (int i = 0; i < kCount; ++i) {
      Image& picture = pictures.emplace_back(kSide, kSide, 3);
      std::copy_n(batch.images + size_t(i) * picture.pixels.size(), picture.pixels.size(),
                  picture.pixels.data());
      names.push_back(fs::path(data.train.samples[batch.indices[size_t(i)]].path)
                          .parent_path()
                          .filename()
                          .string());
    }
    const auto mixes =
        sample_mixes(augment.mixing, {.seed = 5, .epoch = 2, .position = uint32_t(kCount)}, kCount,
                     kSide, kSide);
    std::vector<Image> shown = pictures;
    std::vector<std::string> texts = names;
    for (int i = 0; i < kCount && mixed; ++i) {
      const Mix& mix = mixes[size_t(i)];
      REQUIRE(mix.share < 1);
      const Image& partner = pictures[size_t(mix.partner)];
      const bool cut = mix.right > mix.left && mix.bottom > mix.top;
      for (int y = 0; y < kSide; ++y)
        for (int x = 0; x < kSide * 3; ++x) {
          uint8_t& value = shown[size_t(i)].row(y)[x];
          const uint8_t other = partner.row(y)[x];
          const bool inside =
              y >= mix.top && y < mix.bottom && x >= 3 * mix.left && x < 3 * mix.right;
          if (cut)
            value = inside ? other : value;
          else
            value = uint8_t(std::lround(mix.share * float(value) + (1 - mix.share) * other));
        }
      texts[size_t(i)] = fmt::format("{:.3f} {}\n{:.3f} {}", mix.share, names[size_t(i)],
                                     1 - mix.share, names[size_t(mix.partner)]);
    }
    for (Image& picture : shown) {
      Image large(kShown, kShown, 3);
      for (int y = 0; y < kShown; ++y)
        for (int x = 0; x < kShown; ++x)
          std::copy_n(picture.row(y / 5) + x / 5 * 3, 3, large.row(y) + x * 3);
      picture = large;
    }
    const Image sheet = read_image(sheet_file, 3);
    CHECK(sheet.width == 4 + kColumns * (kShown + 4));
    const int line = mixed ? 2 * 16 : 16;
    CHECK(sheet.height == 4 + 3 * (kShown + line + 4));
    for (int i = 0; i < kCount; ++i) {
      const int left = 4 + i % kColumns * (kShown + 4),
                top = 4 + i / kColumns * (kShown + line + 4);
      CHECK(same_pixels(part_of(sheet, left, top, kShown), shown[size_t(i)]));
    }
    CHECK(same_pixels(sheet, contact_sheet(shown, texts, shared_file("DejaVuSans.ttf"),
                                           kColumns)));  // with the texts
  }
}

TEST_CASE("show-batch: what cannot be shown") {
  const Drawn drawn;
  const std::string start = fmt::format("show-batch --data {} --cache none --out {} ",
                                        drawn.set.string(), drawn.path("sheet.png"));
  check_fails(engine_cli(start + "--count 16 --step 2"), 2,
              "--step 2: the epoch has 2 of 16 images");
  check_fails(engine_cli(start + "--model efficientnet_b9"), 2, "efficientnet_b9");
  check_fails(engine_cli(start + "--aug strogn"), 2, "--aug");
  CHECK_FALSE(fs::exists(drawn.path("sheet.png")));
  check_fails(engine_cli(start + "--out /nonexistent/x.png"), 3, "/nonexistent/x.png");
  check_fails(engine_cli("show-batch --data /nonexistent"), 3, "/nonexistent: no such folder");
  const fs::path bad = drawn.image("train", "disk", 0);
  fs::resize_file(bad, 60);
  check_fails(engine_cli(start + "--count 30"), 3, bad.string());
  const Outcome skipped = engine_cli(start + "--count 30 --on-bad-image skip");
  CHECK(skipped.code == 0);
  CHECK(mentions(skipped.err, "skipped " + bad.string()));
}
