#include "tools/train/model_card.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <optional>
#include <set>
#include <vector>

#include "io/files/atomic_file.h"
#include "io/files/bytes.h"
#include "io/files/checksum.h"
#include "io/files/json.h"
#include "io/files/utf8.h"
#include "tools/data/leaks.h"
#include "tools/machine/environment.h"

namespace engine {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::ordered_json;

constexpr int64_t kFewOfClass = 30;  // below which a class's figures say little
constexpr double kWeakRecall = 0.5, kLargeCalibrationError = 0.05;

// A text as a cell or a line of Markdown.
std::string cell(std::string_view text) {
  std::string escaped;
  for (const char c : text) {
    if (c == '|' || c == '<' || c == '*' || c == '_' || c == '`' || c == '\\') escaped += '\\';
    escaped += c == '\n' || c == '\r' ? ' ' : c;
  }
  return escaped;
}

std::string text_of(const Json& json, const char* name) {
  const auto at = json.is_object() ? json.find(name) : json.end();
  if (at == json.end() || at->is_null()) return "";
  return at->is_string() ? at->get<std::string>() : print_json(*at);
}

std::optional<double> number_of(const Json& json, const char* name) {
  const auto at = json.is_object() ? json.find(name) : json.end();
  if (at == json.end() || !at->is_number()) return std::nullopt;
  return at->get<double>();
}

Json member(const Json& json, const char* name) {
  const auto at = json.is_object() ? json.find(name) : json.end();
  return at == json.end() ? Json() : *at;
}

// The last digit is the first that is finer than the standard error 1/(2√n) of a share.
std::string share(const std::optional<double>& value, int64_t samples) {
  if (!value || samples < 1) return "–";
  const int digits = std::clamp(
      static_cast<int>(std::ceil(std::log10(2 * std::sqrt(double(samples))) - 1e-9)), 1, 4);
  return fmt::format("{:.{}f}", *value, digits);
}

std::string with_interval(const std::optional<double>& value, const Json& interval,
                          int64_t samples) {
  std::string text = share(value, samples);
  if (value && interval.is_array() && interval.size() == 2 && interval[0].is_number() &&
      interval[1].is_number())
    text += fmt::format(" [{}–{}]", share(interval[0].get<double>(), samples),
                        share(interval[1].get<double>(), samples));
  return text;
}

constexpr std::pair<const char*, const char*> kMeasures[] = {
    {"top1", "top-1 accuracy"},
    {"balanced_accuracy", "balanced accuracy"},
    {"subset_accuracy", "all known labels right"},
    {"hamming_loss", "Hamming loss"},
    {"auc_macro", "macro AUC"},
    {"average_precision_macro", "macro average precision"},
    {"cohen_kappa", "Cohen's kappa"},
    {"loss", "loss (cross entropy, nats)"},
    {"brier", "Brier score"},
    {"calibration_error", "expected calibration error"}};

constexpr const char* kRecipe[] = {"model",         "weights",      "epochs",
                                   "batch_size",    "optimizer",    "lr",
                                   "schedule",      "weight_decay", "label_smoothing",
                                   "class_weights", "sampler",      "augment",
                                   "mixup",         "cutmix",       "ema",
                                   "freeze_epochs", "watch",        "seed"};

// The part by which the model is to be judged.
std::string judged_part(const Json& metrics) {
  for (const char* part : {"test", "val"})
    if (metrics.contains(part)) return part;
  return "";
}

class Card {
 public:
  explicit Card(const CardFacts& facts)
      : f_(facts),
        part_(judged_part(facts.metrics)),
        score_(part_.empty() ? Json::object() : facts.metrics[part_]) {}

  std::string text() {
    line("# Model card: {}", cell(f_.name));
    details();
    use();
    factors();
    metrics();
    evaluation_data();
    training_data();
    analyses();
    ethics();
    caveats();
    return text_;
  }

 private:
  template <class... Values>
  void line(fmt::format_string<Values...> form, Values&&... values) {
    text_ += fmt::format(form, std::forward<Values>(values)...) + '\n';
  }
  void heading(std::string_view words) { line("\n## {}\n", words); }
  int64_t samples() const { return int64_t(number_of(score_, "samples").value_or(0)); }
  bool of_labels() const { return text_of(score_, "task") == "multilabel"; }
  std::string what() const { return part_ == "val" ? "validation" : part_; }

  void details() {
    heading("Model details");
    line("- Model: {}, an image classifier of {} {}", cell(text_of(f_.arguments, "model")),
         f_.parts.empty() ? 0 : f_.parts[0]["classes"].size(),
         of_labels() ? "labels, of which an image may have any number" : "classes");
    line("- Input: {}", cell(f_.preprocess));
    if (const std::string began = text_of(f_.environment, "started"); !began.empty())
      line("- Trained: {} on {}", began.substr(0, 10), cell(devices()));
    line("- Program: engine {}, commit {}", text_of(f_.environment, "engine"),
         text_of(f_.environment, "git"));
    line("- Weights: `weights/best.safetensors`, SHA-256 `{}`", f_.weights_digest);
    line("- Command:\n\n```sh\n{}\n```\n", f_.command);
    line("| recipe | |\n|---|---|");
    for (const char* name : kRecipe)
      if (const std::string value = text_of(f_.arguments, name); !value.empty())
        line("| {} | {} |", name, cell(value));
    if (const std::string value = text_of(f_.environment, "precision"); !value.empty())
      line("| precision | {} |", cell(value));
  }

  std::string devices() const {
    const Json all = member(f_.environment, "devices");
    if (!all.is_array() || all.empty()) return text_of(f_.environment, "cpu");
    std::vector<std::string> names;
    for (const Json& device : all) names.push_back(text_of(device, "name"));
    return counted(names);
  }

  void use() {
    heading("Intended use");
    if (of_labels()) {
      line("It tells which of these labels an image has, among images like those it was trained");
      line("on: {}.", class_list());
      line("Its probabilities suppose that the labels are as frequent as in training, and so do");
      line("the thresholds from which on they are called present.");
    } else {
      line(
          "It tells which of these classes an image shows, among images like those it was trained");
      line("on: {}.", class_list());
      line("It always names one of them, also for an image that shows none, and its probabilities");
      line("suppose that the classes are as frequent as in training.");
    }
    line("It is no medical device, and a decision about a person needs more than its output.");
  }

  std::string class_list() const {
    std::vector<std::string> names;
    if (!f_.parts.empty())
      for (const auto& [name, count] : f_.parts[0]["classes"].items()) names.push_back(cell(name));
    return fmt::format("{}", fmt::join(names, "; "));
  }

  void factors() {
    heading("Factors");
    const Json by = member(score_, "by");
    if (!by.is_object() || by.empty()) {
      line("Figures are by {}. No column of the data (age, sex, site, camera) was evaluated by,",
           of_labels() ? "label" : "class");
      line("so differences between such groups of people or devices are not known.");
      return;
    }
    const auto [figure, title] =
        of_labels() ? std::pair("auc_macro", "macro AUC") : std::pair("top1", "top-1");
    for (const auto& [column, rows] : by.items()) {
      line("| {} | images | {} |\n|---|---|---|", cell(column), title);
      for (const Json& row : rows) {
        const auto n = int64_t(number_of(row, "samples").value_or(0));
        line("| {} | {} | {} |", cell(text_of(row, "value")), n,
             with_interval(number_of(row, figure), member(member(row, "intervals"), figure), n));
      }
      line("");
    }
  }

  void metrics() {
    heading("Metrics");
    const Json intervals = member(score_, "intervals");
    if (intervals.is_object() && intervals.contains("level")) {
      const std::string over = text_of(intervals, "over");
      line("In brackets: {:.0f}% intervals, bootstrap over {}.",
           100 * intervals["level"].get<double>(), over.empty() ? "images" : over);
    }
    line("The last digit is the first that is finer than the standard error.");
    decisions();
  }

  // What the weight file holds beside the weights, and what it does to the images of the part.
  void decisions() {
    if (const std::string rule = text_of(member(score_, "thresholds"), "rule"); !rule.empty())
      line(
          "\nFrom which probability on a {} is called present was chosen on validation images, by "
          "the rule {}.",
          of_labels() ? "label" : "class", cell(rule));
    if (const auto temperature = number_of(score_, "temperature"))
      line(
          "\nTemperature scaling (`--calibrated`) with T = {:.3g} takes the expected calibration "
          "error from {} to {}.",
          *temperature, share(number_of(score_, "calibration_error"), samples()),
          share(number_of(member(score_, "calibrated"), "calibration_error"), samples()));
    const Json reject = member(score_, "reject_threshold");
    const auto wanted = number_of(reject, "validation_accuracy"),
               accuracy = number_of(reject, "accuracy");
    if (!wanted) return;
    const char* const asked = of_labels() ? "known labels" : "images";
    line(
        "\nAnswers are withheld (`--reject`) so that of those that are given {:.4g} are right on "
        "validation images.",
        *wanted);
    if (accuracy)
      line("So {} of these {} {} are answered, {} of them right.",
           share(number_of(reject, "coverage"), samples()), what(), asked,
           share(accuracy, samples()));
    else
      line("So none of these {} {} are answered.", what(), asked);
  }

  void evaluation_data() {
    heading("Evaluation data");
    if (part_.empty()) return line("Nothing was evaluated.");
    line("{} {} images. {}", samples(), what(),
         part_ == "test" ? "They had no part in training, nor in the choice of the weights."
                         : "The best epoch was chosen by them, so the figures are somewhat too "
                           "good; there is no test part.");
    split();
  }

  void split() {
    const std::string drawn = text_of(f_.arguments, "split");
    const std::string groups =
        text_of(f_.arguments, "group_column") + text_of(f_.arguments, "group_pattern");
    if (!drawn.empty())
      line("Parts were drawn with `--split {}`, seed {}; `split.csv` names them.", drawn,
           text_of(f_.arguments, "split_seed"));
    else
      line("The data set says which images belong to which part.");
    if (!groups.empty()) line("Images of one group (`{}`) are one unit.", groups);
  }

  void training_data() {
    heading("Training data");
    const std::string data = text_of(f_.arguments, "data"),
                      labels = text_of(f_.arguments, "labels");
    line("`{}`", data.empty() ? labels : data);
    line("\n| images |{}\n|---|{}", joined([](const Json& p) { return p["name"]; }),
         joined([](const Json&) { return Json("---"); }));
    if (f_.parts.empty()) return;
    for (const auto& [name, count] : f_.parts[0]["classes"].items())
      line("| {} |{}", cell(name), joined([&](const Json& part) {
             return part["classes"].contains(name) ? part["classes"][name] : Json(0);
           }));
    line("| **all** |{}", joined([](const Json& part) { return part["images"]; }));
    line("| groups |{}", joined([](const Json& part) {
           return part["groups"] == 0 ? Json("not known") : part["groups"];
         }));
    line("\nSHA-256 of names, labels and groups: `{}`", f_.names_digest);
    if (!f_.data_digest.empty()) line("SHA-256 of the images: `{}`", f_.data_digest);
  }

  template <class Of>
  std::string joined(Of&& of) const {
    std::string text;
    for (const Json& part : f_.parts) {
      const Json value = of(part);
      text += fmt::format(" {} |", value.is_string() ? value.get<std::string>() : value.dump());
    }
    return text;
  }

  void analyses() {
    heading("Quantitative analyses");
    if (part_.empty()) return line("Nothing was evaluated.");
    line("| {} images | {} |\n|---|---|", what(), samples());
    const Json intervals = member(score_, "intervals");
    for (const auto& [name, title] : kMeasures)
      if (const auto value = number_of(score_, name))
        line("| {} | {} |", title, with_interval(value, member(intervals, name), samples()));
    if (const auto f1 = number_of(member(score_, "macro"), "f1"))
      line("| macro F1 | {} |", with_interval(f1, member(intervals, "f1_macro"), samples()));
    label_table();
    const Json classes = member(score_, "classes");
    if (!classes.is_array()) return;
    line(
        "\n| class | images | recall | precision | specificity | AUC |\n|---|---|---|---|---|---|");
    for (const Json& c : classes) {
      const auto n = int64_t(number_of(c, "support").value_or(0));
      const auto said = int64_t(number_of(c, "predicted").value_or(0));
      const Json bounds = member(c, "intervals");
      const auto of = [&](const char* name, int64_t base) {
        return n == 0 ? std::string("–")
                      : with_interval(number_of(c, name), member(bounds, name), base);
      };
      line("| {} | {} | {} | {} | {} | {} |", cell(text_of(c, "name")), n, of("recall", n),
           of("precision", said), of("specificity", samples() - n), of("auc", n));
    }
  }

  void label_table() {
    const Json labels = member(score_, "labels");
    if (!labels.is_array()) return;
    line("\n| label | present | absent | sensitivity | specificity | AUC | average precision |");
    line("|---|---|---|---|---|---|---|");
    for (const Json& l : labels) {
      const auto present = int64_t(number_of(l, "positives").value_or(0)),
                 absent = int64_t(number_of(l, "negatives").value_or(0));
      const auto of = [&](const char* name, int64_t base) {
        return with_interval(number_of(l, name), member(member(l, "intervals"), name), base);
      };
      line("| {} | {} | {} | {} | {} | {} | {} |", cell(text_of(l, "name")), present, absent,
           of("sensitivity", present), of("specificity", absent),
           of("auc", std::min(present, absent)), of("average_precision", present));
    }
  }

  void ethics() {
    heading("Ethical considerations");
    line("Whether the images were taken and may be used with consent is not known to the program");
    line("that wrote this card. Errors are not spread evenly: the table above says for which");
    line("{} they are frequent.", of_labels() ? "labels" : "classes");
  }

  void caveats() {
    heading("Caveats and recommendations");
    line("- It was not tested on images of other sources, cameras, places or people than these.");
    if (part_ == "val")
      line("- It was not tested on images that had no part in choosing the weights.");
    const bool grouped = std::any_of(f_.parts.begin(), f_.parts.end(),
                                     [](const Json& part) { return part["groups"] != 0; });
    if (!grouped)
      line(
          "- No groups are known: if several images show one patient, parts may share patients, "
          "and intervals are too narrow.");
    if (f_.shared_images)
      line(
          "- Several parts share images or groups (`duplicates.csv`, `shared_groups.csv`): the "
          "figures are too good.");
    const Json classes = member(score_, "classes");
    for (const Json& c : classes.is_array() ? classes : Json::array()) class_caveat(c);
    const Json labels = member(score_, "labels");
    for (const Json& l : labels.is_array() ? labels : Json::array()) label_caveat(l);
    if (const auto error = number_of(score_, "calibration_error");
        error && *error > kLargeCalibrationError)
      line(
          "- The probabilities are off by {} on average: calibrate them before they are read as "
          "such.",
          share(error, samples()));
  }

  void label_caveat(const Json& l) {
    const auto n = int64_t(number_of(l, "positives").value_or(0));
    const std::string name = cell(text_of(l, "name"));
    if (n == 0) return line("- {}: no {} image has it, so nothing is known of it.", name, what());
    if (n < kFewOfClass)
      line("- {}: {} {} images with it only, too few for firm figures.", name, n, what());
  }

  void class_caveat(const Json& c) {
    const auto n = int64_t(number_of(c, "support").value_or(0));
    const std::string name = cell(text_of(c, "name"));
    if (n == 0) return line("- {}: no {} image, so nothing is known of it.", name, what());
    const auto recall = number_of(c, "recall");
    if (number_of(c, "predicted").value_or(1) == 0)
      return line("- {}: {} images, never predicted.", name, n);
    if (recall && *recall < kWeakRecall)
      line("- {}: {} images, recall {}: more are missed than found.", name, n,
           with_interval(recall, member(member(c, "intervals"), "recall"), n));
    else if (n < kFewOfClass)
      line("- {}: {} {} images only, too few for firm figures.", name, n, what());
  }

  const CardFacts& f_;
  std::string part_;
  Json score_;
  std::string text_;
};

Json json_file(const fs::path& file) {
  if (!fs::exists(file)) return Json::object();
  const std::vector<std::byte> bytes = read_file(file);
  Json json = json_or_null<Json>(as_text(bytes));
  return json.is_object() ? json : Json::object();
}

}  // namespace

Json describe_parts(const TrainingData& data) {
  Json all = Json::array();
  for (const NamedSet& part : parts_of(data)) {
    std::vector<int64_t> counts(data.train.classes.size());
    std::set<std::string_view> groups;
    for (const Sample& sample : part.data->samples) {
      if (data.train.task == Task::classes) ++counts[size_t(sample.label)];
      for (size_t c = 0; c < sample.labels.size(); ++c)
        counts[c] += sample.labels[c] == Presence::present;
      if (!sample.group.empty()) groups.insert(sample.group);
    }
    Json classes = Json::object();
    for (size_t c = 0; c < counts.size(); ++c)
      classes[utf8_from_bytes(data.train.classes[c])] = counts[c];
    all.push_back({{"name", part.name},
                   {"images", part.data->samples.size()},
                   {"groups", groups.size()},
                   {"classes", std::move(classes)}});
  }
  return all;
}

std::string model_card(const CardFacts& facts) {
  return Card(facts).text();
}

void write_model_card(const TrainShared& shared) {
  const fs::path& run = shared.run.path();
  CardFacts facts{.name = utf8_from_bytes(run.filename().string()),
                  .parts = describe_parts(shared.data),
                  .arguments = json_file(run / "args.json"),
                  .environment = json_file(run / "env.json"),
                  .metrics = json_file(run / "metrics.json"),
                  .preprocess = describe(shared.config.preprocess),
                  .names_digest = shared.identity.image_names,
                  .data_digest = shared.identity.images.contents};
  if (fs::exists(run / "command.txt")) {
    const std::vector<std::byte> command = read_file(run / "command.txt");
    facts.command = utf8_from_bytes(std::string(as_text(command)));
    while (facts.command.ends_with('\n')) facts.command.pop_back();
  }
  if (fs::exists(shared.run.weights("best")))
    facts.weights_digest = sha256(read_file(shared.run.weights("best")));
  facts.shared_images = fs::exists(run / "duplicates.csv") || fs::exists(run / "shared_groups.csv");
  write_file_atomically(run / "model_card.md", model_card(facts));
}

}  // namespace engine
