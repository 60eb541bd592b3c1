// engine show-batch: the pictures of one training batch as the network gets them, with their
// labels.
#include <algorithm>
#include <cmath>

#include "engine/error.h"
#include "io/data/mix.h"
#include "io/data/sample.h"
#include "io/images/contact_sheet.h"
#include "io/images/encode.h"
#include "tools/cli/terminal.h"
#include "tools/data/augment_options.h"
#include "tools/data/data_options.h"
#include "tools/data/preprocess_options.h"
#include "tools/engine/verbs.h"
#include "tools/machine/environment.h"

namespace engine {
namespace {

struct ShowBatchOptions : DataOptions, PreprocessOptions, AugmentOptions {
  std::string model = "efficientnet_b3";
  int image_size = 0, count = 16, columns = 0, epoch = 0, threads = 1;
  int64_t step = 0;
  bool fast_decode = false;
  uint64_t seed = 0;
  std::filesystem::path out = "batch.png";

  void visit(auto& v) {
    visit_data(v);
    v("--fast-decode", fast_decode, "decode large JPEGs at reduced size");
    v.group("Batch");
    v("--model NAME", model, "whose default preprocessing is used");
    v("--image-size N", image_size, "side of the input; the resize scales with it (0: the model's)",
      Within{0, 4096});
    v("--count N", count, "images: the batch", Within{1, 4096});
    v("--epoch N", epoch, "from 0 on", Within{0, 1e9});
    v("--step N", step, "of the epoch, from 0 on", Within{0});
    v("--seed N", seed, "as in training");
    v("--threads N", threads, "that load images", Within{1, 1024});
    v.group("Sheet");
    v("--columns N", columns, "images in a row (0: nearly a square)", Within{0, 4096});
    v("--out FILE", out, "PNG or JPEG");
    visit_augment(v);
    visit_preprocess(v);
  }
};

// The mixture before normalisation, where a blend is the same but for the rounding to bytes.
Image mixed(const Image& own, const Image& partner, const Mix& mix) {
  Image out = own;
  if (mix.right > mix.left && mix.bottom > mix.top) {
    const size_t channels = size_t(own.channels);
    for (int y = mix.top; y < mix.bottom; ++y)
      std::copy(partner.row(y) + size_t(mix.left) * channels,
                partner.row(y) + size_t(mix.right) * channels,
                out.row(y) + size_t(mix.left) * channels);
    return out;
  }
  for (size_t i = 0; i < out.pixels.size(); ++i) {
    const float blend = mix.share * float(own.pixels[i]) + (1 - mix.share) * partner.pixels[i];
    out.pixels[i] = static_cast<uint8_t>(std::lround(blend));
  }
  return out;
}

}  // namespace

int show_batch(const Command& command) {
  const auto options = parse_options<ShowBatchOptions>(command);
  if (!options) return 0;
  const ShowBatchOptions& o = *options;
  AugmentConfig augment = augment_config(o);
  const Preprocess preprocess = choose_preprocess(o.model, std::nullopt, o, o.image_size);
  TrainingData data = load_training_data(o);
  if (const std::string said = keep_upright(augment, o, o.model, data.train); !said.empty())
    say(said);
  open_cache(data, o, preprocess, {.threads = o.threads, .reused = false});
  const Dataset& train = data.train;

  Loader loader(train, training_input(train, preprocess, augment, o.fast_decode),
                {.width = preprocess.crop,
                 .height = preprocess.crop,
                 .channels = preprocess.channels,
                 .batch = o.count,
                 .threads = o.threads,
                 .ahead = 1,
                 .seed = o.seed,
                 .on_bad_image = o.on_bad_image});
  require(o.step < loader.steps(), Failure::usage, "--step {}: the epoch has {} of {} images",
          o.step, loader.steps(), o.count);
  loader.start(static_cast<uint32_t>(o.epoch), int64_t{o.step} * o.count);
  const Batch& batch = *loader.next();
  for (const BadImage& bad : loader.bad_images()) say("skipped " + bad.reason);
  if (const std::string damage = damage_of(train); !damage.empty()) say(damage);

  std::vector<Image> pictures;
  for (int i = 0; i < batch.count; ++i) {
    Image& image = pictures.emplace_back(preprocess.crop, preprocess.crop, preprocess.channels);
    std::copy_n(batch.images + size_t(i) * image.pixels.size(), image.pixels.size(),
                image.pixels.data());
  }
  const auto mixes = sample_mixes(augment.mixing,
                                  {.seed = o.seed,
                                   .epoch = static_cast<uint32_t>(o.epoch),
                                   .position = static_cast<uint32_t>(batch.first)},
                                  batch.count, preprocess.crop, preprocess.crop);
  std::vector<Image> shown;
  std::vector<std::string> texts;
  for (int i = 0; i < batch.count; ++i) {
    const Mix& mix = mixes[size_t(i)];
    const size_t partner = size_t(mix.partner);
    const std::string own = label_text(train, train.samples[batch.indices[size_t(i)]]);
    const std::string other = label_text(train, train.samples[batch.indices[partner]]);
    shown.push_back(
        enlarge_to_at_least(mixed(pictures[size_t(i)], pictures[partner], mix), kLegibleSide));
    texts.push_back(
        mix.share == 1 ? own
                       : fmt::format("{:.3f} {}\n{:.3f} {}", mix.share, own, 1 - mix.share, other));
  }
  write_image(o.out, contact_sheet(shown, texts, shared_file("DejaVuSans.ttf"), o.columns));
  say(fmt::format("{}: {} images of epoch {}, step {}; {}; {}", o.out.string(), batch.count,
                  o.epoch, o.step, describe(augment), describe(preprocess)));
  return 0;
}

}  // namespace engine
