#include "tools/train/finetune_recipe.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "tools/cli/units.h"

namespace engine {
namespace {

constexpr int kBatch = 32;         // images of an update in the comparison
constexpr int kFewest = 8;         // images of a rank that still make sound batch statistics
constexpr int64_t kSeen = 21'280;  // images that the comparison trained with, in all epochs
constexpr int kMostEpochs = 30, kLeastEpochs = 5;
constexpr int kSides[] = {300, 256, 224, 192, 160, 128};  // that are tried where time is short
constexpr double kPatience = 3600;                        // seconds of a whole run
constexpr int64_t kFewForTest = 1000;                     // of which none are spared for a test

class RecipeChoice {
 public:
  RecipeChoice(const FinetuneFacts& facts, const std::set<std::string>& given)
      : facts_(facts), given_(given) {}

  FinetuneRecipe all() {
    add("--model", facts_.model, "the recipe was compared with it");
    weights();
    split();
    side();
    batch();
    epochs();
    precision();
    rates();
    waiting();
    return std::move(recipe_);
  }

 private:
  void add(std::string name, std::string value, std::string why) {
    std::string key = name.substr(2, name.find('=') - 2);
    std::ranges::replace(key, '-', '_');
    if (!given_.contains(key))
      recipe_.flags.push_back({std::move(name), std::move(value), std::move(why)});
  }

  void weights() {
    if (facts_.published)
      add("--weights", "imagenet", "published weights learn from far fewer images");
    else if (!given_.contains("weights"))
      recipe_.remarks.emplace_back(
          "no weights of this model are published: it starts from random values, and needs more "
          "images and epochs");
  }

  void split() {
    images_ = facts_.images;
    if (!facts_.part_of.empty())
      recipe_.remarks.push_back(
          fmt::format("this is a part of {}, which may be given instead", facts_.part_of));
    if (facts_.split) {
      images_ = share((*facts_.split)[0]);
    } else if (facts_.validation) {
      recipe_.remarks.emplace_back(
          facts_.test ? "val decides which epoch is the best, test is scored once, by its weights"
                      : "val decides which epoch is the best, so its score is a little too good; "
                        "images in test would be scored once");
    } else if (facts_.test) {
      images_ = share(0.8);  // engine train draws a fifth
      recipe_.remarks.emplace_back("a fifth of train is drawn to validate, test is scored once");
    } else if (facts_.images < kFewForTest) {
      add_split("0.8/0.2/0", 0.8, "to train and to validate; too few to spare some for a test");
    } else {
      add_split("0.7/0.15/0.15", 0.7, "to train, to choose the best epoch, and to score once");
    }
  }

  void add_split(const char* shares, double train, const char* why) {
    images_ = share(train);
    add("--split", shares, why);
    add("--stratify", "", "each class in these shares");
  }

  int64_t share(double part) const {
    return std::max<int64_t>(1, std::llround(double(facts_.images) * part));
  }

  // Epochs that see about as many images as the comparison did.
  int usual_epochs() const {
    const auto epochs = static_cast<int>((kSeen + images_ / 2) / images_);
    return std::clamp(epochs, kLeastEpochs, kMostEpochs);
  }

  int of_all() const { return batch_ * facts_.ranks; }  // images of an update

  double epoch_seconds(int side) const { return double(images_) / facts_.speed(side); }

  // The model's, to which images of two thirds of it or more are enlarged; else about their own.
  int usual_side() const {
    constexpr int kLeast = 64, kMultiple = 32;
    const int images = facts_.image_side, model = facts_.model_side;
    if (images <= 0 || 3 * images >= 2 * model) return model;
    const int own = (images + kMultiple - 1) / kMultiple * kMultiple;
    return std::min(model, std::max(own, kLeast));
  }

  void side() {
    side_ = facts_.side.value_or(usual_side());
    if (facts_.side) return;
    std::string why = "what the model was published for";
    if (side_ < facts_.model_side)
      why = fmt::format("the images have {} pixels, too few for the model's {}", facts_.image_side,
                        facts_.model_side);
    else if (facts_.image_side > 0 && facts_.image_side < side_)
      why += fmt::format("; images of {} pixels learn better enlarged", facts_.image_side);
    const int wanted = facts_.epochs.value_or(usual_epochs()), whole = side_;
    if (facts_.speed && epoch_seconds(whole) * wanted > kPatience) {
      for (const int side : kSides) {
        if (side >= whole) continue;
        side_ = side;
        if (epoch_seconds(side) * wanted <= kPatience) break;
      }
      if (side_ < whole)
        why = fmt::format("at {} pixels {} epochs would take {} here", whole, wanted,
                          duration_text(epoch_seconds(whole) * wanted));
    }
    add("--image-size", std::to_string(side_), why);
  }

  void batch() {
    batch_ = facts_.batch.value_or(0);
    if (facts_.batch) return;
    int of_all = kBatch;
    std::string why = "as in the comparison";
    // A dozen updates per epoch, so that a small set is learnt, too.
    while (of_all > kFewest && images_ / of_all < 12) of_all /= 2;
    if (of_all < kBatch) why = fmt::format("{} images make few larger ones", images_);
    batch_ = std::max(kFewest, of_all / facts_.ranks);
    if (facts_.ranks > 1 && batch_ * facts_.ranks >= of_all)
      why += fmt::format("; {} ranks share an update of {}", facts_.ranks, batch_ * facts_.ranks);
    if (const int most = facts_.largest_batch(side_); most > 0 && most < batch_) {
      batch_ = most >= 8 ? most / 8 * 8 : most;
      why = fmt::format("memory holds {}", most);
    }
    add("--batch-size", std::to_string(batch_), why);
  }

  void epochs() {
    epochs_ = facts_.epochs.value_or(usual_epochs());
    if (facts_.epochs) return;
    std::string why = fmt::format("{} images, each seen so often", images_);
    if (facts_.speed && epoch_seconds(side_) * epochs_ > kPatience && epochs_ > kLeastEpochs) {
      const auto fit = static_cast<int>(kPatience / epoch_seconds(side_));
      epochs_ = std::clamp(fit, kLeastEpochs, epochs_);
      why = fmt::format("more would take longer than {}", duration_text(kPatience));
    }
    add("--epochs", std::to_string(epochs_), why);
  }

  // One image of 533 was beyond fp16 in half of the runs with a larger rate, which ended them.
  void precision() {
    if (facts_.gpu)
      add("--precision", "bf16", "as accurate as fp16, whose range an unusual image may leave");
  }

  // An average over an eighth of the updates: over more it would keep too much of the start.
  double average() const {
    const double updates = double(epochs_) * std::ceil(double(images_) / of_all());
    return std::clamp(1 - 8 / updates, 0.5, 0.9998);
  }

  void rates() {
    add("--optimizer", "adamw", "the weights decay apart from the gradients");
    add("--weight-decay", "0.05", "as in the comparison");
    add("--decay-all=false", "", "norms and biases do not decay");
    add("--lr", "0.001", "as in the comparison");
    add("--schedule", "cosine", "small last updates make the end of a run its best");
    add("--schedule-by", "step", "the rate falls with each update");
    if (epochs_ >= 3)
      add("--warmup-epochs", "1", "a new head's first errors would spoil the layers below");
    add("--label-smoothing", "0.1", "few images are not learnt by heart");
    add("--ema", fmt::format("{:.4g}", average()),
        "averages of the weights over an eighth of the run");
  }

  void waiting() {
    if (!facts_.speed) return;
    const double epoch = epoch_seconds(side_);
    std::string text = fmt::format("an epoch takes about {} here, all {} about {}",
                                   duration_text(epoch), epochs_, duration_text(epoch * epochs_));
    if (epoch * epochs_ > kPatience)
      text += "; --model mobilenet_v2 takes a fraction of that, and so does a GPU";
    recipe_.remarks.push_back(text);
  }

  const FinetuneFacts& facts_;
  const std::set<std::string>& given_;
  FinetuneRecipe recipe_;
  int64_t images_ = 0;  // to train with
  int side_ = 0, batch_ = 0, epochs_ = 0;
};

}  // namespace

FinetuneRecipe finetune_recipe(const FinetuneFacts& facts, const std::set<std::string>& given) {
  return RecipeChoice(facts, given).all();
}

}  // namespace engine
