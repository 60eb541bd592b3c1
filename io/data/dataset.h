// Data sets: which images there are, and the class of each. Reads torchvision's ImageFolder layout;
// idx files come from io/idx.h. Decoding, resizing and batching are for others.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "io/images/image.h"

namespace engine {

class Pack;

struct Sample {
  std::string path;  // of the image file; for an image in an idx file "FILE#position"
  int label = 0;     // position in `Dataset::classes`
};

struct Dataset {
  std::vector<std::string> classes;
  std::vector<Sample> samples;
  std::vector<Image> images;  // one per sample if they are in memory already, else empty
  // Where the images were decoded and resized to beforehand, or null; may serve several data sets.
  std::shared_ptr<const Pack> pack;
  std::vector<uint32_t> records;  // with a pack: the position in it of each sample
};

// Of class names: as bytes (torchvision's), or with numbers in them by their value and in upper or
// lower case alike (timm's), so that "2" comes before "10".
enum class ClassOrder { bytes, natural };
void sort_classes(std::vector<std::string>& names, ClassOrder order);

struct TrainingData {
  Dataset train, validation;
  std::optional<Dataset> test;
};

// --data of a training run: ROOT/train, ROOT/val (or valid, validation) and, if there is one,
// ROOT/test; or a folder with MNIST's idx files. The classes are those of train, each with at least
// one image; a class that only validation or test has is an Error.
TrainingData read_training_data(const std::filesystem::path& root,
                                ClassOrder order = ClassOrder::bytes);

// One folder of class folders. Sample order is torchvision's (names compared as bytes), hidden files and folders are left out, symbolic links are followed, a link loop is an
// Error.
Dataset read_image_folder(const std::filesystem::path& folder,  // classes: its folders, none empty
                          ClassOrder order = ClassOrder::bytes);
Dataset read_image_folder(const std::filesystem::path&
                              folder,  // classes: given, some may lack images, others are an Error
                          const std::vector<std::string>& classes);

// The class folders in a folder, sorted as bytes; none is an Error.
std::vector<std::string> class_folders(const std::filesystem::path& folder);

// ROOT/val, ROOT/valid or ROOT/validation, if there is one; two of them are an Error.
std::optional<std::filesystem::path> validation_folder(const std::filesystem::path& root);

// All images below a folder, in torchvision's order.
std::vector<std::string> list_images(const std::filesystem::path& folder);

// By extension, in upper or lower case: .jpg .jpeg .png .ppm .pgm .pnm .bmp .tga .gif.
bool has_image_extension(const std::filesystem::path& file);

}  // namespace engine
