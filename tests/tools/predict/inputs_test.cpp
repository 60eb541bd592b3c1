// What a command line means by its words: files, folders, patterns, lists.
#include "tools/predict/inputs.h"

#include <doctest/doctest.h>

#include <fstream>
#include <sstream>

#include "tests/support.h"

using namespace engine;
using namespace engine::test;
namespace fs = std::filesystem;

namespace {

struct Files {
  TemporaryFolder folder;

  explicit Files(std::initializer_list<const char*> names) {
    for (const char* name : names) {
      fs::create_directories((folder.path() / name).parent_path());
      std::ofstream(folder.path() / name) << "x";
    }
  }
  std::string at(const std::string& name) const { return folder.path() / name; }
  // The names below the folder that the arguments mean, which are below it, too.
  std::vector<std::string> found(const std::vector<std::string>& arguments,
                                 const std::string& list = "") const {
    std::vector<std::string> paths;
    for (const std::string& argument : arguments)
      paths.push_back(argument == "-" ? argument : at(argument));
    std::istringstream in(list);
    std::vector<std::string> names;
    for (const Sample& sample : find_inputs(paths, in).data.samples)
      names.push_back(fs::relative(sample.path, folder.path()));
    return names;
  }
};

using Names = std::vector<std::string>;

}  // namespace

TEST_CASE("files stay as they are, folders give their images, in the order of the words") {
  const Files files{"b/2.jpg", "b/1.png", "b/c/3.jpg", "b/notes.txt", "a.jpg"};
  CHECK(files.found({"b", "a.jpg", "missing.jpg"}) ==
        Names{"b/1.png", "b/2.jpg", "b/c/3.jpg", "a.jpg", "missing.jpg"});
  std::istringstream none;
  const Inputs inputs = find_inputs({files.at("b")}, none);
  REQUIRE(inputs.files.size() == 1);
  CHECK(describe(inputs.files[0]) == files.at("b") + ": of 4 files 3 are images; not used: 1 .txt");
}

TEST_CASE("patterns are those of the shell, and a file of that name comes first") {
  const Files files{"a1.jpg", "a2.jpg", "a[12].jpg", "b1.png", "d/x.jpg", ".a3.jpg"};
  CHECK(files.found({"a?.jpg"}) == Names{"a1.jpg", "a2.jpg"});
  CHECK(files.found({"*1.*"}) == Names{"a1.jpg", "b1.png"});
  CHECK(files.found({"a[12].jpg"}) == Names{"a[12].jpg"});  // literally
  CHECK(files.found({"[ab]1.*"}) == Names{"a1.jpg", "b1.png"});
  CHECK(files.found({"*/x.jpg", "[d-e]"}) == Names{"d/x.jpg", "d/x.jpg"});  // a folder's images
  std::istringstream none;
  const Inputs inputs = find_inputs({files.at("*.gif"), files.at("a1.jpg")}, none);
  CHECK(inputs.data.samples.size() == 1);
  CHECK(inputs.unmatched == Names{files.at("*.gif")});
  CHECK(mentions(message_of([&] { files.found({"*.gif"}); }), "*.gif: no images in it"));
}

TEST_CASE("lists: by lines or NUL bytes, paths as they are") {
  CHECK(split_paths("") == Names{});
  CHECK(split_paths("a b\n\nc\r\nd") == Names{"a b", "c", "d"});
  CHECK(split_paths(std::string_view("a\nb\0c\r\0", 7)) == Names{"a\nb", "c\r"});
  CHECK(split_paths(std::string_view("a\0", 2)) == Names{"a"});
  const Files files{"x1.jpg", "x?.jpg", "d/y.jpg"};
  CHECK(files.found({"d", "-"}, files.at("x?.jpg") + '\n' + files.at("d") + "\n") ==
        Names{"d/y.jpg", "x?.jpg", "d/y.jpg"});
  CHECK(mentions(message_of([&] { files.found({"-"}); }), "-: no images in it"));
  CHECK(mentions(message_of([&] { files.found({"-", "-"}); }, Failure::usage), "read once"));
}
