#include "tools/predict/prediction_text.h"

#include <fmt/format.h>

#include <algorithm>
#include <nlohmann/json.hpp>

#include "engine/measures/labels.h"
#include "io/files/csv.h"
#include "io/files/json.h"
#include "io/files/utf8.h"

namespace engine {

PredictionText::PredictionText(std::vector<std::string> classes, int count,
                               PredictionTextOptions options,
                               std::optional<std::vector<double>> thresholds)
    : classes_(std::move(classes)),
      count_(count),
      options_(options),
      thresholds_(std::move(thresholds)) {
  options_.top = std::min(options_.top, count);
}

std::span<const int> PredictionText::named(const Prediction& p) const {
  return std::span(p.ranked).first(std::min(size_t(options_.top), p.ranked.size()));
}

bool PredictionText::answers(const Prediction& p) const {
  return !options_.reject_below || p.probabilities[size_t(p.best())] >= *options_.reject_below;
}

std::string PredictionText::head() const {
  if (options_.form != PredictionForm::csv) return "";
  std::string head = thresholds_ ? "path,labels" : "path,class,class_index,probability";
  for (int i = 2; !thresholds_ && i <= options_.top; ++i)
    head += fmt::format(",class_{0},class_index_{0},probability_{0}", i);
  if (options_.reject_below) head += thresholds_ ? ",not_answered" : ",answered";
  for (int c = 0; (thresholds_ || options_.probabilities) && c < count_; ++c)
    head += ',' + csv_field("p:" + name(c));
  return head + '\n';
}

std::string PredictionText::line(const Prediction& p) const {
  switch (options_.form) {
    case PredictionForm::csv: return (thresholds_ ? labels_csv(p) : csv(p)) + '\n';
    case PredictionForm::json: return (thresholds_ ? labels_json(p) : json(p)) + '\n';
    case PredictionForm::text: break;
  }
  return (thresholds_ ? labels_text(p) : text(p)) + '\n';
}

bool PredictionText::present(const Prediction& p, int label) const {
  return p.probabilities[size_t(label)] >= (*thresholds_)[size_t(label)];
}

bool PredictionText::answers(const Prediction& p, int label) const {
  return !options_.reject_below ||
         decision_confidence(p.probabilities[size_t(label)], (*thresholds_)[size_t(label)]) >=
             *options_.reject_below;
}

int64_t PredictionText::withheld(const Prediction& p) const {
  if (!thresholds_) return answers(p) ? 0 : 1;
  int64_t count = 0;
  for (int c = 0; c < count_; ++c) count += !answers(p, c);
  return count;
}

std::string PredictionText::text(const Prediction& p) const {
  std::string line = p.path + (answers(p) ? ":" : ": not answered; the most likely is");
  for (const int c : named(p))
    line += fmt::format("{} {} ({:.1f}%)", c == p.best() ? "" : ",", name(c),
                        100 * p.probabilities[size_t(c)]);
  return line;
}

std::string PredictionText::csv(const Prediction& p) const {
  std::string line = csv_field(p.path);
  for (const int c : named(p))
    line += fmt::format(",{},{},{:.6f}", csv_field(name(c)), c, p.probabilities[size_t(c)]);
  if (options_.reject_below) line += answers(p) ? ",1" : ",0";
  for (size_t c = 0; options_.probabilities && c < p.probabilities.size(); ++c)
    line += fmt::format(",{:.6f}", p.probabilities[c]);
  return line;
}

std::string PredictionText::json(const Prediction& p) const {
  const auto of_class = [&](int c) {
    return nlohmann::ordered_json{{"class", utf8_from_bytes(name(c))},
                                  {"class_index", c},
                                  {"probability", p.probabilities[size_t(c)]}};
  };
  nlohmann::ordered_json json = {{"path", utf8_from_bytes(p.path)}};
  json.update(of_class(p.best()));
  if (options_.reject_below) json["answered"] = answers(p);
  json["logits"] = p.logits;
  if (options_.top > 1)
    for (const int c : named(p)) json["top"].push_back(of_class(c));
  for (int c = 0; options_.probabilities && c < count_; ++c)
    json["probabilities"][utf8_from_bytes(name(c))] = p.probabilities[size_t(c)];
  return print_json(json);
}

std::string PredictionText::names(std::span<const int> labels) const {
  std::string text;
  for (const int c : labels) text += (text.empty() ? "" : "|") + name(c);
  return text;
}

// Labels that are not answered stand by themselves, whether they would be called present or not.
std::string PredictionText::labels_text(const Prediction& p) const {
  const auto with_share = [&](int c) {
    return fmt::format("{} ({:.1f}%)", name(c), 100 * p.probabilities[size_t(c)]);
  };
  std::string found, open;
  for (int c = 0; c < count_; ++c) {
    const bool answered = answers(p, c);
    if (answered && !present(p, c)) continue;
    std::string& list = answered ? found : open;
    list += (list.empty() ? "" : ", ") + with_share(c);
  }
  if (found.empty())
    found = open.empty() ? "no label; the most likely is " + with_share(p.best()) : "no label";
  return fmt::format("{}: {}{}{}", p.path, found, open.empty() ? "" : "; not answered: ", open);
}

std::string PredictionText::labels_csv(const Prediction& p) const {
  std::vector<int> called, open;
  for (int c = 0; c < count_; ++c) {
    if (present(p, c)) called.push_back(c);
    if (!answers(p, c)) open.push_back(c);
  }
  std::string line = csv_field(p.path) + ',' + csv_field(names(called));
  if (options_.reject_below) line += ',' + csv_field(names(open));
  for (const double probability : p.probabilities) line += fmt::format(",{:.6f}", probability);
  return line;
}

std::string PredictionText::labels_json(const Prediction& p) const {
  nlohmann::ordered_json json = {{"path", utf8_from_bytes(p.path)},
                                 {"labels", nlohmann::ordered_json::array()}};
  if (options_.reject_below) json["not_answered"] = nlohmann::ordered_json::array();
  for (int c = 0; c < count_; ++c) {
    if (!answers(p, c)) json["not_answered"].push_back(utf8_from_bytes(name(c)));
    if (!present(p, c)) continue;
    nlohmann::ordered_json label = {{"name", utf8_from_bytes(name(c))},
                                    {"probability", p.probabilities[size_t(c)]},
                                    {"threshold", (*thresholds_)[size_t(c)]}};
    if (options_.reject_below) label["answered"] = answers(p, c);
    json["labels"].push_back(std::move(label));
  }
  for (int c = 0; c < count_; ++c)
    json["probabilities"][utf8_from_bytes(name(c))] = p.probabilities[size_t(c)];
  json["logits"] = p.logits;
  return print_json(json);
}

}  // namespace engine
