// Data sets: which images there are, and the class of each. torchvision's ImageFolder layout is
// read here, idx files in idx.h. Decoding, resizing and batching are left to others.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "io/images/image.h"
#include "kernels/targets.h"

namespace engine {

class Pack;

struct Sample {
  std::string path;        // the image file; for an image in an idx file "FILE#position"
  int label = 0;           // of Task::classes: the position in `Dataset::classes`
  std::string group = {};  // whose images stay in one part, a patient's perhaps; empty: no group
  int fold = 0;            // of a cross-validation, from 1 on; 0: none
  std::vector<Presence> labels = {};  // of Task::labels, by the position in `Dataset::classes`
};

// How many files lie beside the images of a folder, by what they are: their extension in lower
// case, "hidden", "without extension", …
using Ignored = std::map<std::string, size_t>;

struct Dataset {
  Task task = Task::classes;         // whether an image has one class or several labels
  std::vector<std::string> classes;  // the names of the classes or of the labels
  std::vector<Sample> samples;
  std::vector<Image> images;  // one per sample if they are in memory already, else empty
  // The images decoded and resized beforehand, or null. A pack may serve several data sets.
  std::shared_ptr<const Pack> pack;
  std::vector<uint32_t> records;  // the position of each sample in the pack, if there is one
  Ignored ignored;                // of the folder that was read
};

// What a sample is said to show: its class; of several labels those it has, "ring|star", with a
// question mark behind those that are missing. Two samples say the same where the texts are equal.
std::string label_text(const Dataset& data, const Sample& sample);

// "0", "1" or, where it is missing, nothing; a column of such texts is called "y:" and the label.
std::string_view text_of(Presence presence);
inline constexpr char kLabelColumn[] = "y:";

// Calls visit(position) for the class of a sample, or for each label that it has for certain.
template <class Visit>
void for_each_class(const Dataset& data, const Sample& sample, Visit visit) {
  if (data.task == Task::classes) visit(static_cast<size_t>(sample.label));
  for (size_t c = 0; c < sample.labels.size(); ++c)
    if (sample.labels[c] == Presence::present) visit(c);
}

std::vector<size_t> images_by_class(const Dataset& data);

// The order of class names: as bytes (torchvision's), or with the numbers in them by their value
// and without regard to case (timm's), so that "2" comes before "10".
enum class ClassOrder { bytes, natural };
void sort_classes(std::vector<std::string>& names, ClassOrder order);

// What was found in a place: images, and files that are not used.
struct FileCount {
  std::string where;  // a folder or a file of labels
  size_t images = 0;
  Ignored ignored = {};

  size_t files() const;  // all of them
};
// "data/train: of 48 files 8 are images; not used: 20 .webp, 20 .tif"
std::string describe(const FileCount& count);

// What people are to be told of a data set beside its images, so that nothing is left out in
// silence.
struct DataNotes {
  std::vector<FileCount> files;
  std::vector<std::string> lines;
};

struct TrainingData {
  Dataset train, validation;
  std::optional<Dataset> test = {};
  DataNotes notes = {};
  bool drawn = false;  // parts were chosen at random, so that no folder or file tells them
};

// Where the parts of a data set lie: folders called train or training; val, valid or validation;
// test or testing, in upper or lower case. Two of one part are an Error.
struct PartFolders {
  std::optional<std::filesystem::path> train, validation, test;
  FileCount others;  // what lies beside them
};
PartFolders part_folders(const std::filesystem::path& root);

// Reads --data of a training run: the folders of the parts, or a folder with MNIST's idx files. The
// classes are those of train, each with at least one image; a class that only validation or test
// has is an Error. A test folder without class folders has no labels: it is passed over.
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

// The names of the class folders in a folder, sorted as bytes, without those of training runs. It
// is an Error if there is none.
std::vector<std::string> class_folders(const std::filesystem::path& folder);

bool has_class_folders(const std::filesystem::path& folder);

// The images of a test folder with labels; without class folders there are none, and a note tells.
std::optional<Dataset> read_test_folder(const std::filesystem::path& folder,
                                        const std::vector<std::string>& classes, DataNotes& notes);

// All images below a folder, in torchvision's order. Adds the other files to `ignored`.
std::vector<std::string> list_images(const std::filesystem::path& folder,
                                     Ignored* ignored = nullptr);

// Throws Error(data) if a class or label has images and all of them are among the unreadable ones,
// which are positions in the data set.
void require_readable_classes(const Dataset& data, std::span<const uint32_t> unreadable);

// Whether the extension, in upper or lower case, is one of .jpg .jpeg .jfif .mpo .png .webp .tif
// .tiff .ppm .pgm .pbm .pnm .bmp .tga .gif.
bool has_image_extension(const std::filesystem::path& file);

}  // namespace engine
