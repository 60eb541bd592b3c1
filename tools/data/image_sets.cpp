#include "tools/data/image_sets.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <nlohmann/json.hpp>
#include <set>
#include <thread>
#include <utility>

#include "engine/error.h"
#include "io/data/duplicates.h"
#include "io/data/folds.h"
#include "io/data/groups.h"
#include "io/data/idx.h"
#include "io/files/utf8.h"
#include "tools/cli/list.h"
#include "tools/cli/signals.h"
#include "tools/cli/terminal.h"

namespace engine {
namespace {

namespace fs = std::filesystem;

// The shares of training and validation where a test folder stands beside the training images.
constexpr Shares kDrawnShares = {0.8, 0.2, 0};

void say_notes(const DataNotes& notes) {
  for (const FileCount& count : notes.files)
    if (!count.ignored.empty()) say(describe(count));
  for (const std::string& line : notes.lines) say(line);
}

// Says the notes, and what is odd about the classes. Error(data) if there is one alone.
void look_at_classes(const Dataset& data, DataNotes& notes) {
  for (const std::string& name : data.classes)
    if (name.starts_with(' ') || name.ends_with(' '))
      notes.lines.push_back(
          fmt::format("class \"{}\": there is a space at an end of its name", name));
  say_notes(notes);
  require(data.classes.size() > 1 || data.task == Task::labels, Failure::data,
          "the training images are all of one class, \"{}\"", data.classes.at(0));
}

// Sets the groups that --group-pattern finds.
void find_groups(const ImageSetOptions& o, Dataset& data, DataNotes& notes) {
  if (!o.group_pattern) return;
  const size_t unmatched = set_groups(data, *o.group_pattern, o.root());
  if (unmatched > 0)
    notes.lines.push_back(
        fmt::format("--group-pattern: of {} images {} have no group and may be in any part",
                    data.samples.size(), unmatched));
}

// The number of each image's unit: what belongs together has one number, and stays together.
std::vector<uint32_t> find_units(const ImageSetOptions& o, const Dataset& all, const char* what,
                                 DataNotes& notes) {
  const Dataset* const sets[] = {&all};
  const int threads = static_cast<int>(std::max(1u, std::thread::hardware_concurrency()));
  std::vector<Copies> copies;
  if (!o.no_duplicate_check)
    copies = find_duplicates(sets, false, {.threads = threads, .stop = stop_requested});
  std::vector<uint32_t> units = inseparable(all, copies);
  const std::set<uint32_t> different(units.begin(), units.end());
  if (different.size() < units.size())
    notes.lines.push_back(fmt::format("{} groups and copies together: {} images in {}", what,
                                      units.size(), different.size()));
  return units;
}

std::vector<Part> choose_parts(const ImageSetOptions& o, const Dataset& all, const Shares& shares,
                               bool stratify, DataNotes& notes) {
  const std::vector<uint32_t> units = find_units(o, all, "the split keeps", notes);
  return sample_split(all, shares, stratify, o.split_seed, units);
}

std::vector<Part> choose_parts(const ImageSetOptions& o, const Dataset& all, DataNotes& notes) {
  return choose_parts(o, all, parse_shares(o.split), o.stratify, notes);
}

std::string describe_labels(const Dataset& data) {
  size_t counts[3] = {};
  for (const Sample& sample : data.samples)
    for (const Presence presence : sample.labels) ++counts[static_cast<size_t>(presence)];
  return fmt::format("{} images with {} labels: of {} entries {} are 1, {} are 0, {} are missing",
                     data.samples.size(), data.classes.size(), counts[0] + counts[1] + counts[2],
                     counts[1], counts[0], counts[2]);
}

// Reads --labels or --split-file; the parts are the file's or those that --split chooses.
Labels load_labels(const ImageSetOptions& o, DataNotes& notes,
                   std::span<const std::string> classes = {}) {
  const bool own = o.labels.empty();
  LabelFile how{.root = o.root(),
                .group_column = o.group_column.value_or(own ? "group" : ""),
                .own = own,
                .suffix = o.image_suffix.value_or(""),
                .kind = o.label_kind,
                .order = o.class_order,
                .classes = classes};
  if (o.path_column) how.path_column = *o.path_column;
  if (o.label_column) how.label_column = *o.label_column;
  if (o.label_columns) how.label_columns = split_list(*o.label_columns);
  how.separator = o.label_separator.value_or("");
  if (own) how.kind = LabelKind::names;
  const fs::path file = o.label_file();
  Labels labels = read_labels(file, how);
  notes.files.push_back({file.string(), labels.all.samples.size()});
  notes.lines.insert(notes.lines.end(), labels.notes.begin(), labels.notes.end());
  find_groups(o, labels.all, notes);
  if (own) return labels;
  notes.lines.push_back(labels.all.task == Task::labels
                            ? fmt::format("{}: {}", file.string(), describe_labels(labels.all))
                            : fmt::format("{}: {} images, {} of {} classes", file.string(),
                                          labels.lines.size(), to_string(labels.kind),
                                          labels.all.classes.size()));
  if (o.split.empty()) return labels;
  require(labels.parts.empty(), Failure::usage,
          "--labels {}: it has a column split, which --split contradicts", o.labels.string());
  labels.parts = choose_parts(o, labels.all, notes);
  return labels;
}

Dataset read_folder(const ImageSetOptions& o, const fs::path& folder,
                    const std::vector<std::string>& classes, DataNotes& notes) {
  Dataset data = classes.empty() ? read_image_folder(folder, o.class_order)
                                 : read_image_folder(folder, classes);
  notes.files.push_back({folder.string(), data.samples.size(), data.ignored});
  find_groups(o, data, notes);
  return data;
}

// What --split chooses from, or what a validation set is drawn from where there is none.
struct DrawnFrom {
  fs::path folder;
  std::optional<fs::path> test;  // has parts of its own
  Shares shares;
  bool stratify = false;
};

// Nothing if the folder has its parts already. Error(usage) if --split contradicts that.
std::optional<DrawnFrom> drawn_from(const ImageSetOptions& o) {
  const bool split = !o.split.empty();
  const PartFolders folders = part_folders(o.data);
  if (folders.train && !folders.validation && (split || folders.test)) {
    const Shares shares = split ? parse_shares(o.split) : kDrawnShares;
    require(shares[2] == 0 || !folders.test, Failure::usage,
            "--split {}: {} is the test set; two shares are those of training and validation",
            o.split, folders.test->string());
    return DrawnFrom{*folders.train, folders.test, shares, !split || o.stratify};
  }
  if (!split) return std::nullopt;
  require(!folders.train, Failure::usage,
          "--split: {} is split already; --data {} splits its training images", o.data.string(),
          folders.train->string());
  return DrawnFrom{o.data, std::nullopt, parse_shares(o.split), o.stratify};
}

std::string drawn_note(const DrawnFrom& from) {
  return fmt::format(
      "{}: chosen at random from it are {:g} of the images to train and {:g} to "
      "validate{}",
      from.folder.string(), from.shares[0], from.shares[1],
      from.shares[2] > 0 ? fmt::format(", {:g} to test", from.shares[2]) : "");
}

TrainingData draw_parts(const ImageSetOptions& o, const DrawnFrom& from) {
  DataNotes notes;
  Dataset all = read_folder(o, from.folder, {}, notes);
  notes.lines.push_back(drawn_note(from));
  const std::vector<Part> parts = choose_parts(o, all, from.shares, from.stratify, notes);
  TrainingData data = apply_split(std::move(all), parts);
  data.notes = std::move(notes);
  data.drawn = true;
  if (!from.test) return data;
  data.test = read_test_folder(*from.test, data.train.classes, data.notes);
  if (data.test) find_groups(o, *data.test, data.notes);
  return data;
}

// ---------------------------------------------------------------- cross-validation

void require_fold(const ImageSetOptions& o) {
  require(!o.folds || o.fold, Failure::usage, "--folds {}: which one validates? --fold 1 to {}",
          o.folds.value_or(0), o.folds.value_or(0));
}

// Takes the images of the part test, if there are any, out of all.
std::optional<Dataset> take_test(Dataset& all, std::vector<Part> parts) {
  std::ranges::replace(parts, Part::validation, Part::train);
  auto sets = by_part(std::move(all), parts);
  all = std::move(sets[0]);
  Dataset& test = sets[static_cast<size_t>(Part::test)];
  return test.samples.empty() ? std::nullopt : std::optional(std::move(test));
}

// The number of folds of a split file, where each image that is not of the part test has one.
int folds_of_file(const ImageSetOptions& o, const Dataset& all) {
  const std::string file = o.split_file.string();
  std::set<int> folds;
  for (const Sample& sample : all.samples) {
    require(sample.fold > 0, Failure::data,
            "--fold: {} has no fold for {}; the column fold is that of a run with --folds", file,
            sample.path);
    folds.insert(sample.fold);
  }
  const int count = folds.empty() ? 0 : *folds.rbegin();
  require(count > 1 && std::cmp_equal(folds.size(), count), Failure::data,
          "--fold: the folds of {} are {}, not 1 to {}", file, fmt::join(folds, ", "), count);
  require(o.folds.value_or(count) == count, Failure::usage, "--folds {}: {} has {} folds",
          o.folds.value_or(0), file, count);
  return count;
}

FoldedData labelled_folds(const ImageSetOptions& o, const std::vector<std::string>& classes) {
  FoldedData data;
  Labels labels = load_labels(o, data.notes, classes);
  data.all = std::move(labels.all);
  if (!labels.parts.empty()) data.test = take_test(data.all, std::move(labels.parts));
  if (!o.split_file.empty()) data.folds = folds_of_file(o, data.all);
  return data;
}

// Those of train and val, or of a folder without parts.
FoldedData images_of_folds(const ImageSetOptions& o, const std::vector<std::string>& classes) {
  require(!has_idx_files(o.data), Failure::usage, "--folds is for folders, {} has idx files",
          o.data.string());
  const PartFolders folders = part_folders(o.data);
  require(folders.train || (!folders.validation && !folders.test), Failure::data,
          "{}: no train folder in it", o.data.string());
  FoldedData data;
  data.all = read_folder(o, folders.train.value_or(o.data), classes, data.notes);
  if (folders.validation) {
    Dataset more = read_folder(o, *folders.validation, data.all.classes, data.notes);
    std::ranges::move(more.samples, std::back_inserter(data.all.samples));
    data.notes.lines.push_back(
        fmt::format("--folds: the images of {} and {} together are dealt out",
                    folders.train->string(), folders.validation->string()));
  }
  if (!folders.test) return data;
  data.test = read_test_folder(*folders.test, data.all.classes, data.notes);
  if (data.test) find_groups(o, *data.test, data.notes);
  return data;
}

// Of several labels a rare one may be in fewer images than there are folds.
void tell_folds_without_label(FoldedData& data) {
  if (data.all.task != Task::labels) return;
  std::vector<std::set<int>> with(data.all.classes.size());
  for (const Sample& sample : data.all.samples)
    for_each_class(data.all, sample, [&](size_t label) { with[label].insert(sample.fold); });
  for (size_t c = 0; c < with.size(); ++c)
    if (std::cmp_less(with[c].size(), data.folds))
      data.notes.lines.push_back(
          fmt::format("label \"{}\" is in images of {} of the {} folds only: the others have no "
                      "figure of it",
                      data.all.classes[c], with[c].size(), data.folds));
}

FoldedData read_folds(const ImageSetOptions& o, const std::vector<std::string>& classes = {}) {
  FoldedData data =
      o.label_file().empty() ? images_of_folds(o, classes) : labelled_folds(o, classes);
  if (data.folds == 0) {
    data.folds = *o.folds;
    const auto units = find_units(o, data.all, "the folds keep", data.notes);
    const std::vector<int> folds = sample_folds(data.all, data.folds, o.split_seed, units);
    for (size_t i = 0; i < folds.size(); ++i) data.all.samples[i].fold = folds[i];
  }
  tell_folds_without_label(data);
  require(o.fold.value_or(1) <= data.folds, Failure::usage, "--fold {}: there are folds 1 to {}",
          o.fold.value_or(0), data.folds);
  return data;
}

TrainingData read_parts(const ImageSetOptions& o) {
  if (o.folded()) return training_data(read_folds(o), *o.fold);
  if (const fs::path file = o.label_file(); !file.empty()) {
    DataNotes notes;
    Labels labels = load_labels(o, notes);
    require(!labels.parts.empty(), Failure::usage, "{}: it has no column split; --split draws one",
            file.string());
    TrainingData data = o.split.empty() ? training_data(std::move(labels), file)
                                        : apply_split(std::move(labels.all), labels.parts);
    data.notes = std::move(notes);
    data.drawn = true;
    return data;
  }
  if (has_idx_files(o.data)) {
    require(o.split.empty(), Failure::usage, "--split is for folders, {} has idx files",
            o.data.string());
    return read_training_data(o.data, o.class_order);
  }
  if (const std::optional<DrawnFrom> from = drawn_from(o)) return draw_parts(o, *from);
  TrainingData data = read_training_data(o.data, o.class_order);
  find_groups(o, data.train, data.notes);
  find_groups(o, data.validation, data.notes);
  if (data.test) find_groups(o, *data.test, data.notes);
  return data;
}

// ---------------------------------------------------------------- evaluation

// The images of `part`, and those to train with.
EvaluationData take_part(Dataset all, std::span<const Part> parts, Part part,
                         const fs::path& source) {
  auto sets = by_part(std::move(all), parts);
  EvaluationData data{.images = std::move(sets[static_cast<size_t>(part)]), .part = part};
  require(!data.images.samples.empty(), Failure::data, "{}: none of {} images is in the part {}",
          source.string(), parts.size(), to_string(part));
  if (part != Part::train && !sets[0].samples.empty()) data.train = std::move(sets[0]);
  return data;
}

EvaluationData read_idx_part(const fs::path& folder, Part part,
                             const std::vector<std::string>& classes) {
  require(part != Part::test, Failure::usage,
          "--part test: {} has idx files: their test images are the part val", folder.string());
  if (part == Part::validation && !classes.empty())
    return {.images = read_idx_validation(folder, classes), .part = part};
  TrainingData all = read_idx_folder(folder);
  require(classes.empty() || classes == all.train.classes, Failure::data,
          "{}: its classes are {}, those of the weights {}", folder.string(),
          fmt::join(all.train.classes, " "), fmt::join(classes, " "));
  return {.images = std::move(part == Part::train ? all.train : all.validation), .part = part};
}

EvaluationData read_folder_part(const ImageSetOptions& o, std::optional<Part> wanted,
                                const std::vector<std::string>& classes) {
  const PartFolders folders = part_folders(o.data);
  DataNotes notes;
  if (!wanted && !folders.validation && !folders.train) {
    Dataset all = read_folder(o, o.data, classes, notes);
    return {.images = std::move(all), .notes = std::move(notes)};
  }
  const Part part = wanted.value_or(Part::validation);
  const auto& known = part == Part::train        ? folders.train
                      : part == Part::validation ? folders.validation
                                                 : folders.test;
  Dataset images = read_folder(o, known.value_or(o.data / to_string(part)), classes, notes);
  EvaluationData data{.images = std::move(images), .part = part, .notes = std::move(notes)};
  if (part == Part::train || !folders.train) return data;
  data.train = read_image_folder(*folders.train, class_folders(*folders.train));
  if (o.group_pattern) set_groups(*data.train, *o.group_pattern, o.root());
  return data;
}

EvaluationData read_fold_part(const ImageSetOptions& o, Part part,
                              const std::vector<std::string>& classes) {
  FoldedData folds = read_folds(o, classes);
  DataNotes notes = std::move(folds.notes);
  require(part != Part::test || folds.test, Failure::data, "--part test: {} has no test images",
          o.root().string());
  EvaluationData data = {.images = std::move(folds.test.value_or(Dataset{})), .part = part};
  if (part != Part::test) {
    const std::vector<Part> parts = parts_of_fold(folds.all, *o.fold);
    data = take_part(std::move(folds.all), parts, part, o.root());
  } else {
    data.train = std::move(folds.all);
  }
  data.notes = std::move(notes);
  return data;
}

EvaluationData read_evaluation(const ImageSetOptions& o, std::optional<Part> wanted,
                               const std::vector<std::string>& classes) {
  const Part part = wanted.value_or(Part::validation);
  if (o.folded()) return read_fold_part(o, part, classes);
  DataNotes notes;
  const auto with_notes = [&](EvaluationData data) {
    data.notes = std::move(notes);
    return data;
  };
  if (const fs::path file = o.label_file(); !file.empty()) {
    Labels labels = load_labels(o, notes, classes);
    if (!labels.parts.empty())
      return with_notes(take_part(std::move(labels.all), labels.parts, part, file));
    require(!wanted, Failure::usage, "--part {}: {} has no column split", to_string(part),
            file.string());
    return with_notes({.images = std::move(labels.all)});
  }
  if (has_idx_files(o.data)) {
    require(o.split.empty(), Failure::usage, "--split is for folders, {} has idx files",
            o.data.string());
    return read_idx_part(o.data, part, classes);
  }
  const std::optional<DrawnFrom> from = drawn_from(o);
  if (!from || (part == Part::test && from->test)) return read_folder_part(o, wanted, classes);
  Dataset all = read_folder(o, from->folder, classes, notes);
  const std::vector<Part> parts = choose_parts(o, all, from->shares, from->stratify, notes);
  return with_notes(take_part(std::move(all), parts, part, o.data));
}

// ---------------------------------------------------------------- whatever is there

std::vector<LooseSet> read_any_labels(const ImageSetOptions& o, DataNotes& notes) {
  Labels labels = load_labels(o, notes);
  std::vector<LooseSet> sets;
  if (labels.parts.empty()) {
    sets.push_back({"all", std::move(labels.all)});
    return sets;
  }
  auto parts = by_part(std::move(labels.all), labels.parts);
  for (const Part part : {Part::train, Part::validation, Part::test})
    if (Dataset& set = parts[static_cast<size_t>(part)]; !set.samples.empty())
      sets.push_back({std::string(to_string(part)), std::move(set)});
  return sets;
}

std::vector<LooseSet> read_any_folders(const ImageSetOptions& o, DataNotes& notes) {
  const PartFolders parts = part_folders(o.data);
  std::vector<std::pair<std::string, fs::path>> folders;
  if (parts.train) folders.emplace_back("train", *parts.train);
  if (parts.validation) folders.emplace_back("val", *parts.validation);
  if (parts.test && has_class_folders(*parts.test)) folders.emplace_back("test", *parts.test);
  if (folders.empty()) folders.emplace_back("all", o.data);
  std::set<std::string> classes;
  for (const auto& [_, folder] : folders)
    for (std::string& name : class_folders(folder)) classes.insert(std::move(name));
  std::vector<LooseSet> sets;
  for (const auto& [name, folder] : folders)
    sets.push_back({name, read_folder(o, folder, {classes.begin(), classes.end()}, notes)});
  return sets;
}

}  // namespace

TrainingData training_data(FoldedData folds, int fold) {
  const size_t images = folds.all.samples.size();
  const std::vector<Part> parts = parts_of_fold(folds.all, fold);
  TrainingData data = apply_split(std::move(folds.all), parts);
  data.test = std::move(folds.test);
  data.notes = std::move(folds.notes);
  data.notes.lines.push_back(fmt::format("fold {} of {}: {} of {} images validate", fold,
                                         folds.folds, data.validation.samples.size(), images));
  data.drawn = true;
  return data;
}

FoldedData load_folds(const ImageSetOptions& o) {
  check_image_sets(o);
  FoldedData data = read_folds(o);
  look_at_classes(data.all, data.notes);
  return data;
}

TrainingData load_training_data(const ImageSetOptions& o) {
  check_image_sets(o);
  require_fold(o);
  TrainingData data = read_parts(o);
  for (const std::string& name : data.train.classes)
    require(name.find('\n') == std::string::npos, Failure::data,
            "class \"{}\": a name of several lines; files have one name a line", name);
  look_at_classes(data.train, data.notes);
  return data;
}

std::vector<LooseSet> load_any_data(const ImageSetOptions& o) {
  DataNotes notes;
  std::vector<LooseSet> sets =
      o.label_file().empty() ? read_any_folders(o, notes) : read_any_labels(o, notes);
  say_notes(notes);
  return sets;
}

EvaluationData load_evaluation_data(const ImageSetOptions& o, std::optional<Part> wanted,
                                    const std::vector<std::string>& classes) {
  check_image_sets(o);
  require_fold(o);
  EvaluationData data = read_evaluation(o, wanted, classes);
  if (o.no_duplicate_check) data.train.reset();
  say_notes(data.notes);
  return data;
}

nlohmann::ordered_json to_json(const DataNotes& notes) {
  nlohmann::ordered_json json = nlohmann::ordered_json::array();
  for (const FileCount& count : notes.files) {
    nlohmann::ordered_json ignored = nlohmann::ordered_json::object();
    for (const auto& [kind, files] : count.ignored) ignored[utf8_from_bytes(kind)] = files;
    json.push_back(
        {{"where", utf8_from_bytes(count.where)}, {"images", count.images}, {"ignored", ignored}});
  }
  return json;
}

}  // namespace engine
