// What tests share: comparison with one table of tolerances, skips that are counted, test data,
// temporary folders.
#pragma once

#include <doctest/doctest.h>

#include <filesystem>
#include <functional>
#include <optional>
#include <span>
#include <string>
#include <string_view>

#include "engine/error.h"
#include "engine/tensor.h"

namespace engine::test {

struct Tolerance {
  double absolute = 0, relative = 0;  // |a − b| ≤ absolute + relative·|b|
};

// For one rounding-level comparison of kernels in that type. A test that needs more says why, with
// the arithmetic.
Tolerance tolerance(DType type);

// CHECKs every element; on failure prints the worst index, both values and the number of failures.
// NaN never passes.
void expect_close(std::span<const float> ours, std::span<const float> theirs, Tolerance allowed,
                  std::string_view what = "");
void expect_close(std::span<const double> ours, std::span<const double> theirs, Tolerance allowed,
                  std::string_view what = "");

// The larger error; infinity where one is NaN, which std::max would pass over.
double worse(double a, double b);

// Call and return: `if (!data) return note_skipped("…")`. Counted and printed at the end of the
// run; a failure when ENGINE_REQUIRE_ALL is set. A run whose every test was skipped exits with 77,
// which CTest reports as skipped.
void note_skipped(std::string_view why);

// What an action throws, which must be an Error of that kind.
std::string message_of(const std::function<void()>& action, Failure kind = Failure::data);

// On failure both are printed.
bool mentions(const std::string& message, const std::string& part);

// A file's bytes; of a file that is not there none.
std::string read(const std::filesystem::path& file);
// Makes the folders that lead to the file too.
void write_text(const std::filesystem::path& file, std::string_view text);

// ‖a − b‖ / ‖b‖ in double.
double relative_error(std::span<const float> ours, std::span<const float> theirs);

// Real images and weights: $ENGINE_TEST_DATA, else ../shared/data beside the source; nothing if
// absent.
std::optional<std::filesystem::path> test_data();

// Removed with everything in it when the object goes.
class TemporaryFolder {
 public:
  TemporaryFolder();
  ~TemporaryFolder();
  TemporaryFolder(const TemporaryFolder&) = delete;
  TemporaryFolder& operator=(const TemporaryFolder&) = delete;
  const std::filesystem::path& path() const { return path_; }

 private:
  std::filesystem::path path_;
};

}  // namespace engine::test
