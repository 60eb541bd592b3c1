// What engine finetune chooses where engine train's flags are not given: the recipe that did best
// in the comparison of README.md, fitted to the number and the size of the images and to what the
// device can do in a time that one waits for.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "io/data/split.h"

namespace engine {

struct FinetuneFacts {
  std::string model;
  int64_t images = 0;       // all that are not in a part of their own yet
  std::string part_of;      // the data set of which the folder is one part; empty: it is whole
  bool validation = false;  // there are images to validate with
  bool test = false;        // and to test with
  int image_side = 0;       // the median of their shorter sides, pixels
  int model_side = 0;       // of the input that the model is published for, pixels
  bool published = true;    // there are published weights of the model
  int ranks = 1;            // devices that share an update
  bool gpu = false;         // they are GPUs
  std::optional<int> side, batch, epochs;  // as far as they are given
  std::optional<Shares> split;             // likewise
  // The largest batch of a rank that memory holds at that side.
  std::function<int(int side)> largest_batch;
  // Images per second that training takes at that side; empty: so many that nobody waits.
  std::function<double(int side)> speed;
};

// A flag of engine train, its value (empty: it takes none) and why it is chosen.
struct ChosenFlag {
  std::string name, value, why;
};

struct FinetuneRecipe {
  std::vector<ChosenFlag> flags;
  std::vector<std::string> remarks;  // what to know beside the flags
};

// The flags whose keys (Flag::key()) are not `given`.
FinetuneRecipe finetune_recipe(const FinetuneFacts& facts, const std::set<std::string>& given);

}  // namespace engine
