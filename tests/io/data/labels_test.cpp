#include "io/data/labels.h"

#include <fstream>

#include "engine/error.h"
#include "tests/support.h"

using namespace engine;
using namespace engine::test;
namespace fs = std::filesystem;

TEST_CASE("labels: names or indices, relative or absolute paths, with or without a split") {
  TemporaryFolder folder;
  const fs::path root = folder.path(), file = root / "labels.csv";
  for (const char* name : {"a.jpg", "b.jpg", "c.jpg"}) write_text(root / "sub" / name, "x");
  const std::string c = (root / "sub/c.jpg").string();

  write_text(file, "label,note,path\ndog,,sub/b.jpg\ncat,!,sub/a.jpg\ndog,," + c + "\n");
  Labels labels = read_labels(file, {.root = root});
  CHECK(labels.kind == LabelKind::names);
  CHECK(labels.all.classes == std::vector<std::string>{"cat", "dog"});
  CHECK(labels.parts.empty());
  CHECK(labels.lines == std::vector<int>{2, 3, 4});
  REQUIRE(labels.all.samples.size() == 3);
  CHECK(labels.all.samples[0].label == 1);
  CHECK(labels.all.samples[1].label == 0);
  CHECK(labels.all.samples[2].path == c);

  write_text(file, "path,label,split\nsub/b.jpg,1,train\nsub/a.jpg,0,valid\nsub/c.jpg,0,train\n");
  labels = read_labels(file, {.root = root});
  CHECK(labels.kind == LabelKind::indices);
  CHECK(labels.all.classes == std::vector<std::string>{"0", "1"});
  CHECK(labels.parts == std::vector{Part::train, Part::validation, Part::train});
  const TrainingData data = training_data(labels, file);
  CHECK(data.train.samples.size() == 2);
  CHECK(data.validation.samples.size() == 1);
  CHECK_FALSE(data.test.has_value());

  const std::vector<std::string> classes = {"zero", "one", "two"};
  CHECK(read_labels(file, {.root = root, .classes = classes}).all.samples[0].label == 1);
  const std::vector<std::string> digits = {"1", "0"};  // names that are numbers
  labels = read_labels(file, {.root = root, .classes = digits});
  CHECK(labels.kind == LabelKind::names);
  CHECK(labels.all.samples[0].label == 0);

  write_text(file, "path,label\nsub/a.jpg,x10\nsub/b.jpg,x9\n");
  CHECK(read_labels(file, {.root = root}).all.classes == std::vector<std::string>{"x10", "x9"});
  CHECK(read_labels(file, {.root = root, .order = ClassOrder::natural}).all.classes ==
        std::vector<std::string>{"x9", "x10"});
}

TEST_CASE("bad labels are told with their line") {
  TemporaryFolder folder;
  const fs::path root = folder.path(), file = root / "labels.csv";
  for (const char* name : {"a.jpg", "b.jpg"}) write_text(root / name, "x");
  const auto error = [&](std::string_view text, std::span<const std::string> classes = {}) {
    write_text(file, text);
    return message_of(
        [&] { training_data(read_labels(file, {.root = root, .classes = classes}), file); });
  };
  const std::vector<std::string> known = {"cat", "dog"};
  CHECK(mentions(error("path,label\na.jpg,cat\nb.jpg,zebra\n", known),
                 "labels.csv, line 3: class \"zebra\" is not one of the 2 classes"));
  CHECK(mentions(error("path,label\na.jpg,1\nb.jpg,2\n", known), "line 2: class \"1\""));
  CHECK(mentions(error("path,label,split\na.jpg,cat,train\nb.jpg,dog,val\n"),
                 "line 3: class \"dog\" has no image to train with"));
  CHECK(mentions(error("path,label\na.jpg,cat\nno.jpg,cat\n"), "line 3: no file"));
  CHECK(mentions(error("path,label\na.jpg,cat\n./a.jpg,cat\n"), "line 3: ./a.jpg is in line 2"));
  CHECK(mentions(error("path,label\na.jpg,\n"), "line 2: the label is empty"));
  CHECK(mentions(error("path,label,split\na.jpg,cat,dev\n"), "line 2: split \"dev\""));
  CHECK(mentions(error("file,label\na.jpg,cat\n"), "line 1: the header needs"));
  CHECK(mentions(error("path,label\n"), "no rows"));
  CHECK(mentions(error("path,label,label\na.jpg,cat,dog\n"), "two columns are called label"));
  CHECK(mentions(message_of([&] {
                   write_text(file, "path,label\na.jpg,7\n");
                   read_labels(file, {.root = root, .kind = LabelKind::indices});
                 }),
                 "class index 7 with 1 rows"));
  CHECK(mentions(message_of([&] { read_labels(root / "none.csv", {.root = root}); }), "none.csv"));
}

TEST_CASE("numbers are names unless they are 0 to N-1, or unless told otherwise") {
  TemporaryFolder folder;
  const fs::path root = folder.path(), file = root / "labels.csv";
  for (const char* name : {"a.jpg", "b.jpg", "c.jpg"}) write_text(root / name, "x");
  const auto read = [&](const char* a, const char* b, const char* c, LabelFile how = {}) {
    how.root = root;
    write_text(file, fmt::format("path,label\na.jpg,{}\nb.jpg,{}\nc.jpg,{}\n", a, b, c));
    return read_labels(file, how);
  };
  using Names = std::vector<std::string>;
  const Labels grades = read("1", "2", "3");  // whose first class would be empty as an index
  CHECK(grades.kind == LabelKind::names);
  CHECK(grades.all.classes == Names{"1", "2", "3"});
  CHECK(grades.all.samples[2].label == 2);
  CHECK(read("007", "1", "0").all.classes == Names{"0", "007", "1"});
  CHECK(read("1", "0", "2").kind == LabelKind::indices);
  CHECK(read("0", "0", "2").kind == LabelKind::names);
  CHECK(read("1", "0", "2", {.kind = LabelKind::names}).kind == LabelKind::names);
  CHECK(read("2", "0", "2", {.kind = LabelKind::indices}).all.classes == Names{"0", "1", "2"});
  const Names known = {"cat", "dog", "owl"};
  CHECK(
      mentions(message_of([&] { read("2", "0", "2", {.classes = known}); }),
               "line 2: class \"2\" is not one of the 3 classes trained on; --label-kind indices"));
  CHECK(mentions(message_of([&] { read("x", "0", "1", {.kind = LabelKind::indices}); }),
                 "line 2: \"x\" is no class index"));
}

TEST_CASE("labels of other people's files: columns, suffixes, spaces, groups, all missing files") {
  TemporaryFolder folder;
  const fs::path root = folder.path() / "images", file = folder.path() / "meta.csv";
  for (const char* name : {"I1.jpg", "I2.jpg", "I3.jpg", "more.png"}) write_text(root / name, "x");
  write_text(file, "image, dx ,lesion\nI1,nv,L1\nI2,nv ,L1\nI3, mel,\n");
  LabelFile how{.root = root,
                .path_column = "image",
                .label_column = "dx",
                .group_column = "lesion",
                .suffix = ".jpg"};
  const Labels labels = read_labels(file, how);
  CHECK(labels.all.classes == std::vector<std::string>{"mel", "nv"});
  CHECK(labels.all.samples[1].path == (root / "I2.jpg").string());
  CHECK(labels.all.samples[1].group == "L1");
  CHECK(labels.all.samples[2].group.empty());
  REQUIRE(labels.notes.size() == 2);
  CHECK(mentions(labels.notes[0], "2 labels have spaces around them"));
  CHECK(mentions(labels.notes[0], "line 3: \"nv \""));
  CHECK(mentions(labels.notes[1], "3 images, and 1 more in their folders"));

  fs::remove(root / "I1.jpg");
  fs::remove(root / "I3.jpg");
  const std::string missing = message_of([&] { read_labels(file, how); });
  CHECK(mentions(missing, "meta.csv: of 3 files 2 are missing: line 2: no file "));
  CHECK(mentions(missing, "; line 4: no file " + (root / "I3.jpg").string()));
  how.group_column = "patient";
  CHECK(mentions(message_of([&] { read_labels(file, how); }), "line 1: no column patient"));
  // What a run has written is taken as it is.
  write_text(file, "path,label,split\nI2.jpg,nv ,train\n");
  CHECK(read_labels(file, {.root = root, .group_column = "group", .own = true}).all.classes[0] ==
        "nv ");
}
