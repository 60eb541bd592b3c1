// Data sets: which images there are, and the class of each. torchvision's ImageFolder layout is
// read here, idx files in idx.h. Decoding, resizing and batching are left to others.
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
  std::string path;  // the image file; for an image in an idx file "FILE#position"
  int label = 0;     // the position in `Dataset::classes`
};

struct Dataset {
  std::vector<std::string> classes;
  std::vector<Sample> samples;
  std::vector<Image> images;  // one per sample if they are in memory already, else empty
  // The images decoded and resized beforehand, or null. A pack may serve several data sets.
  std::shared_ptr<const Pack> pack;
  std::vector<uint32_t> records;  // the position of each sample in the pack, if there is one
};

// The order of class names: as bytes (torchvision's), or with the numbers in them by their value
// and without regard to case (timm's), so that "2" comes before "10".
enum class ClassOrder { bytes, natural };
void sort_classes(std::vector<std::string>& names, ClassOrder order);

struct TrainingData {
  Dataset train, validation;
  std::optional<Dataset> test;
};

// Reads --data of a training run: ROOT/train, ROOT/val (or valid, validation) and ROOT/test if it
// is there, or a folder with MNIST's idx files. The classes are those of train, each with at least
// one image; a class that only validation or test has is an Error.
TrainingData read_training_data(const std::filesystem::path& root,
                                ClassOrder order = ClassOrder::bytes);

// Reads one folder of class folders. The samples are in torchvision's order (names compared as
// bytes). Hidden files and folders are left out, symbolic links are followed, and a loop of links
// is an Error. Without `classes` the classes are the folders, none of which may be empty; with them
// a class may lack images, and a folder of another name is an Error.
Dataset read_image_folder(const std::filesystem::path& folder,
                          ClassOrder order = ClassOrder::bytes);
Dataset read_image_folder(const std::filesystem::path& folder,
                          const std::vector<std::string>& classes);

// The names of the class folders in a folder, sorted as bytes. It is an Error if there is none.
std::vector<std::string> class_folders(const std::filesystem::path& folder);

// ROOT/val, ROOT/valid or ROOT/validation, if there is one; two of them are an Error.
std::optional<std::filesystem::path> validation_folder(const std::filesystem::path& root);

// All images below a folder, in torchvision's order.
std::vector<std::string> list_images(const std::filesystem::path& folder);

// Whether the extension, in upper or lower case, is one of .jpg .jpeg .jfif .mpo .png .webp .tif
// .tiff .ppm .pgm .pbm .pnm .bmp .tga .gif.
bool has_image_extension(const std::filesystem::path& file);

}  // namespace engine
