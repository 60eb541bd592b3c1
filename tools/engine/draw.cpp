// engine draw: image sets to try training with, where there are no data.
#include "io/images/draw.h"

#include <fmt/format.h>

#include "engine/error.h"
#include "tools/cli/terminal.h"
#include "tools/engine/verbs.h"

namespace engine {
namespace {

constexpr Choice<DrawnSet> kSets[] = {
    {"digits", DrawnSet::digits}, {"objects", DrawnSet::objects}, {"scenes", DrawnSet::scenes}};

struct DrawVerbOptions {
  DrawnSet set = DrawnSet::digits;
  std::filesystem::path out;
  DrawOptions draw;
  void visit(auto& v) {
    v("SET", set,
      "digits (28 x 28, gray) or objects (colour), ten classes each; scenes: several labels each",
      kSets, kRequired);
    v("--out DIR", out,
      "new folder for train/CLASS and val/CLASS; of scenes for images/ and labels.csv", kRequired);
    v("--train N", draw.train_per_class, "training images of each class; of scenes ten times that",
      Within{1, 100'000});
    v("--val N", draw.validation_per_class, "validation images likewise", Within{1, 100'000});
    v("--size PX", draw.size, "width and height of objects and scenes", Within{16, 1024});
    v("--missing SHARE", draw.missing,
      "of scenes: labels of training images that labels.csv does not tell", Within{0, 0.9});
    v("--seed N", draw.seed, "other images for another seed");
  }
};

}  // namespace

int draw(const Command& command) {
  const auto options = parse_options<DrawVerbOptions>(command);
  if (!options) return 0;
  draw_dataset(options->out, options->set, options->draw);
  if (options->set == DrawnSet::scenes) {
    say(fmt::format("{}: {} labels in labels.csv, {} images to train and {} to validate",
                    options->out.string(), kSceneLabels.size(), 10 * options->draw.train_per_class,
                    10 * options->draw.validation_per_class));
    return 0;
  }
  say(fmt::format("{}: 10 classes, {} images to train and {} to validate each",
                  options->out.string(), options->draw.train_per_class,
                  options->draw.validation_per_class));
  return 0;
}

}  // namespace engine
