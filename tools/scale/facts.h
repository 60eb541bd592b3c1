// What a study was measured with: the machine, the program, the models; and study.json, by which a
// study that goes on knows that it is the same.
#pragma once

#include <filesystem>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <utility>
#include <vector>

#include "tools/scale/study.h"

namespace engine {

// The head of the table, "host", "platform", "versions" and so on, in order.
using Facts = std::vector<std::pair<std::string, std::string>>;

struct StudyFacts {
  Facts machine;            // host, platform, processor, devices, links, versions
  Facts models;             // of each: classes, input, parameters, size in fp32
  std::string unit;         // of a rank, in the singular: "GPU", "core" or "rank"
  std::string fingerprint;  // JSON: what must be the same for rows to stand in one file
};

// `processes` describes those of a launcher; empty: there is one.
StudyFacts facts_of(const Study& study, const std::vector<std::string>& hardware, int classes,
                    const std::string& processes = "");

// How devices are connected, from the links of all pairs: "NVLink" if all are alike, else how many
// are of each kind.
std::string describe_links(const std::vector<std::string>& links);

// If study.json is in the folder, its fingerprint must be this one, else Error(usage) names what
// differs.
void check_study(const std::filesystem::path& folder, const StudyFacts& facts);
void write_study(const std::filesystem::path& folder, const StudyFacts& facts);

}  // namespace engine
