// engine draw: image sets to try training with, where there are no data.
#include "io/images/draw.h"

#include <fmt/format.h>

#include "engine/error.h"
#include "tools/cli/terminal.h"
#include "tools/engine/verbs.h"

namespace engine {
namespace {

constexpr Choice<DrawnSet> kSets[] = {{"digits", DrawnSet::digits}, {"objects", DrawnSet::objects}};

struct DrawVerbOptions {
  DrawnSet set = DrawnSet::digits;
  std::filesystem::path out;
  DrawOptions draw;
  void visit(auto& v) {
    v("SET", set, "digits (28 x 28, gray) or objects (colour), ten classes each", kSets, kRequired);
    v("--out DIR", out, "new folder for train/CLASS and val/CLASS", kRequired);
    v("--train N", draw.train_per_class, "training images of each class", Within{1, 100'000});
    v("--val N", draw.validation_per_class, "validation images of each class", Within{1, 100'000});
    v("--size PX", draw.size, "width and height of objects", Within{16, 1024});
    v("--seed N", draw.seed, "other images for another seed");
  }
};

}  // namespace

int draw(const Command& command) {
  const auto options = parse_options<DrawVerbOptions>(command);
  if (!options) return 0;
  draw_dataset(options->out, options->set, options->draw);
  say(fmt::format("{}: 10 classes, {} images to train and {} to validate each",
                  options->out.string(), options->draw.train_per_class,
                  options->draw.validation_per_class));
  return 0;
}

}  // namespace engine
