// What a study says: the table with its head, and a sentence for each model.
#pragma once

#include <span>
#include <string>
#include <vector>

#include "tools/bench/rates.h"
#include "tools/scale/facts.h"
#include "tools/scale/summary.h"

namespace engine {

// Head, a row per configuration with the published rates of the same one below it, sentences.
std::string report(const StudyFacts& facts, std::span<const Summary> summaries,
                   std::span<const Rate> published);

// "4 GPUs: 3.7x one, 92%; lost 5% to all-reduce, 3% to data", of a configuration with a baseline.
std::string sentence(const Summary& summary, const std::string& unit);

// The published rates of the models of a study, for the plots: published.csv.
std::string published_csv(std::span<const Rate> published, std::span<const std::string> models);

// All of the files with the ending .json in the folder, by name.
std::vector<Rate> read_published(const std::filesystem::path& folder);

}  // namespace engine
