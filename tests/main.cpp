// Runs doctest, then prints what was skipped and why; 77 if nothing but skipped tests ran.
#define DOCTEST_CONFIG_IMPLEMENT
#include <doctest/doctest.h>

#include <cstdio>
#include <string>
#include <utility>
#include <vector>

namespace engine::test {
namespace {
std::vector<std::pair<std::string, std::string>> skipped;
unsigned cases_run = 0;

struct Counter : doctest::IReporter {
  explicit Counter(const doctest::ContextOptions&) {}
  void report_query(const doctest::QueryData&) override {}
  void test_run_start() override {}
  void test_run_end(const doctest::TestRunStats& run) override {
    cases_run = run.numTestCasesPassingFilters;
  }
  void test_case_start(const doctest::TestCaseData&) override {}
  void test_case_reenter(const doctest::TestCaseData&) override {}
  void test_case_end(const doctest::CurrentTestCaseStats&) override {}
  void test_case_exception(const doctest::TestCaseException&) override {}
  void subcase_start(const doctest::SubcaseSignature&) override {}
  void subcase_end() override {}
  void log_assert(const doctest::AssertData&) override {}
  void log_message(const doctest::MessageData&) override {}
  void test_case_skipped(const doctest::TestCaseData&) override {}
};
REGISTER_LISTENER("counter", 1, Counter);
}  // namespace

void count_skip(std::string test, std::string why) {
  skipped.emplace_back(std::move(test), std::move(why));
}

}  // namespace engine::test

int main(int argc, char** argv) {
  using namespace engine::test;
  doctest::Context context(argc, argv);
  const int result = context.run();
  if (context.shouldExit()) return result;
  for (const auto& [test, why] : skipped)
    std::printf("skipped: %s: %s\n", test.c_str(), why.c_str());
  if (result != 0) return result;
  if (cases_run == 0) return std::printf("no test matched\n"), 1;
  return skipped.size() == cases_run ? 77 : 0;
}
