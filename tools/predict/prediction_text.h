// Predictions as lines that people, spreadsheets and programs read.
#pragma once

#include <optional>
#include <span>
#include <string>
#include <vector>

#include "tools/predict/prediction.h"

namespace engine {

enum class PredictionForm { text, csv, json };

struct PredictionTextOptions {
  PredictionForm form = PredictionForm::text;
  int top = 1;                 // the classes named of each image
  bool probabilities = false;  // of all classes; not in text
  // Images whose best class is less probable, or labels of which decision_confidence() is less, are
  // marked as not answered; nothing: none is.
  std::optional<double> reject_below = {};
};

// tools/predict/README.md has the columns and members.
class PredictionText {
 public:
  // `thresholds` (count) are of labels, several of which an image may have: those are named whose
  // probability reaches theirs. Without them an image has one class.
  PredictionText(std::vector<std::string> classes, int count, PredictionTextOptions options,
                 std::optional<std::vector<double>> thresholds = {});

  std::string head() const;  // the first line, with its end; empty where there is none
  std::string line(const Prediction& prediction) const;
  // How many answers are marked: the image's, or those of its labels.
  int64_t withheld(const Prediction& prediction) const;

 private:
  std::string text(const Prediction& p) const;
  std::string csv(const Prediction& p) const;
  std::string json(const Prediction& p) const;
  std::string labels_text(const Prediction& p) const;
  std::string labels_csv(const Prediction& p) const;
  std::string labels_json(const Prediction& p) const;
  // Whether the image has an answer, and whether the question for one of its labels has.
  bool answers(const Prediction& p) const;
  bool answers(const Prediction& p, int label) const;
  bool present(const Prediction& p, int label) const;
  std::string names(std::span<const int> labels) const;  // with | between them
  std::span<const int> named(const Prediction& p) const;
  std::string name(int index) const { return class_name(classes_, index); }

  std::vector<std::string> classes_;
  int count_;  // of the classes
  PredictionTextOptions options_;
  std::optional<std::vector<double>> thresholds_;
};

}  // namespace engine
