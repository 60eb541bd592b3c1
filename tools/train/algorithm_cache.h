// What a machine's earlier runs found out about forms and algorithms, so that later ones need not
// time them again before their first step.
#pragma once

#include <filesystem>
#include <map>
#include <string>

namespace engine {

class AlgorithmCache {
 public:
  using Choices = std::map<std::string, std::string>;  // as Backend::algorithms()

  // One file for each identity, a text with all that a choice depends on beside its key: the
  // device, its driver, the libraries, the build, and how forms are restricted.
  AlgorithmCache(const std::filesystem::path& folder, const std::string& identity);

  // Nothing where there is no such file, or where it is damaged or of another identity.
  Choices load() const;
  // Adds to what is kept. A cache that cannot be written costs the next run some seconds, and is
  // no error.
  void add(const Choices& chosen) const;

  const std::filesystem::path& path() const { return path_; }

 private:
  std::string identity_;
  std::filesystem::path path_;
};

}  // namespace engine
