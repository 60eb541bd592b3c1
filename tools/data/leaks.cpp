#include "tools/data/leaks.h"

#include <fmt/format.h>

#include <algorithm>

#include "engine/error.h"
#include "io/data/groups.h"
#include "io/data/pack.h"
#include "io/files/atomic_file.h"
#include "io/images/decode.h"
#include "tools/cli/terminal.h"

namespace engine {
namespace {

namespace fs = std::filesystem;

std::vector<const Dataset*> sets_of(std::span<const NamedSet> parts) {
  std::vector<const Dataset*> sets;
  for (const NamedSet& part : parts) sets.push_back(part.data);
  return sets;
}

const Sample& sample_at(std::span<const NamedSet> parts, const Copy& copy) {
  return parts[copy.set].data->samples[copy.sample];
}

std::string class_at(std::span<const NamedSet> parts, const Copy& copy) {
  return label_text(*parts[copy.set].data, sample_at(parts, copy));
}

// The first copy whose label is not that of the first one, or the end.
Copies::const_iterator contradiction(std::span<const NamedSet> parts, const Copies& copies) {
  return std::ranges::find_if(copies, [&](const Copy& copy) {
    return class_at(parts, copy) != class_at(parts, copies.front());
  });
}

// Why the image cannot be read; empty if it can.
std::string fault_of(const Dataset& set, size_t i) {
  if (!set.images.empty()) return "";
  const std::string& path = set.samples[i].path;
  if (set.pack) return set.pack->record(set.records[i]).readable() ? "" : path;
  try {
    read_image(path, 1);
    return "";
  } catch (const Error& error) {
    if (error.kind != Failure::data) throw;
    return error.what();
  }
}

std::string counted(size_t count, const char* one, const char* several) {
  return count == 1 ? fmt::format("1 {}", one) : fmt::format("{} {}", count, several);
}

std::string place(std::span<const NamedSet> parts, const Copy& copy) {
  return fmt::format("in {} as {}", parts[copy.set].name, sample_at(parts, copy).path);
}

}  // namespace

std::vector<NamedSet> parts_of(const TrainingData& data) {
  std::vector<NamedSet> parts = {{"train", &data.train}, {"val", &data.validation}};
  if (data.test) parts.push_back({"test", &*data.test});
  return parts;
}

Leaks find_leaks(std::span<const NamedSet> parts, std::span<const Copies> duplicates) {
  Leaks leaks{.groups = shared_groups(sets_of(parts))};
  for (const Copies& copies : duplicates) {
    if (copies.front().set != copies.back().set) leaks.images.push_back(copies);
    if (contradiction(parts, copies) != copies.end()) leaks.conflicts.push_back(copies);
  }
  return leaks;
}

std::vector<std::string> describe(const Leaks& leaks, std::span<const NamedSet> parts) {
  std::vector<std::string> lines;
  if (!leaks.images.empty()) {
    const Copies& first = leaks.images[0];
    lines.push_back(fmt::format("{} in several parts, the first {} and {}",
                                counted(leaks.images.size(), "image is", "images are"),
                                place(parts, first.front()), place(parts, first.back())));
  }
  if (!leaks.conflicts.empty()) {
    const Copies& first = leaks.conflicts[0];
    const Copy& other = *contradiction(parts, first);
    lines.push_back(
        fmt::format("{} with several labels, the first is \"{}\" {} and \"{}\" {}",
                    counted(leaks.conflicts.size(), "image has copies", "images have copies"),
                    class_at(parts, first.front()), place(parts, first.front()),
                    class_at(parts, other), place(parts, other)));
  }
  if (!leaks.groups.empty()) {
    const Copies& first = leaks.groups[0];
    lines.push_back(fmt::format("{} in several parts, the first, \"{}\", {} and {}",
                                counted(leaks.groups.size(), "group is", "groups are"),
                                sample_at(parts, first.front()).group, place(parts, first.front()),
                                place(parts, first.back())));
  }
  return lines;
}

void require_readable(std::span<const NamedSet> parts) {
  for (const NamedSet& part : parts) {
    std::string first;
    const size_t images = part.data->samples.size();
    for (size_t i = 0; i < images; ++i) {
      const std::string fault = fault_of(*part.data, i);
      if (fault.empty()) break;
      if (i == 0) first = fault;
      require(i + 1 < images, Failure::data, "{}: none of its {} images can be read, the first: {}",
              part.name, images, first);
    }
  }
}

void check_leaks(const Leaks& leaks, const ImageSetOptions& options) {
  require(leaks.count() == 0 || options.on_leak == OnLeak::say, Failure::data,
          "--on-leak error: {} in several parts, {} with several labels, {} in several parts",
          counted(leaks.images.size(), "image is", "images are"),
          counted(leaks.conflicts.size(), "image is", "images are"),
          counted(leaks.groups.size(), "group is", "groups are"));
}

Leaks report_leaks(std::span<const NamedSet> parts, const ImageSetOptions& options,
                   const ParallelOptions& parallel, const fs::path& folder) {
  const std::vector<const Dataset*> sets = sets_of(parts);
  std::vector<std::string> names;
  for (const NamedSet& part : parts) names.push_back(part.name);
  std::vector<Copies> copies;
  if (!options.no_duplicate_check) copies = find_duplicates(sets, false, parallel);
  Leaks leaks = find_leaks(parts, copies);
  for (const std::string& line : describe(leaks, parts)) say(paint(line, Colour::yellow, stderr));
  if (!folder.empty() && leaks.images.size() + leaks.conflicts.size() > 0) {
    std::erase_if(copies, [&](const Copies& same) {
      return same.front().set == same.back().set && contradiction(parts, same) == same.end();
    });
    write_file_atomically(folder / "duplicates.csv", duplicates_csv(copies, sets, names));
    say(fmt::format("all of them are in {}", (folder / "duplicates.csv").string()));
  }
  if (!folder.empty() && !leaks.groups.empty()) {
    write_file_atomically(folder / "shared_groups.csv", groups_csv(leaks.groups, sets, names));
    say(fmt::format("all groups are in {}", (folder / "shared_groups.csv").string()));
  }
  check_leaks(leaks, options);
  return leaks;
}

}  // namespace engine
