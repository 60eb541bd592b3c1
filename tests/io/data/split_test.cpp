#include "io/data/split.h"

#include <algorithm>
#include <fstream>
#include <functional>
#include <map>
#include <set>

#include "engine/error.h"
#include "io/data/duplicates.h"
#include "io/data/groups.h"
#include "io/data/labels.h"
#include "io/files/csv.h"
#include "tests/io/data/lettered_set.h"
#include "tests/support.h"

using namespace engine;
using namespace engine::test;
using namespace std::string_view_literals;
namespace fs = std::filesystem;

namespace {

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
  CHECK(mentions(error("a,b\r1,2\r"), "t.csv, line 1: a carriage return without a line feed"));
  for (const std::string_view text : {"\xFF\xFE,\0b\0\n\0"sv, "\0a\0,\0b\0\n"sv})
    CHECK(mentions(error(text), "t.csv, line 1: a NUL byte; of text, only UTF-8 is read"));
  CHECK(mentions(error("a,b\n1,\"x\0\"\n"sv), "t.csv, line 2: a NUL byte"));
}

TEST_CASE("CSV: a field is bytes, as the name of a file may be") {
  // A byte of Latin-1, a lone continuation byte, an overlong slash, a character that is cut.
  for (const std::string& name :
       std::vector<std::string>{"caf\xE9", "\x80", "\xC0\xAF", "\xE2\x82"})
    for (const std::string& text : {name, '"' + name + '"'})
      CHECK(parse_csv("a\n" + text + "\n", "t.csv").rows.at(0).fields.at(0) == name);
}

TEST_CASE("CSV files: rows one by one, with the columns that are wanted; no row is endless") {
  TemporaryFolder folder;
  const fs::path file = folder.path() / "t.csv";
  std::string text = "\xEF\xBB\xBFpath,note,label\r\n";
  for (int i = 0; i < 5000; ++i) text += fmt::format("{0}.jpg,\"two\nlines, {0}\",cat\n", i);
  write_text(file, text);
  const Csv csv = read_csv(file, [](std::string_view name) { return name != "note"; });
  CHECK(csv.header == std::vector<std::string>{"path", "label"});
  CHECK(csv.passed_over == std::vector<std::string>{"note"});
  REQUIRE(csv.rows.size() == 5000);
  CHECK(csv.rows[4999].fields == std::vector<std::string>{"4999.jpg", "cat"});
  CHECK(csv.rows[4999].line == 10000);
  const Csv all = read_csv(file), whole = parse_csv(text, "t");
  CHECK(all.rows[77].fields == whole.rows[77].fields);
  CHECK(all.rows[77].line == whole.rows[77].line);

  write_text(file, "path,label\na,b\n" + std::string(3 << 20, 'x'));
  CHECK(mentions(message_of([&] { read_csv(file); }), "line 3: a row of more than 1048576 bytes"));
  write_text(file, "path,label\n\"a,b\n" + std::string(3 << 20, '\n'));
  CHECK(mentions(message_of([&] { read_csv(file); }), "a quote in it is not closed"));
  write_text(file, std::string(20000, ','));
  CHECK(mentions(message_of([&] { read_csv(file); }), "line 1: more than 10,000 columns"));
  write_text(file, "");
  CHECK(mentions(message_of([&] { read_csv(file); }), "the file is empty"));
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
    write_text(root / name, "pixels");
  const Dataset all = read_image_folder(root);
  const TrainingData data = apply_split(all, sample_split(all, {0.34, 0.33, 0.33}, true, 1));
  write_text(folder.path() / "split.csv", split_csv(data, root));
  const TrainingData again =
      training_data(read_labels(folder.path() / "split.csv", {.root = root, .own = true}),
                    folder.path() / "split.csv");
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

TEST_CASE("groups and copies stay in one part, and the shares are met as well as that allows") {
  Dataset all = data_set({60, 45, 30});
  for (size_t i = 0; i < all.samples.size(); ++i)
    all.samples[i].group = fmt::format("lesion {}", i / (1 + i % 4));
  std::vector<Copies> copies = {{{0, 0}, {0, 134}}, {{0, 7}, {0, 61}, {0, 100}}};
  const std::vector<uint32_t> units = inseparable(all, copies);
  CHECK(units[0] == units[134]);
  CHECK(units[7] == units[100]);
  for (const bool stratify : {false, true})
    for (uint64_t seed = 0; seed < 5; ++seed) {
      CAPTURE(seed);
      const Shares shares = {0.6, 0.2, 0.2};
      const std::vector<Part> parts = sample_split(all, shares, stratify, seed, units);
      CHECK(parts == sample_split(all, shares, stratify, seed, units));
      std::map<uint32_t, Part> part_of;
      std::array<int, 3> counts{};
      for (size_t i = 0; i < parts.size(); ++i) {
        CHECK(part_of.emplace(units[i], parts[i]).first->second == parts[i]);
        ++counts[size_t(parts[i])];
      }
      for (size_t part = 0; part < 3; ++part)
        CHECK(std::abs(counts[part] - 135 * shares[part]) <= 4);
    }
  // Images without groups are dealt out as if nothing was said of groups.
  const std::vector<uint32_t> apart = inseparable(data_set({9, 5}), {});
  CHECK(apart.back() == 13);
  CHECK(sample_split(data_set({9, 5}), {0.5, 0.5, 0}, true, 3, apart) ==
        sample_split(data_set({9, 5}), {0.5, 0.5, 0}, true, 3));
}

TEST_CASE("groups are found in names and paths, written with a split, and told where parts share") {
  Dataset data{.classes = {"a"}};
  for (const char* name : {"a/p1_0.jpg", "a/p1_1.jpg", "a/p2_0.jpg", "b-7/x.jpg"})
    data.samples.push_back({fmt::format("/root/{}", name)});
  CHECK(set_groups(data, "^(p[0-9]+)_", "/root") == 1);
  CHECK(data.samples[1].group == "p1");
  CHECK(data.samples[3].group.empty());
  CHECK(set_groups(data, "^[^/]+/", "/root") == 0);
  CHECK(data.samples[3].group == "b-7/");
  CHECK(mentions(message_of([&] { set_groups(data, "(", "/root"); }, Failure::usage),
                 "--group-pattern '(': no regular expression"));
  CHECK(mentions(message_of([&] { set_groups(data, "zebra", "/root"); }, Failure::usage),
                 "matches none of 4 images"));
  set_groups(data, "^(p[0-9]+)_", "/root");
  const TrainingData split =
      apply_split(data, std::vector{Part::train, Part::validation, Part::validation, Part::train});
  CHECK(split_csv(split, "/root") ==
        "path,label,split,group\na/p1_0.jpg,a,train,p1\nb-7/x.jpg,a,train,\n"
        "a/p1_1.jpg,a,val,p1\na/p2_0.jpg,a,val,p2\n");
  const Dataset* const sets[] = {&split.train, &split.validation};
  const std::vector<Copies> shared = shared_groups(sets);
  REQUIRE(shared.size() == 1);
  const std::string names[] = {"train", "val"};
  CHECK(groups_csv(shared, sets, names) ==
        "group,split,label,path\np1,train,a,/root/a/p1_0.jpg\np1,val,a,/root/a/p1_1.jpg\n");
}

TEST_CASE("natural class order is timm's") {
  std::vector<std::string> names = {"b", "x10", "A", "x9", "10", "2", "x010y", "B2"};
  sort_classes(names, ClassOrder::natural);
  CHECK(names == std::vector<std::string>{"2", "10", "A", "b", "B2", "x9", "x10", "x010y"});
  sort_classes(names, ClassOrder::bytes);
  CHECK(names == std::vector<std::string>{"10", "2", "A", "B2", "b", "x010y", "x10", "x9"});
  TemporaryFolder folder;
  for (const char* name : {"10", "2"}) write_text(folder.path() / name / "1.jpg", "x");
  CHECK(read_image_folder(folder.path(), ClassOrder::natural).classes ==
        std::vector<std::string>{"2", "10"});
}

TEST_CASE("copies are found by content, within and across sets") {
  TemporaryFolder folder;
  const auto set = [&](std::initializer_list<std::pair<const char*, const char*>> files) {
    Dataset data{.classes = {"c"}};
    for (const auto& [name, text] : files) {
      write_text(folder.path() / name, text);
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
