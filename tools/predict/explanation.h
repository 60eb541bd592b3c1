// The folder of --explain: class activation maps as pictures, as contact sheets and as numbers.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "io/files/atomic_file.h"
#include "io/files/npy.h"
#include "tools/predict/activation_map.h"
#include "tools/predict/prediction.h"

namespace engine {

// The map of one image for one of its classes.
struct Explanation {
  ActivationMap map;
  int class_index = 0;
  std::string file;  // of the picture, in the folder
  Image shown;       // for the sheet: the picture and the overlay side by side
};

// Images come one after the other, and no more than a sheet of them is in memory.
// tools/predict/README.md lists the files.
class ExplanationFolder {
 public:
  // Makes the folder, which must be empty; maps have that size. The texts of sheets are in `font`.
  ExplanationFolder(const std::filesystem::path& folder, int height, int width,
                    std::vector<std::string> classes, std::filesystem::path font);

  // Writes the picture of an image; any thread may call it. `picture` is what the network sees.
  Explanation draw(const Image& picture, ActivationMap map, int class_index,
                   const Prediction& prediction) const;
  // Counts it among the others; one call at a time, in the order of the images.
  void append(Explanation explanation, const Prediction& prediction);
  void commit();

  static constexpr int kImagesOfSheet = 60;

 private:
  void write_sheet();

  std::filesystem::path folder_;
  std::vector<std::string> classes_;
  std::filesystem::path font_;
  NpyWriter maps_;
  AtomicFile table_;
  std::vector<Image> shown_;
  std::vector<std::string> texts_;
  int sheets_ = 0;
};

}  // namespace engine
