#include "tools/predict/features_file.h"

#include "engine/error.h"
#include "io/files/csv.h"

namespace engine {
namespace {

namespace fs = std::filesystem;

const fs::path& checked(const fs::path& file) {
  require(file.extension() == ".npy" && !file.stem().empty(), Failure::usage,
          "--embeddings {}: a name that ends in .npy", file.string());
  return file;
}

}  // namespace

FeaturesFile::FeaturesFile(const fs::path& file, int64_t features)
    : array_(checked(file), {features}), paths_(fs::path(file).replace_extension(".csv")) {
  paths_.write("path\n");
}

void FeaturesFile::append(const std::string& path, std::span<const float> features) {
  array_.append(features);
  paths_.write(csv_field(path) + '\n');
}

void FeaturesFile::commit() {
  paths_.commit();
  array_.commit();
}

}  // namespace engine
