// Arrays that NumPy reads: the header, byte for byte, rows without end, and files that are whole.
#include "io/files/npy.h"

#include <doctest/doctest.h>

#include <cstring>
#include <fstream>
#include <iterator>
#include <limits>

#include "tests/support.h"

using namespace engine;
using namespace engine::test;
namespace fs = std::filesystem;

namespace {

std::string read_bytes(const fs::path& file) {
  std::ifstream in(file, std::ios::binary);
  return {std::istreambuf_iterator<char>(in), {}};
}

}  // namespace

TEST_CASE("npy: the header is that of the format, and as long for any number of rows") {
  // What numpy.save wrote of numpy.zeros((3, 5), "<f4"), but for the spaces in the shape.
  const int64_t shape[] = {3, 5};
  std::string expected("\x93NUMPY\x01\x00\x76\x00", 10);
  expected += "{'descr': '<f4', 'fortran_order': False, 'shape': (3,5), }";
  expected.resize(127, ' ');
  expected += '\n';
  CHECK(npy_header(shape) == expected);
  const int64_t one[] = {7};
  CHECK(npy_header(one).find("'shape': (7,), }") != std::string::npos);  // a tuple of one number
  const int64_t most[] = {std::numeric_limits<int64_t>::max(), 5};
  CHECK(npy_header(most).size() == 128);
  const int64_t many[] = {1, 1234567890123, 1234567890123, 1234567890123, 1234567890123},
                more[] = {most[0], many[1], many[2], many[3], many[4]};
  CHECK(npy_header(many).size() == 192);
  CHECK(npy_header(more).size() == 192);
}

TEST_CASE("npy: rows come as they are appended, and the file is there when it is whole") {
  const TemporaryFolder folder;
  const fs::path file = folder.path() / "x.npy";
  {
    NpyWriter writer(file, {3});
    const float first[] = {1, 2, 3}, rest[] = {-4, 5e-30f, 6, 7, 8, 9};
    writer.append(first);
    writer.append({});
    writer.append(rest);
    CHECK(writer.rows() == 3);
    CHECK_FALSE(fs::exists(file));
    writer.commit();
  }
  const std::string bytes = read_bytes(file);
  REQUIRE(bytes.size() == 128 + 9 * sizeof(float));
  CHECK(bytes.find("'shape': (3,3), }") != std::string::npos);
  float values[9];
  std::memcpy(values, bytes.data() + 128, sizeof values);
  CHECK(values[0] == 1);
  CHECK(values[4] == 5e-30f);
  CHECK(values[8] == 9);

  { NpyWriter(file, {2, 2}).append(std::span(values, 8)); }  // not committed: nothing changes
  CHECK(read_bytes(file) == bytes);
  CHECK(std::distance(fs::directory_iterator(folder.path()), {}) == 1);  // nor does anything stay
  CHECK(mentions(
      message_of([&] { NpyWriter(file, {2}).append(std::span(values, 3)); }, Failure::internal),
      "3 values are no rows of 2"));
  CHECK(mentions(message_of([] { NpyWriter("/dev/null", {2}); }, Failure::usage), "/dev/null: "));
  CHECK(mentions(message_of([] { NpyWriter("/nonexistent/x.npy", {2}); }), "/nonexistent/x.npy: "));
}
