#include "tests/support.h"

#include <fmt/format.h>
#include <unistd.h>

#include <cmath>
#include <cstdlib>
#include <fstream>
#include <iterator>

namespace fs = std::filesystem;

namespace engine::test {

// Defined in main.cpp, which reports them.
void count_skip(std::string test, std::string why);

std::string read(const fs::path& file) {
  std::ifstream in(file, std::ios::binary);
  return {std::istreambuf_iterator<char>(in), {}};
}

void write_text(const fs::path& file, std::string_view text) {
  if (file.has_parent_path()) fs::create_directories(file.parent_path());
  std::ofstream(file, std::ios::binary) << text;
}

Tolerance tolerance(DType type) {
  switch (type) {
    case DType::f64: return {1e-12, 1e-12};
    case DType::f32: return {1e-5, 1e-5};
    case DType::f16: return {2e-3, 2e-3};  // two half-precision roundings of values near one
    case DType::bf16: return {1.6e-2, 1.6e-2};
    default: return {};
  }
}

namespace {

template <class Real>
void compare(std::span<const Real> ours, std::span<const Real> theirs, Tolerance allowed,
             std::string_view what) {
  REQUIRE_MESSAGE(ours.size() == theirs.size(), what << ": sizes differ");
  size_t failures = 0, worst = 0;
  double worst_excess = -1;
  for (size_t i = 0; i < ours.size(); ++i) {
    const double limit =
        allowed.absolute + allowed.relative * std::abs(static_cast<double>(theirs[i]));
    const double difference =
        std::abs(static_cast<double>(ours[i]) - static_cast<double>(theirs[i]));
    if (difference <= limit) continue;  // false for NaN
    ++failures;
    const double excess = std::isnan(difference) ? INFINITY : difference - limit;
    if (excess > worst_excess) worst_excess = excess, worst = i;
  }
  const std::string report =
      failures == 0 ? std::string()
                    : fmt::format("{}: {} of {} differ; worst at {}: {} and {}", what, failures,
                                  ours.size(), worst, ours[worst], theirs[worst]);
  CHECK_MESSAGE(failures == 0, report);
}

}  // namespace

void expect_close(std::span<const float> ours, std::span<const float> theirs, Tolerance allowed,
                  std::string_view what) {
  compare(ours, theirs, allowed, what);
}

void expect_close(std::span<const double> ours, std::span<const double> theirs, Tolerance allowed,
                  std::string_view what) {
  compare(ours, theirs, allowed, what);
}

double relative_error(std::span<const float> ours, std::span<const float> theirs) {
  REQUIRE(ours.size() == theirs.size());
  double difference = 0, norm = 0;
  for (size_t i = 0; i < ours.size(); ++i) {
    const double b = theirs[i], d = ours[i] - b;
    difference += d * d;
    norm += b * b;
  }
  return std::sqrt(difference / norm);
}

std::string message_of(const std::function<void()>& action, Failure kind) {
  try {
    action();
  } catch (const Error& error) {
    CHECK(error.kind == kind);
    return error.what();
  }
  FAIL("no Error");
  return {};
}

bool mentions(const std::string& message, const std::string& part) {
  CAPTURE(message);
  CAPTURE(part);
  return message.find(part) != std::string::npos;
}

double worse(double a, double b) {
  return std::isnan(a) || std::isnan(b) ? INFINITY : std::max(a, b);
}

void note_skipped(std::string_view why) {
  const char* name = doctest::getContextOptions()->currentTest->m_name;
  if (std::getenv("ENGINE_REQUIRE_ALL"))
    FAIL("skipped although ENGINE_REQUIRE_ALL is set: " << why);
  count_skip(name, std::string(why));
}

std::optional<fs::path> test_data() {
  const char* chosen = std::getenv("ENGINE_TEST_DATA");
  const fs::path folder =
      chosen ? fs::path(chosen) : fs::path(ENGINE_SOURCE_DIR) / "../shared/data";
  if (!fs::is_directory(folder)) return std::nullopt;
  return fs::canonical(folder);
}

TemporaryFolder::TemporaryFolder() {
  std::string name = (fs::temp_directory_path() / "engine-test-XXXXXX").string();
  REQUIRE(mkdtemp(name.data()) != nullptr);
  path_ = name;
}

TemporaryFolder::~TemporaryFolder() {
  std::error_code ignored;
  fs::remove_all(path_, ignored);
}

}  // namespace engine::test
