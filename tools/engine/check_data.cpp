// engine check-data: what is in an image set and what is wrong with it. It ends with 0 exactly
// where engine train with the same flags of data would start and read every image.
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <map>
#include <nlohmann/json.hpp>

#include "engine/error.h"
#include "io/data/duplicates.h"
#include "io/files/atomic_file.h"
#include "io/files/csv.h"
#include "io/files/json.h"
#include "io/images/decode.h"
#include "io/images/inspect.h"
#include "tools/cli/progress.h"
#include "tools/cli/terminal.h"
#include "tools/data/leaks.h"
#include "tools/engine/verbs.h"
#include "tools/machine/cores.h"

namespace engine {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::ordered_json;

struct CheckOptions : ImageSetOptions {
  fs::path csv;
  int workers = 0;
  bool json = false;

  void visit(auto& v) {
    v("DIR", data, "train/CLASS/… and val/CLASS/…, CLASS/… with --split, or MNIST's idx files");
    v("--csv FILE", csv, "write a row for each image");
    v("--workers N", workers, "threads; 0: one per core", Within{0, 1024});
    v("--json", json, "one JSON object to stdout");
    v.group("Data, as of engine train");
    visit_image_sets(v);
  }
};

struct Sets {
  std::vector<std::string> names;
  std::vector<Dataset> data;  // of the same classes; some may lack images
  DataNotes notes;
  std::string obstacle;  // why no training can start with them; empty if one can
  size_t folds = 0;      // so many of them, the first ones, are folds of a cross-validation

  void add(std::string name, Dataset set) {
    names.push_back(std::move(name));
    data.push_back(std::move(set));
  }
  std::vector<const Dataset*> views() const {
    std::vector<const Dataset*> views;
    for (const Dataset& set : data) views.push_back(&set);
    return views;
  }
  std::vector<NamedSet> parts() const {
    std::vector<NamedSet> parts;
    for (size_t i = 0; i < data.size(); ++i) parts.push_back({names[i], &data[i]});
    return parts;
  }
};

// What a scan of one image found.
struct Inspected {
  ImageInfo info;
  uint64_t bytes = 0;
  std::string error;  // empty: it can be read
};

Sets parts_in(TrainingData data) {
  Sets sets;
  sets.notes = std::move(data.notes);
  sets.add("train", std::move(data.train));
  sets.add("val", std::move(data.validation));
  if (data.test) sets.add("test", std::move(*data.test));
  return sets;
}

Sets folds_in(FoldedData data) {
  Sets sets{.notes = std::move(data.notes), .folds = static_cast<size_t>(data.folds)};
  for (int fold = 1; fold <= data.folds; ++fold) {
    Dataset set{.task = data.all.task, .classes = data.all.classes};
    for (const Sample& sample : data.all.samples)
      if (sample.fold == fold) set.samples.push_back(sample);
    sets.add(fmt::format("fold {}", fold), std::move(set));
  }
  if (data.test) sets.add("test", std::move(*data.test));
  return sets;
}

// What a training would read, or the trainings of all folds. Where it could not, what is there all
// the same, with the reason.
Sets read_sets(const CheckOptions& o) {
  require(o.data.empty() != o.labels.empty(), Failure::usage, "give either DIR or --labels FILE");
  check_image_sets(o);
  try {
    if (o.folds && !o.fold) return folds_in(load_folds(o));
    return parts_in(load_training_data(o));
  } catch (const Error& error) {
    Sets sets;
    try {
      for (LooseSet& set : load_any_data(o)) sets.add(std::move(set.name), std::move(set.data));
    } catch (const Error&) {
      throw error;
    }
    sets.obstacle = error.what();
    return sets;
  }
}

Inspected inspect(const Dataset& set, size_t i) {
  Inspected found;
  if (!set.images.empty()) {
    const Image& image = set.images[i];
    found.bytes = image.pixels.size();
    found.info = {
        .format = "idx", .width = image.width, .height = image.height, .channels = image.channels};
    return found;
  }
  try {
    const std::vector<std::byte> file = read_image_bytes(set.samples[i].path);
    found.bytes = file.size();
    found.info = inspect_image(file, set.samples[i].path);
    decode(file, set.samples[i].path, 3);  // to the last byte: a header may promise too much
  } catch (const Error& error) {
    if (error.kind != Failure::data) throw;
    found.error = error.what();
  }
  return found;
}

using Findings = std::vector<std::vector<Inspected>>;  // by set and sample

Findings scan(const Sets& sets, int threads) {
  Findings findings;
  std::vector<Copy> all;
  for (size_t set = 0; set < sets.data.size(); ++set) {
    findings.emplace_back(sets.data[set].samples.size());
    for (size_t i = 0; i < findings.back().size(); ++i) all.push_back({set, i});
  }
  Progress progress("check", static_cast<int64_t>(all.size()));
  parallel_for(all.size(),
               {.threads = threads, .progress = [&](size_t, size_t) { progress.step(1, 0); }},
               [&](size_t i) {
                 const auto [set, sample] = all[i];
                 findings[set][sample] = inspect(sets.data[set], sample);
               });
  progress.finish();
  return findings;
}

struct Spread {
  int least = 0, median = 0, most = 0;
};

Spread spread_of(std::vector<int> values) {
  if (values.empty()) return {};
  std::ranges::sort(values);
  return {values.front(), values[values.size() / 2], values.back()};
}

struct Report {
  size_t images = 0, unreadable = 0;
  std::vector<std::pair<const char*, size_t>> kinds;  // of images that need a second look
  std::map<std::string, size_t> formats;
  Spread width, height;
  std::vector<std::vector<size_t>> counts;  // by set and class, or label that images have
  std::vector<size_t> missing;              // by set: labels that are not known
  size_t duplicates = 0, copies = 0;
  Leaks leaks;
  std::vector<std::string> empty_classes;  // "val: df"
  std::vector<std::string> obstacles;      // why no training would start or go well
};

Report summarise(const Sets& sets, const Findings& findings, std::span<const Copies> duplicates) {
  Report report;
  size_t cmyk = 0, turned = 0, deep = 0, gray = 0, alpha = 0, endless = 0;
  std::vector<int> widths, heights;
  for (size_t s = 0; s < sets.data.size(); ++s) {
    const Dataset& set = sets.data[s];
    std::vector<size_t>& counts = report.counts.emplace_back(set.classes.size());
    size_t& missing = report.missing.emplace_back();
    for (size_t i = 0; i < set.samples.size(); ++i) {
      const Inspected& found = findings[s][i];
      ++report.images;
      for_each_class(set, set.samples[i], [&](size_t c) { ++counts[c]; });
      missing += std::ranges::count(set.samples[i].labels, Presence::missing);
      if (!found.error.empty()) {
        ++report.unreadable;
        continue;
      }
      const ImageInfo& info = found.info;
      ++report.formats[std::string(info.format)];
      cmyk += info.channels == 4, gray += info.channels == 1;
      turned += info.orientation != 1, deep += info.bits > 8, alpha += info.alpha;
      endless += !info.ended;
      const bool sideways = info.orientation > 4;
      widths.push_back(sideways ? info.height : info.width);
      heights.push_back(sideways ? info.width : info.height);
    }
    for (size_t c = 0; c < counts.size(); ++c)
      if (counts[c] == 0)
        report.empty_classes.push_back(fmt::format("{}: {}", sets.names[s], set.classes[c]));
  }
  report.width = spread_of(std::move(widths)), report.height = spread_of(std::move(heights));
  report.kinds = {{"cmyk", cmyk}, {"exif_rotated", turned}, {"16_bit", deep},
                  {"gray", gray}, {"alpha", alpha},         {"no_end_marker", endless}};
  report.duplicates = duplicates.size();
  for (const Copies& copies : duplicates) report.copies += copies.size();
  report.leaks = find_leaks(sets.parts(), duplicates);
  return report;
}

std::vector<uint32_t> unreadable_in(const std::vector<Inspected>& findings, uint32_t first = 0) {
  std::vector<uint32_t> unreadable;
  for (uint32_t i = 0; i < findings.size(); ++i)
    if (!findings[i].error.empty()) unreadable.push_back(first + i);
  return unreadable;
}

// What trains where the fold validates, as far as its classes can be read.
void require_readable_without(const Sets& sets, const Findings& findings, size_t fold) {
  Dataset train{.task = sets.data[0].task, .classes = sets.data[0].classes};
  std::vector<uint32_t> unreadable;
  for (size_t s = 0; s < sets.folds; ++s) {
    if (s == fold) continue;
    for (const uint32_t i : unreadable_in(findings[s], static_cast<uint32_t>(train.samples.size())))
      unreadable.push_back(i);
    train.samples.insert(train.samples.end(), sets.data[s].samples.begin(),
                         sets.data[s].samples.end());
  }
  require_readable_classes(train, unreadable);
}

// Asks what engine train asks with the same flags.
std::vector<std::string> obstacles_of(const Sets& sets, const Findings& findings,
                                      const Leaks& leaks, const CheckOptions& o) {
  std::vector<std::string> obstacles;
  if (!sets.obstacle.empty()) obstacles.push_back(sets.obstacle);
  const auto ask = [&](const auto& check) {
    try {
      check();
    } catch (const Error& error) {
      obstacles.push_back(error.what());
    }
  };
  ask([&] { check_leaks(leaks, o); });
  const std::vector<NamedSet> parts = sets.parts();
  for (size_t s = 0; s < findings.size(); ++s) {
    const std::vector<uint32_t> unreadable = unreadable_in(findings[s]);
    if (o.on_bad_image == OnBadImage::error && !unreadable.empty())
      obstacles.push_back(
          fmt::format("{}: of {} images {} cannot be read; --on-bad-image skip "
                      "leaves them out",
                      sets.names[s], findings[s].size(), unreadable.size()));
    else if (sets.names[s] == "train")
      ask([&] { require_readable_classes(sets.data[s], unreadable); });
    else
      ask([&] { require_readable(std::span(parts).subspan(s, 1)); });
    if (s < sets.folds) ask([&] { require_readable_without(sets, findings, s); });
  }
  return obstacles;
}

std::string table(const Sets& sets, const Report& r) {
  const bool of_labels = sets.data[0].task == Task::labels;
  size_t longest = of_labels ? 14 : 5;
  for (const std::string& name : sets.data[0].classes) longest = std::max(longest, name.size());
  std::string text = fmt::format("{:<{}}", of_labels ? "label" : "class", longest);
  for (const std::string& name : sets.names) text += fmt::format("  {:>8}", name);
  text += '\n';
  const auto row = [&](std::string_view name, auto count) {
    text += fmt::format("{:<{}}", name, longest);
    for (size_t s = 0; s < sets.data.size(); ++s) text += fmt::format("  {:>8}", count(s));
    text += '\n';
  };
  for (size_t c = 0; c < sets.data[0].classes.size(); ++c)
    row(sets.data[0].classes[c], [&](size_t s) { return r.counts[s][c]; });
  row(of_labels ? "images" : "total", [&](size_t s) { return sets.data[s].samples.size(); });
  if (of_labels) row("missing labels", [&](size_t s) { return r.missing[s]; });
  text += '\n';
  for (const auto& [format, count] : r.formats) text += fmt::format("{:<14}{}\n", format, count);
  for (const auto& [name, s] : {std::pair("width", r.width), std::pair("height", r.height)})
    text += fmt::format("{:<14}{} to {}, median {}\n", name, s.least, s.most, s.median);
  for (const auto& [name, count] : r.kinds)
    if (count > 0) text += fmt::format("{:<14}{}\n", name, count);
  if (!r.empty_classes.empty())
    text += fmt::format("{:<14}{}\n", "empty classes", fmt::join(r.empty_classes, ", "));
  text += fmt::format("{:<14}{} images {} times\n", "duplicates", r.duplicates, r.copies);
  text += fmt::format("{:<14}{} images and {} groups in more than one part\n", "leakage",
                      r.leaks.images.size(), r.leaks.groups.size());
  text +=
      fmt::format("{:<14}{} images with several labels\n", "conflicts", r.leaks.conflicts.size());
  return text + fmt::format("{:<14}{}\n", "unreadable", r.unreadable);
}

Json to_json(const Sets& sets, const Report& r) {
  Json json = {{"images", r.images}, {"unreadable", r.unreadable}, {"formats", r.formats}};
  for (const auto& [name, count] : r.kinds) json[name] = count;
  for (const auto& [name, s] : {std::pair("width", r.width), std::pair("height", r.height)})
    json[name] = {{"min", s.least}, {"median", s.median}, {"max", s.most}};
  json["duplicates"] = r.duplicates;
  json["copies"] = r.copies;
  json["leaks"] = r.leaks.images.size();
  json["conflicts"] = r.leaks.conflicts.size();
  json["group_leaks"] = r.leaks.groups.size();
  json["places"] = to_json(sets.notes);
  json["obstacles"] = r.obstacles;
  json["empty_classes"] = r.empty_classes;
  for (size_t s = 0; s < sets.data.size(); ++s)
    for (size_t c = 0; c < r.counts[s].size(); ++c)
      json["splits"][sets.names[s]][sets.data[s].classes[c]] = r.counts[s][c];
  for (size_t s = 0; s < sets.data.size(); ++s)
    if (sets.data[s].task == Task::labels) json["missing_labels"][sets.names[s]] = r.missing[s];
  return json;
}

std::string rows(const Sets& sets, const Findings& findings, std::span<const Copies> duplicates) {
  std::map<std::pair<size_t, size_t>, size_t> group;
  for (size_t i = 0; i < duplicates.size(); ++i)
    for (const Copy& copy : duplicates[i]) group[{copy.set, copy.sample}] = i;
  std::string text =
      "path,split,label,format,width,height,channels,bits,alpha,orientation,bytes,copy,error,"
      "group\n";
  for (size_t s = 0; s < sets.data.size(); ++s)
    for (size_t i = 0; i < findings[s].size(); ++i) {
      const Sample& sample = sets.data[s].samples[i];
      const Inspected& f = findings[s][i];
      const auto copy = group.find({s, i});
      text += fmt::format("{},{},{},{},{},{},{},{},{:d},{},{},{},{},{}\n", csv_field(sample.path),
                          sets.names[s], csv_field(label_text(sets.data[s], sample)), f.info.format,
                          f.info.width, f.info.height, f.info.channels, f.info.bits, f.info.alpha,
                          f.info.orientation, f.bytes,
                          copy == group.end() ? "" : std::to_string(copy->second),
                          csv_field(f.error), csv_field(sample.group));
    }
  return text;
}

// They can be read, but something has cut or lengthened them.
void name_the_endless(const Sets& sets, const Findings& findings) {
  constexpr size_t kMost = 10;
  size_t named = 0;
  for (size_t s = 0; s < findings.size(); ++s)
    for (size_t i = 0; i < findings[s].size(); ++i)
      if (findings[s][i].error.empty() && !findings[s][i].info.ended && named++ < kMost)
        say("no end marker: " + sets.data[s].samples[i].path);
}

void name_the_worst(const Sets& sets, const Findings& findings, const Report& report) {
  constexpr size_t kMost = 10;  // of a kind; --csv has all
  size_t named = 0;
  for (const auto& set : findings)
    for (const Inspected& f : set)
      if (!f.error.empty() && named++ < kMost) say("unreadable: " + f.error);
  const auto& leaks = report.leaks.images;
  for (size_t i = 0; i < std::min(kMost, leaks.size()); ++i) {
    const Copy &first = leaks[i].front(), &last = leaks[i].back();
    say(fmt::format("leak: {} is {}", sets.data[first.set].samples[first.sample].path,
                    sets.data[last.set].samples[last.sample].path));
  }
  for (const std::string& line : describe(report.leaks, sets.parts())) say(line);
  for (const std::string& obstacle : report.obstacles)
    say("no training goes well with this: " + obstacle);
}

}  // namespace

int check_data(const Command& command) {
  const auto options = parse_options<CheckOptions>(command);
  if (!options) return 0;
  const CheckOptions& o = *options;
  const Sets sets = read_sets(o);
  const int threads = o.workers > 0 ? o.workers : available_cores();
  const Findings findings = scan(sets, threads);
  const std::vector<const Dataset*> views = sets.views();
  std::vector<Copies> duplicates;
  if (!o.no_duplicate_check) duplicates = find_duplicates(views, false, {.threads = threads});
  Report report = summarise(sets, findings, duplicates);
  report.obstacles = obstacles_of(sets, findings, report.leaks, o);
  if (!o.csv.empty()) write_file_atomically(o.csv, rows(sets, findings, duplicates));
  name_the_worst(sets, findings, report);
  name_the_endless(sets, findings);
  print_to_stdout(o.json ? print_json(to_json(sets, report)) + '\n' : table(sets, report));
  return report.obstacles.empty() ? 0 : static_cast<int>(Failure::check);
}

}  // namespace engine
