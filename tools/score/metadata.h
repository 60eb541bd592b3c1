// What the metadata of weight files and of checkpoints say of a model, as texts.
#pragma once

#include <filesystem>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "engine/loss.h"

namespace engine {

// `names`, which may be any bytes (utf8.h), as a JSON array, and back.
std::string to_json(const std::vector<std::string>& names);
std::vector<std::string> names_from_json(const std::string& json,
                                         const std::filesystem::path& path);

// From which probability on a class, or a label of several, is called present: `threshold` and
// above. It was chosen on validation images, each class against the rest.
struct ClassThreshold {
  std::string name;
  // Nothing where validation had no such image or no other, or where nothing fulfils the rule.
  std::optional<double> threshold;
  std::optional<double> sensitivity, specificity;  // of the validation images, at the threshold

  bool operator==(const ClassThreshold&) const = default;
};

// Of probabilities as the network gives them: a temperature does not enter.
struct Thresholds {
  std::string rule;                     // "youden", "sensitivity@0.9", "specificity@0.95"
  std::vector<ClassThreshold> classes;  // in the order of the file's classes

  bool operator==(const Thresholds&) const = default;
};

// From which probability of its first class on an image is answered: validation images whose
// probability is that high are right with at least the share `accuracy`. Of several labels each
// label of an image is answered by itself, and decision_confidence() stands in place of the
// probability. Nothing where no such number fulfils that.
struct RejectThreshold {
  double accuracy = 0;
  std::optional<double> as_given;    // of probabilities as the network gives them
  std::optional<double> calibrated;  // of those after the temperature

  const std::optional<double>& of(bool scaled) const { return scaled ? calibrated : as_given; }
  bool operator==(const RejectThreshold&) const = default;
};

// {"rule": …, "classes": {NAME: {"threshold": …, "sensitivity": …, "specificity": …}}}.
std::string to_json(const Thresholds& thresholds);

// What a training chose on its validation images, as far as there is any.
struct Decisions {
  // Probabilities are the softmax, of several labels the sigmoid, of the logits divided by it (Guo
  // et al., ICML 2017): fit_temperature(), of labels fit_label_temperature().
  std::optional<double> temperature = {};
  std::optional<Thresholds> thresholds = {};
  std::optional<RejectThreshold> reject = {};

  bool operator==(const Decisions&) const = default;
};

// A number; to_json() of thresholds; {"accuracy": …, "threshold": …, "calibrated": …}.
inline constexpr char kTemperature[] = "temperature", kThresholds[] = "thresholds",
                      kReject[] = "reject";
// What a file's metadata name; Error(weights) if it is none, or a temperature that is no finite
// number above 0.
Decisions decisions_of(const std::map<std::string, std::string>& metadata,
                       const std::filesystem::path& path);
// Writes them into the metadata, in place of what stands there.
void put_decisions(std::map<std::string, std::string>& metadata, const Decisions& decisions);

// "multilabel" where the classes are labels, of which an image may have several; else the metadata
// name no task, or "multiclass". Error(weights) for any other text.
inline constexpr char kTask[] = "task", kMultilabel[] = "multilabel";
Task task_of(const std::map<std::string, std::string>& metadata, const std::filesystem::path& path);

// The epsilon of batch norms that a file's metadata names, if any; Error(weights) if it is none.
std::optional<double> norm_epsilon_of(const std::map<std::string, std::string>& metadata,
                                      const std::filesystem::path& path);

}  // namespace engine
