#include "io/data/dataset.h"

#include <fstream>
#include <functional>

#include "engine/error.h"
#include "tests/support.h"

using namespace engine;
using namespace engine::test;
namespace fs = std::filesystem;

namespace {

void touch(const fs::path& file) {
  fs::create_directories(file.parent_path());
  std::ofstream(file) << "x";
}

// Makes train/{a,b} and val/b with one image each.
void small_data_set(const fs::path& root) {
  touch(root / "train/a/1.jpg");
  touch(root / "train/b/2.png");
  touch(root / "val/b/3.jpg");
}

}  // namespace

TEST_CASE("image extensions are known in upper and lower case") {
  for (const char* name : {"a.jpg", "a.JPEG", "a.jfif", "a.MPO", "a.Png", "a.webp", "a.TIF",
                           "a.tiff", "a.ppm", "a.pgm", "a.pbm", "a.pnm", "a.bmp", "a.tga", "a.GIF"})
    CHECK(has_image_extension(name));
  for (const char* name : {"a.txt", "jpg", "a.jpg.txt", "a.dcm", "a", "a."})
    CHECK_FALSE(has_image_extension(name));
}

TEST_CASE("runs among the class folders are no classes") {
  TemporaryFolder folder;
  const fs::path root = folder.path();
  for (const char* name : {"a/1.jpg", "b/2.jpg", "run/args.json", "begun/run.lock",
                           "runs/one/args.json", "runs/two/args.json", "deep/sub/3.jpg"})
    touch(root / name);
  CHECK(class_folders(root) == std::vector<std::string>{"a", "b", "deep"});
  CHECK(read_image_folder(root).classes == std::vector<std::string>{"a", "b", "deep"});
  CHECK_FALSE(has_class_folders(root / "runs"));
}

TEST_CASE("an image folder is read in torchvision's order") {
  TemporaryFolder folder;
  const fs::path root = folder.path();
  // Names are compared as bytes, not by numbers or letters: "10" < "2" < "B" < "a" < "é".
  for (const char* name : {"a", "B", "10", "2", "é"}) touch(root / name / "0.jpg");
  // Folders are sorted by their whole path ("sub-x" < "sub/deep"), a folder's own files come first,
  // and hidden and other files are left out.
  for (const char* name : {"z.jpg", "sub/y.jpg", "sub-x/w.PNG", "sub/deep/v.jpeg", "note.txt",
                           ".hidden.jpg", ".cache/u.jpg", "10.jpg", "9.jpg"})
    touch(root / "2" / name);
  touch(root / ".ipynb_checkpoints/x.jpg");
  touch(root / "loose.jpg");

  const Dataset data = read_image_folder(root);
  CHECK(data.classes == std::vector<std::string>{"10", "2", "B", "a", "é"});
  std::vector<std::string> names;
  for (const Sample& sample : data.samples)
    if (sample.label == 1) names.push_back(fs::relative(sample.path, root / "2").string());
  CHECK(names == std::vector<std::string>{"0.jpg", "10.jpg", "9.jpg", "z.jpg", "sub/y.jpg",
                                          "sub-x/w.PNG", "sub/deep/v.jpeg"});
  CHECK(data.samples.size() == 4 + names.size());
  CHECK(data.images.empty());
  CHECK(list_images(root / "2").size() == names.size());
}

TEST_CASE("links are followed and loops are refused") {
  TemporaryFolder folder, elsewhere;
  touch(elsewhere.path() / "pictures/1.jpg");
  fs::create_directories(folder.path() / "b");
  fs::create_directory_symlink(elsewhere.path() / "pictures", folder.path() / "a");
  fs::create_symlink(elsewhere.path() / "pictures/1.jpg", folder.path() / "b/2.jpg");
  fs::create_symlink("missing", folder.path() / "b/3.jpg");  // listed, so that reading it names it
  const Dataset data = read_image_folder(folder.path());
  CHECK(data.classes == std::vector<std::string>{"a", "b"});
  CHECK(data.samples.size() == 3);

  fs::create_directory_symlink("..", folder.path() / "b/up");
  CHECK(mentions(message_of([&] { read_image_folder(folder.path()); }), "up"));
}

TEST_CASE("training data: train fixes the classes, validation may lack some") {
  for (const char* name : {"val", "valid", "validation"}) {
    TemporaryFolder folder;
    touch(folder.path() / "train/a/1.jpg");
    touch(folder.path() / "train/b/2.jpg");
    touch(folder.path() / name / "b/3.jpg");
    TrainingData data = read_training_data(folder.path());
    CHECK(data.train.samples.size() == 2);
    CHECK(data.validation.classes == data.train.classes);
    REQUIRE(data.validation.samples.size() == 1);
    CHECK(data.validation.samples[0].label == 1);
    CHECK_FALSE(data.test.has_value());
    touch(folder.path() / "test/a/4.jpg");
    data = read_training_data(folder.path());
    REQUIRE(data.test.has_value());
    CHECK(data.test->samples[0].label == 0);
  }
}

TEST_CASE("bad training data are named") {
  TemporaryFolder folder;
  const fs::path root = folder.path();
  const auto error = [&] { return message_of([&] { read_training_data(root); }); };

  CHECK(mentions(message_of([&] { read_training_data(root / "nowhere"); }),
                 "nowhere: no such folder"));
  touch(root / "file");
  CHECK(mentions(message_of([&] { read_training_data(root / "file"); }), "not a folder"));
  fs::remove(root / "file");

  SUBCASE("class folders without train") {
    touch(root / "cat/1.jpg");
    CHECK(mentions(error(), "no train folder"));
    CHECK(mentions(error(), "DIR/train/CLASS"));
  }
  SUBCASE("no validation folder") {
    touch(root / "train/a/1.jpg");
    CHECK(mentions(error(), "no validation folder"));
  }
  SUBCASE("two validation folders") {
    small_data_set(root);
    touch(root / "valid/a/1.jpg");
    CHECK(mentions(error(), "both val and valid"));
  }
  SUBCASE("an empty class") {
    small_data_set(root);
    touch(root / "train/void/readme.txt");
    CHECK(mentions(error(), (root / "train/void").string() + ": no images"));
  }
  SUBCASE("a validation class that train lacks") {
    small_data_set(root);
    touch(root / "val/zebra/1.jpg");
    CHECK(mentions(error(), "class \"zebra\" is not one of the 2 classes"));
  }
  SUBCASE("no classes, and no images at all") {
    small_data_set(root);
    fs::remove(root / "val/b/3.jpg");
    CHECK(mentions(error(), "no images"));
    fs::remove_all(root / "train/a");
    fs::remove_all(root / "train/b");
    CHECK(mentions(error(), "no class folders"));
  }
}

TEST_CASE("a folder of images with given classes: some may lack images, others are an error") {
  TemporaryFolder folder;
  touch(folder.path() / "b/1.jpg");
  const std::vector<std::string> classes = {"a", "b", "c"};
  const Dataset data = read_image_folder(folder.path(), classes);
  CHECK(data.classes == classes);
  REQUIRE(data.samples.size() == 1);
  CHECK(data.samples[0].label == 1);
  touch(folder.path() / "d/1.jpg");
  CHECK(mentions(message_of([&] { read_image_folder(folder.path(), classes); }), "class \"d\""));
}

TEST_CASE("nothing is left out in silence: files that are not used are counted by kind") {
  TemporaryFolder folder;
  const fs::path root = folder.path();
  small_data_set(root);
  for (const char* name : {"train/a/x.heic", "train/a/y.HEIC", "train/b/notes", "train/b/.DS_Store",
                           "train/9.jpg", "train/.cache/z.jpg", "train/.cache/deep/z.jpg",
                           "readme.md", "extra/1.jpg", "extra/c/2.jpg"})
    touch(root / name);
  const DataNotes notes = read_training_data(root).notes;
  REQUIRE(notes.files.size() == 3);
  CHECK(notes.files[0].ignored == Ignored{{".md", 1}, {"in extra/", 2}});
  CHECK(notes.files[1].ignored == Ignored{{".heic", 2},
                                          {"hidden", 3},
                                          {"without extension", 1},
                                          {".jpg outside the class folders", 1}});
  CHECK(notes.files[1].images == 2);
  CHECK(notes.files[1].files() == 9);
  CHECK(describe(notes.files[0]) ==
        root.string() + ": of 3 files 0 are images; not used: 1 .md, 2 in extra/");
  CHECK(notes.files[2].ignored.empty());
}

TEST_CASE("parts are found in upper and lower case; a test folder without labels is passed over") {
  TemporaryFolder folder;
  const fs::path root = folder.path();
  touch(root / "Train/a/1.jpg");
  touch(root / "Train/b/2.jpg");
  touch(root / "VAL/b/3.jpg");
  touch(root / "Test/4.jpg");
  const TrainingData data = read_training_data(root);
  CHECK(data.train.samples.size() == 2);
  CHECK(data.validation.samples.size() == 1);
  CHECK_FALSE(data.test.has_value());
  REQUIRE(data.notes.lines.size() == 1);
  CHECK(mentions(data.notes.lines[0], "Test: passed over, it has no class folders"));
  CHECK(data.notes.files.back().ignored == Ignored{{".jpg without a label", 1}});
  touch(root / "training/a/1.jpg");
  CHECK(mentions(message_of([&] { read_training_data(root); }), "which is the training set?"));
}

TEST_CASE("a class whose images are all unreadable is an error") {
  const Dataset data{.classes = {"a", "b", "none"}, .samples = {{"1", 0}, {"2", 1}, {"3", 1}}};
  require_readable_classes(data, {});
  const std::vector<uint32_t> one = {2}, both = {1, 2};
  require_readable_classes(data, one);
  CHECK(mentions(message_of([&] { require_readable_classes(data, both); }),
                 "class \"b\": none of its 2 images can be read, the first is 2"));
}

TEST_CASE("a real image folder") {
  const std::optional<fs::path> root = test_data();
  if (!root || !fs::exists(*root / "ham10000_224")) return note_skipped("no ham10000_224");
  const TrainingData data = read_training_data(*root / "ham10000_224");
  CHECK(data.train.classes ==
        std::vector<std::string>{"akiec", "bcc", "bkl", "df", "mel", "nv", "vasc"});
  CHECK(data.train.samples.size() == 2661);
  CHECK(data.validation.samples.size() == 953);
}
