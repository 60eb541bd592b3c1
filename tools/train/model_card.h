// The model card of a run, model_card.md: data, split, recipe, measures, limits and hashes as
// people read them, in the sections of Mitchell et al., "Model Cards for Model Reporting" (2019).
#pragma once

#include <nlohmann/json.hpp>
#include <string>

#include "tools/train/train_shared.h"

namespace engine {

// What is in each part: an array of {"name", "images", "groups", "classes": {NAME: images}}; groups
// is 0 where none are known.
nlohmann::ordered_json describe_parts(const TrainingData& data);

struct CardFacts {
  std::string name;                       // of the run's folder
  nlohmann::ordered_json parts;           // describe_parts()
  nlohmann::ordered_json arguments;       // args.json
  nlohmann::ordered_json environment;     // env.json
  nlohmann::ordered_json metrics;         // metrics.json: the parts that were scored
  std::string preprocess;                 // describe(Preprocess)
  std::string command;                    // as a shell reads it
  std::string weights_digest;             // SHA-256 of the file weights/best.safetensors
  std::string names_digest, data_digest;  // of the names, labels and groups; of the images
  bool shared_images = false;             // duplicates.csv or shared_groups.csv is there
};

// As Markdown. What the facts lack is left out.
std::string model_card(const CardFacts& facts);

// Gathers the facts of a run that has been scored, and writes its model_card.md. Process 0 calls
// it, at the end.
void write_model_card(const TrainShared& shared);

}  // namespace engine
