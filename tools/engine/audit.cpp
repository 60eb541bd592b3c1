// engine audit: which labels of a data set are doubtful, and which images are nearly the same.
#include <fmt/format.h>

#include <algorithm>
#include <utility>

#include "engine/error.h"
#include "engine/measures/label_doubts.h"
#include "engine/measures/labels.h"
#include "engine/measures/near_copies.h"
#include "io/data/duplicates.h"
#include "io/files/atomic_file.h"
#include "io/files/csv.h"
#include "io/images/contact_sheet.h"
#include "io/images/decode.h"
#include "io/images/encode.h"
#include "io/images/resize.h"
#include "tools/cli/progress.h"
#include "tools/cli/terminal.h"
#include "tools/data/preprocess_options.h"
#include "tools/engine/verbs.h"
#include "tools/machine/device.h"
#include "tools/machine/environment.h"
#include "tools/score/fold_runs.h"
#include "tools/score/model_file.h"

namespace engine {
namespace {

namespace fs = std::filesystem;

constexpr Choice<DoubtScore> kScores[] = {{"normalized-margin", DoubtScore::normalized_margin},
                                          {"self-confidence", DoubtScore::self_confidence}};

struct AuditOptions : DeviceOptions {
  std::vector<std::string> runs;
  fs::path out;
  DoubtScore score = DoubtScore::normalized_margin;
  NearOptions near;
  int batch = 64, shown = 48;
  bool no_near_copies = false, force = false;

  void visit(auto& v) {
    v("RUNS", runs,
      "the folders of the K runs of engine train --folds K, or the folder with fold_1, fold_2, … "
      "in it; of one run only the validation images are judged",
      kRequired);
    v("--out DIR", out, "where the files go (default: the first of RUNS)");
    v("--rank-by SCORE", score,
      "normalized-margin: p of the label less the largest of another class; self-confidence: p of "
      "the label; of several labels per image, each judged alone, both rank alike",
      kScores);
    v("--similarity X", near.similarity,
      "images with at least this cosine similarity of their features are near copies",
      Within{0.01, 1});
    v("--no-near-copies", no_near_copies, "compute no features; copies by their bytes are found");
    v("--shown N", shown, "images of the contact sheets", Within{1, 1000});
    v("--force", force, "also runs of other models, and fewer than K");
    v("-b, --batch-size N", batch, "images per step of the features", Within{1, 65536});
    v("--workers N", workers, "threads that load images; 0: one per core", Within{0, 1024});
    visit_device(v);
  }
};

// The predictions of one run, or of all folds.
PooledRuns read_runs(const AuditOptions& o) {
  std::vector<FoldRun> runs;
  for (const fs::path& run : expand_runs(o.runs)) runs.push_back(read_fold_run(run));
  if (runs.size() > 1) return pool_runs(std::move(runs), o.force);
  PooledRuns one{.data = runs[0].data, .result = runs[0].result};
  one.remarks.push_back(fmt::format(
      "{}: one run: only its {} validation images are judged; it has trained with the others and "
      "agrees with their labels, right or wrong. The runs of engine train --folds K judge all",
      runs[0].folder.string(), one.data.samples.size()));
  one.runs.push_back(std::move(runs[0]));
  return one;
}

// ---------------------------------------------------------------- labels

std::string audit_csv(std::span<const LabelDoubt> doubts, const Dataset& data) {
  std::string text = "path,label,suggested,p_label,p_suggested,score,rank,issue,fold\n";
  for (size_t rank = 0; rank < doubts.size(); ++rank) {
    const LabelDoubt& doubt = doubts[rank];
    const Sample& sample = data.samples[static_cast<size_t>(doubt.sample)];
    text += fmt::format("{},{},{},{:.9g},{:.9g},{:.9g},{},{:d},{}\n", csv_field(sample.path),
                        csv_field(data.classes[static_cast<size_t>(sample.label)]),
                        csv_field(data.classes[static_cast<size_t>(doubt.suggested)]),
                        doubt.p_label, doubt.p_suggested, doubt.score, rank + 1, doubt.issue,
                        sample.fold > 0 ? std::to_string(sample.fold) : "");
  }
  return text;
}

std::string audit_csv(std::span<const EntryDoubt> doubts, const Dataset& data) {
  std::string text = "path,label,given,p_given,score,rank,issue,fold\n";
  for (size_t rank = 0; rank < doubts.size(); ++rank) {
    const EntryDoubt& doubt = doubts[rank];
    const Sample& sample = data.samples[static_cast<size_t>(doubt.sample)];
    text += fmt::format("{},{},{},{:.9g},{:.9g},{},{:d},{}\n", csv_field(sample.path),
                        csv_field(data.classes[static_cast<size_t>(doubt.label)]),
                        1 - doubt.suggested, doubt.p_label, doubt.score, rank + 1, doubt.issue,
                        sample.fold > 0 ? std::to_string(sample.fold) : "");
  }
  return text;
}

// What is said of an image, and what the models say: "cat" and "dog"; of a label "star" and "no
// star".
struct Sides {
  std::string label, suggested;
};

Sides sides_of(const LabelDoubt& doubt, const Dataset& data) {
  const int label = data.samples[static_cast<size_t>(doubt.sample)].label;
  return {data.classes[static_cast<size_t>(label)],
          data.classes[static_cast<size_t>(doubt.suggested)]};
}

Sides sides_of(const EntryDoubt& doubt, const Dataset& data) {
  const std::string& name = data.classes[static_cast<size_t>(doubt.label)];
  Sides sides{name, "no " + name};
  if (doubt.suggested == 1) std::swap(sides.label, sides.suggested);
  return sides;
}

// ---------------------------------------------------------------- near copies

// What the last layer of a run reads of each image, (images, features); the images that could not
// be read are taken out of `data`.
std::vector<float> features_of(const fs::path& run, Dataset& data, const AuditOptions& o) {
  const ModelFile file = read_model_file(run, "");
  const Preprocess preprocess = choose_preprocess(file.model, file.preprocess, {}, 0);
  Inference inference(file, data, preprocess, o, choose_ranks(o), 0,
                      {.batch = o.batch, .on_bad_image = OnBadImage::skip, .features = true});
  Loader& loader = inference.loader();
  Progress progress("features", loader.steps());
  std::vector<float> features;
  std::vector<Sample> read;
  loader.start(0);
  double waited = loader.wait_seconds();
  while (const Batch* batch = loader.next()) {
    inference.session().evaluate({.images = batch->images,
                                  .labels = batch->labels,
                                  .count = batch->count,
                                  .records = batch->records},
                                 {});
    const std::vector<float> rows = inference.session().features(batch->count);
    const size_t width = rows.size() / static_cast<size_t>(batch->count);
    for (int i = 0; i < batch->count; ++i) {
      if (batch->substituted[i]) continue;
      const auto row = rows.begin() + std::ptrdiff_t(width) * i;
      features.insert(features.end(), row, row + std::ptrdiff_t(width));
      read.push_back(data.samples[static_cast<size_t>(batch->first + i)]);
    }
    progress.step(batch->total, loader.wait_seconds() - waited);
    waited = loader.wait_seconds();
  }
  progress.finish();
  say_skipped("features", loader.bad_images(), data.samples.size());
  data.samples = std::move(read);
  return features;
}

// Copies by their bytes: the similarity is 1, whatever the features say.
std::vector<NearPair> copies_in(const Dataset& data) {
  const Dataset* const sets[] = {&data};
  std::vector<NearPair> pairs;
  for (const Copies& copies : find_duplicates(sets, false, {}))
    for (size_t i = 1; i < copies.size(); ++i)
      pairs.push_back(
          {static_cast<int64_t>(copies[0].sample), static_cast<int64_t>(copies[i].sample), 1});
  return pairs;
}

std::string pairs_csv(std::span<const NearPair> pairs, const Dataset& data) {
  std::string text = "similarity,path,label,group,other_path,other_label,other_group\n";
  const auto fields = [&](int64_t sample) {
    const Sample& s = data.samples[static_cast<size_t>(sample)];
    return fmt::format("{},{},{}", csv_field(s.path), csv_field(label_text(data, s)),
                       csv_field(s.group));
  };
  for (const NearPair& pair : pairs)
    text += fmt::format("{:.6f},{},{}\n", pair.similarity, fields(pair.first), fields(pair.second));
  return text;
}

// ---------------------------------------------------------------- sheets

// The picture, whole, on a white square.
Image thumbnail(const std::string& path) {
  constexpr int kSide = 160;
  Image square(kSide, kSide, 3);
  std::ranges::fill(square.pixels, uint8_t{255});
  Image image;
  try {
    image = enlarge_to_at_least(read_image(path, 3), kLegibleSide);
  } catch (const Error& error) {
    if (error.kind != Failure::data) throw;
    say(error.what());
    return square;
  }
  const double scale = double(kSide) / std::max(image.width, image.height);
  const int width = std::clamp(static_cast<int>(image.width * scale + 0.5), 1, kSide),
            height = std::clamp(static_cast<int>(image.height * scale + 0.5), 1, kSide);
  image = resize(image, width, height, Interpolation::bilinear);
  const int left = (kSide - width) / 2, top = (kSide - height) / 2;
  for (int y = 0; y < height; ++y)
    std::copy_n(image.row(y), size_t(width) * 3, square.row(top + y) + size_t(left) * 3);
  return square;
}

void write_sheet(const fs::path& file, std::span<const Image> pictures,
                 std::span<const std::string> texts, int columns = 0) {
  if (!pictures.empty())
    write_image(file, contact_sheet(pictures, texts, shared_file("DejaVuSans.ttf"), columns));
}

template <class Doubt>
void draw_doubts(const fs::path& file, std::span<const Doubt> doubts, const Dataset& data) {
  std::vector<Image> pictures;
  std::vector<std::string> texts;
  for (const Doubt& doubt : doubts) {
    const Sample& sample = data.samples[static_cast<size_t>(doubt.sample)];
    const Sides sides = sides_of(doubt, data);
    pictures.push_back(thumbnail(sample.path));
    texts.push_back(fmt::format("label {} {:.2f}\nlooks like {} {:.2f}\n{}", sides.label,
                                doubt.p_label, sides.suggested, doubt.p_suggested,
                                fs::path(sample.path).filename().string()));
  }
  write_sheet(file, pictures, texts);
}

void draw_pairs(const fs::path& file, std::span<const NearPair> pairs, const Dataset& data) {
  constexpr int kColumns = 6;  // three pairs side by side
  std::vector<Image> pictures;
  std::vector<std::string> texts;
  for (const NearPair& pair : pairs)
    for (const int64_t i : {pair.first, pair.second}) {
      const Sample& sample = data.samples[static_cast<size_t>(i)];
      pictures.push_back(thumbnail(sample.path));
      texts.push_back(fmt::format("{:.4f} {}\n{}", pair.similarity, label_text(data, sample),
                                  fs::path(sample.path).filename().string()));
    }
  write_sheet(file, pictures, texts, kColumns);
}

// ---------------------------------------------------------------- what is said

template <class Doubt>
std::string doubts_table(std::span<const Doubt> doubts, const Dataset& data) {
  constexpr size_t kMost = 10;
  const auto issues = std::ranges::count_if(doubts, &Doubt::issue);
  const auto agreed = std::ranges::count_if(
      doubts, [](const Doubt& doubt) { return doubt.p_label > doubt.p_suggested; });
  std::string text = fmt::format(
      "{} {} are judged, by models that agree with {:.0f}% of the labels; {} labels are in "
      "doubt, first of all\n",
      doubts.size(), data.task == Task::labels ? "labels of images" : "images",
      100. * double(agreed) / double(doubts.size()), issues);
  for (const Doubt& doubt : doubts.first(std::min(kMost, doubts.size()))) {
    const Sides sides = sides_of(doubt, data);
    text += fmt::format("  {:+.3f}  {} {:.3f}, looks like {} {:.3f}: {}\n", doubt.score,
                        sides.label, doubt.p_label, sides.suggested, doubt.p_suggested,
                        data.samples[static_cast<size_t>(doubt.sample)].path);
  }
  return text;
}

// Writes audit.csv and audit.png. Returns what is said of them.
template <class Doubt>
std::string write_doubts(const std::vector<Doubt>& doubts, const Dataset& data, const fs::path& out,
                         size_t shown) {
  require(!doubts.empty(), Failure::data, "no label of the images is known");
  const std::span<const Doubt> all(doubts);
  write_file_atomically(out / "audit.csv", audit_csv(all, data));
  draw_doubts(out / "audit.png", all.first(std::min(shown, all.size())), data);
  return doubts_table(all, data);
}

std::string judge(const PooledRuns& pooled, DoubtScore score, const fs::path& out, size_t shown) {
  const Dataset& data = pooled.data;
  const int classes = static_cast<int>(data.classes.size());
  if (data.task == Task::labels) {
    std::vector<Presence> presence;
    for (const Sample& sample : data.samples)
      presence.insert(presence.end(), sample.labels.begin(), sample.labels.end());
    return write_doubts(rank_entry_doubts(sigmoids(pooled.result.logits), presence, classes, score),
                        data, out, shown);
  }
  std::vector<int32_t> labels;
  for (const Sample& sample : data.samples) labels.push_back(sample.label);
  return write_doubts(
      rank_label_doubts(softmax_rows(pooled.result.logits, classes), labels, classes, score), data,
      out, shown);
}

std::string pairs_line(std::span<const NearPair> pairs, const Dataset& data,
                       const AuditOptions& o) {
  const auto sample = [&](int64_t i) -> const Sample& {
    return data.samples[static_cast<size_t>(i)];
  };
  const auto labels = std::ranges::count_if(pairs, [&](const NearPair& pair) {
    return label_text(data, sample(pair.first)) != label_text(data, sample(pair.second));
  });
  const auto folds = std::ranges::count_if(pairs, [&](const NearPair& pair) {
    return sample(pair.first).fold != sample(pair.second).fold;
  });
  return fmt::format(
      "{} pairs of {}, {} of them with two labels, {} of them in two folds\n", pairs.size(),
      o.no_near_copies ? "copies"
                       : fmt::format("copies or near copies, from {:g} on", o.near.similarity),
      labels, folds);
}

}  // namespace

int audit(const Command& command) {
  const auto options = parse_options<AuditOptions>(command);
  if (!options) return 0;
  const AuditOptions& o = *options;
  PooledRuns pooled = read_runs(o);
  for (const std::string& remark : pooled.remarks) say(paint(remark, Colour::yellow, stderr));
  Dataset& data = pooled.data;
  const fs::path out = o.out.empty() ? fs::path(o.runs[0]) : o.out;
  make_folder(out);
  const auto shown = static_cast<size_t>(o.shown);
  const std::string text = judge(pooled, o.score, out, shown);

  std::vector<NearPair> pairs;
  if (o.no_near_copies) {
    pairs = copies_in(data);
  } else {
    const std::vector<float> features = features_of(pooled.runs[0].folder, data, o);
    pairs = near_copies(features, std::ssize(data.samples), o.near);
  }
  write_file_atomically(out / "near_copies.csv", pairs_csv(pairs, data));
  draw_pairs(out / "near_copies.png",
             std::span(pairs).first(std::min((shown + 1) / 2, pairs.size())), data);
  print_to_stdout(text + pairs_line(pairs, data, o));
  say(fmt::format("{}: audit.csv, audit.png, near_copies.csv{}", out.string(),
                  pairs.empty() ? "" : ", near_copies.png"));
  return 0;
}

}  // namespace engine
