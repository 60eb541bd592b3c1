#include "io/data/split.h"

#include <algorithm>
#include <fstream>
#include <functional>
#include <set>

#include "engine/error.h"
#include "io/data/duplicates.h"
#include "io/files/csv.h"
#include "tests/support.h"

using namespace engine;
using namespace engine::test;
namespace fs = std::filesystem;

namespace {

void write(const fs::path& file, std::string_view text) {
  fs::create_directories(file.parent_path());
  std::ofstream(file, std::ios::binary) << text;
}

// Classes "a", "b", … with that many images each.
Dataset data_set(const std::vector<int>& counts) {
  Dataset data;
  for (size_t c = 0; c < counts.size(); ++c) {
    data.classes.emplace_back(1, static_cast<char>('a' + c));
    for (int i = 0; i < counts[c]; ++i)
      data.samples.push_back({fmt::format("/root/{}/{}.jpg", data.classes[c], i), int(c)});
  }
  return data;
}

std::vector<int64_t> counts_of(const Dataset& data) {
  std::vector<int64_t> counts(data.classes.size());
  for (const Sample& sample : data.samples) ++counts[size_t(sample.label)];
  return counts;
}

}  // namespace

TEST_CASE("CSV: quotes, line ends and doubled quotes as in RFC 4180") {
  const Csv csv = parse_csv(
      "\xEF\xBB\xBFpath,label\r\n\"a,b.jpg\",\"say \"\"x\"\"\"\r\n\r\n\"two\nlines\",é\nlast,",
      "t");
  CHECK(csv.header == std::vector<std::string>{"path", "label"});
  REQUIRE(csv.rows.size() == 3);
  CHECK(csv.rows[0].fields == std::vector<std::string>{"a,b.jpg", "say \"x\""});
  CHECK(csv.rows[0].line == 2);
  CHECK(csv.rows[1].fields == std::vector<std::string>{"two\nlines", "é"});
  CHECK(csv.rows[1].line == 4);
  CHECK(csv.rows[2].fields == std::vector<std::string>{"last", ""});
  CHECK(csv.rows[2].line == 6);
  CHECK(csv.column("label") == 1);
  CHECK(csv.column("Label") == -1);
  for (const char* field : {"plain", "a,b", "a\"b", "a\nb", "", " "})
    CHECK(parse_csv(fmt::format("x\n{0},{0}", csv_field(field)).insert(1, ",y"), "t")
              .rows[0]
              .fields == std::vector<std::string>{field, field});
}

TEST_CASE("CSV: what is wrong is told with its line") {
  const auto error = [](std::string_view text) {
    return message_of([&] { parse_csv(text, "t.csv"); });
  };
  CHECK(mentions(error(""), "t.csv: the file is empty"));
  CHECK(mentions(error("a,b\n1,2\n1,2,3\n"), "t.csv, line 3: 3 fields, the header has 2"));
  CHECK(mentions(error("a,b\n1,\"2\n3,4\n"), "t.csv, line 2: a quote is never closed"));
  CHECK(mentions(error("a,b\n1,\"2\"3\n"), "t.csv, line 2: text behind a closing quote"));
  CHECK(mentions(error("a,b\n1,2\"3\n"), "t.csv, line 2: a quote inside"));
}

TEST_CASE("CSV: a field is bytes, as the name of a file may be") {
  // A byte of Latin-1, a lone continuation byte, an overlong slash, a character that is cut.
  for (const std::string name : {"caf\xE9", "\x80", "\xC0\xAF", "\xE2\x82"})
    for (const std::string text : {name, '"' + name + '"'})
      CHECK(parse_csv("a\n" + text + "\n", "t.csv").rows.at(0).fields.at(0) == name);
}

TEST_CASE("shares are read and checked") {
  CHECK(parse_shares("0.63/0.07/0.30") == Shares{0.63, 0.07, 0.30});
  CHECK(parse_shares("0.8/0.2") == Shares{0.8, 0.2, 0});
  for (const char* bad : {"", "1", "0.5/0.6", "0.5/0.4", "a/b", "0.5/0.5/", "0/1", "1/0",
                          "-0.5/1.5", "0.25/0.25/0.25/0.25", "0.5/0.5x", "nan/nan"})
    CHECK(mentions(message_of([&] { parse_shares(bad); }, Failure::usage), "--split"));
}

TEST_CASE("counts follow the largest remainders") {
  using Counts = std::array<int64_t, 3>;
  const Shares shares = {0.63, 0.07, 0.30};
  CHECK(split_counts(100, shares) == Counts{63, 7, 30});
  CHECK(split_counts(10, shares) == Counts{6, 1, 3});  // 6.3, 0.7, 3.0
  CHECK(split_counts(1, shares) == Counts{1, 0, 0});
  CHECK(split_counts(0, shares) == Counts{0, 0, 0});
  CHECK(split_counts(100, {0.29, 0.71, 0}) == Counts{29, 71, 0});
  CHECK(split_counts(3, {0.5, 0.5, 0}) == Counts{2, 1, 0});  // a tie goes to the first
  for (int64_t n = 0; n < 500; ++n) {
    const Counts counts = split_counts(n, shares);
    CHECK(counts[0] + counts[1] + counts[2] == n);
    for (size_t i = 0; i < 3; ++i) CHECK(std::abs(double(counts[i]) - double(n) * shares[i]) < 1);
  }
}

TEST_CASE("a drawn split covers every image once, by class, and depends on the seed alone") {
  const Dataset all = data_set({100, 30, 7, 1});
  const Shares shares = {0.63, 0.07, 0.30};
  const auto parts = sample_split(all, shares, true, 5);
  CHECK(sample_split(all, shares, true, 5) == parts);
  CHECK(sample_split(all, shares, true, 6) != parts);
  const TrainingData data = apply_split(all, parts);
  REQUIRE(data.test.has_value());
  CHECK(counts_of(data.train) == std::vector<int64_t>{63, 19, 4, 1});
  CHECK(counts_of(data.validation) == std::vector<int64_t>{7, 2, 1, 0});
  CHECK(counts_of(*data.test) == std::vector<int64_t>{30, 9, 2, 0});
  std::set<std::string> paths;
  for (const Dataset* set : {&data.train, &data.validation, &*data.test}) {
    CHECK(set->classes == all.classes);
    CHECK(std::ranges::is_sorted(set->samples, {}, &Sample::label));  // as in `all`
    for (const Sample& sample : set->samples) CHECK(paths.insert(sample.path).second);
  }
  CHECK(paths.size() == all.samples.size());

  const TrainingData plain = apply_split(all, sample_split(all, {0.8, 0.2, 0}, false, 0));
  CHECK(plain.train.samples.size() == 110);  // 110.4
  CHECK(plain.validation.samples.size() == 28);
  CHECK_FALSE(plain.test.has_value());
  CHECK(mentions(message_of([&] { apply_split(data_set({1}), std::vector{Part::train}); }),
                 "none of 1 images for validation"));
  const Dataset two = data_set({1, 1});
  CHECK(mentions(message_of([&] {
                   apply_split(two, std::vector{Part::validation, Part::train});
                 }),
                 "class \"a\" has no image to train with"));
}

TEST_CASE("a split is written and read back as it was") {
  TemporaryFolder folder;
  const fs::path root = folder.path() / "data";
  for (const char* name :
       {"x, y/1.jpg", "x, y/2.jpg", "x, y/3.jpg", "z/1.jpg", "z/2.jpg", "z/3 \"q\".jpg"})
    write(root / name, "pixels");
  const Dataset all = read_image_folder(root);
  const TrainingData data = apply_split(all, sample_split(all, {0.34, 0.33, 0.33}, true, 1));
  write(folder.path() / "split.csv", split_csv(data, root));
  const TrainingData again =
      training_data(read_labels(folder.path() / "split.csv", root), folder.path() / "split.csv");
  const auto same = [](const Dataset& a, const Dataset& b) {
    CHECK(a.classes == b.classes);
    REQUIRE(a.samples.size() == b.samples.size());
    for (size_t i = 0; i < a.samples.size(); ++i) {
      CHECK(a.samples[i].path == b.samples[i].path);
      CHECK(a.samples[i].label == b.samples[i].label);
    }
  };
  same(data.train, again.train);
  same(data.validation, again.validation);
  REQUIRE(again.test.has_value());
  same(*data.test, *again.test);
}

TEST_CASE("labels: names or indices, relative or absolute paths, with or without a split") {
  TemporaryFolder folder;
  const fs::path root = folder.path(), file = root / "labels.csv";
  for (const char* name : {"a.jpg", "b.jpg", "c.jpg"}) write(root / "sub" / name, "x");
  const std::string c = (root / "sub/c.jpg").string();

  write(file, "label,note,path\ndog,,sub/b.jpg\ncat,!,sub/a.jpg\ndog,," + c + "\n");
  Labels labels = read_labels(file, root);
  CHECK(labels.kind == LabelKind::names);
  CHECK(labels.all.classes == std::vector<std::string>{"cat", "dog"});
  CHECK(labels.parts.empty());
  CHECK(labels.lines == std::vector<int>{2, 3, 4});
  REQUIRE(labels.all.samples.size() == 3);
  CHECK(labels.all.samples[0].label == 1);
  CHECK(labels.all.samples[1].label == 0);
  CHECK(labels.all.samples[2].path == c);

  write(file, "path,label,split\nsub/b.jpg,1,train\nsub/a.jpg,0,valid\nsub/c.jpg,0,train\n");
  labels = read_labels(file, root);
  CHECK(labels.kind == LabelKind::indices);
  CHECK(labels.all.classes == std::vector<std::string>{"0", "1"});
  CHECK(labels.parts == std::vector{Part::train, Part::validation, Part::train});
  const TrainingData data = training_data(labels, file);
  CHECK(data.train.samples.size() == 2);
  CHECK(data.validation.samples.size() == 1);
  CHECK_FALSE(data.test.has_value());

  const std::vector<std::string> classes = {"zero", "one", "two"};
  CHECK(read_labels(file, root, ClassOrder::bytes, classes).all.samples[0].label == 1);
  const std::vector<std::string> digits = {"1", "0"};  // names that are numbers
  labels = read_labels(file, root, ClassOrder::bytes, digits);
  CHECK(labels.kind == LabelKind::names);
  CHECK(labels.all.samples[0].label == 0);

  write(file, "path,label\nsub/a.jpg,x10\nsub/b.jpg,x9\n");
  CHECK(read_labels(file, root).all.classes == std::vector<std::string>{"x10", "x9"});
  CHECK(read_labels(file, root, ClassOrder::natural).all.classes ==
        std::vector<std::string>{"x9", "x10"});
}

TEST_CASE("bad labels are told with their line") {
  TemporaryFolder folder;
  const fs::path root = folder.path(), file = root / "labels.csv";
  for (const char* name : {"a.jpg", "b.jpg"}) write(root / name, "x");
  const auto error = [&](std::string_view text, std::span<const std::string> classes = {}) {
    write(file, text);
    return message_of(
        [&] { training_data(read_labels(file, root, ClassOrder::bytes, classes), file); });
  };
  const std::vector<std::string> known = {"cat", "dog"};
  CHECK(mentions(error("path,label\na.jpg,cat\nb.jpg,zebra\n", known),
                 "labels.csv, line 3: class \"zebra\" is not one of the 2 classes"));
  CHECK(mentions(error("path,label\na.jpg,1\nb.jpg,2\n", known), "line 3: class \"2\""));
  CHECK(mentions(error("path,label,split\na.jpg,cat,train\nb.jpg,dog,val\n"),
                 "line 3: class \"dog\" has no image to train with"));
  CHECK(mentions(error("path,label\na.jpg,cat\nno.jpg,cat\n"), "line 3: no file"));
  CHECK(mentions(error("path,label\na.jpg,cat\n./a.jpg,cat\n"), "line 3: ./a.jpg is in line 2"));
  CHECK(mentions(error("path,label\na.jpg,\n"), "line 2: the label is empty"));
  CHECK(mentions(error("path,label,split\na.jpg,cat,dev\n"), "line 2: split \"dev\""));
  CHECK(mentions(error("file,label\na.jpg,cat\n"), "line 1: the header needs"));
  CHECK(mentions(error("path,label\n"), "no rows"));
  CHECK(mentions(error("path,label\na.jpg,7\n"), "class index 7 with 1 rows"));
  CHECK(mentions(message_of([&] { read_labels(root / "none.csv", root); }), "none.csv"));
}

TEST_CASE("natural class order is timm's") {
  std::vector<std::string> names = {"b", "x10", "A", "x9", "10", "2", "x010y", "B2"};
  sort_classes(names, ClassOrder::natural);
  CHECK(names == std::vector<std::string>{"2", "10", "A", "b", "B2", "x9", "x10", "x010y"});
  sort_classes(names, ClassOrder::bytes);
  CHECK(names == std::vector<std::string>{"10", "2", "A", "B2", "b", "x010y", "x10", "x9"});
  TemporaryFolder folder;
  for (const char* name : {"10", "2"}) write(folder.path() / name / "1.jpg", "x");
  CHECK(read_image_folder(folder.path(), ClassOrder::natural).classes ==
        std::vector<std::string>{"2", "10"});
}

TEST_CASE("copies are found by content, within and across sets") {
  TemporaryFolder folder;
  const auto set = [&](std::initializer_list<std::pair<const char*, const char*>> files) {
    Dataset data{.classes = {"c"}};
    for (const auto& [name, text] : files) {
      write(folder.path() / name, text);
      data.samples.push_back({(folder.path() / name).string()});
    }
    return data;
  };
  const Dataset train =
      set({{"1", "same"}, {"2", "twin"}, {"3", "twin"}, {"4", "other"}, {"e", ""}});
  const Dataset val = set({{"5", "othes"}, {"6", "same"}, {"f", ""}});
  const Dataset test = set({{"7", "same"}, {"8", "a fourth"}});
  const Dataset* sets[] = {&train, &val, &test};
  for (const int threads : {1, 3}) {
    const auto across = find_duplicates(sets, true, {.threads = threads});
    REQUIRE(across.size() == 1);
    REQUIRE(across[0].size() == 3);
    CHECK(across[0][0].set == 0);
    CHECK(across[0][1].set == 1);
    CHECK(across[0][1].sample == 1);
    CHECK(across[0][2].set == 2);
    const auto all = find_duplicates(sets, false, {.threads = threads});
    REQUIRE(all.size() == 2);
    CHECK(all[1].size() == 2);
    CHECK(all[1][0].sample == 1);
    const std::string names[] = {"train", "val", "test"};
    const Csv csv = parse_csv(duplicates_csv(all, sets, names), "duplicates.csv");
    REQUIRE(csv.rows.size() == 5);
    CHECK(csv.rows[2].fields ==
          std::vector<std::string>{"0", "test", "c", (folder.path() / "7").string()});
    CHECK(csv.rows[3].fields[0] == "1");
  }
}
