#include "tools/cli/progress.h"

#include <doctest/doctest.h>

#include <string>
#include <vector>

#include "tools/cli/byte_progress.h"

using namespace engine;

namespace {

// A clock that the test sets and the lines as they were written.
struct ProgressFixture {
  double now = 100;
  int columns = 80;
  std::vector<std::string> written;

  ProgressOutput output(bool live) {
    return {.live = live,
            .interval = 5,
            .width = [this] { return columns; },
            .write = [this](std::string_view text) { written.emplace_back(text); },
            .seconds = [this] { return now; }};
  }
};

}  // namespace

TEST_CASE_FIXTURE(ProgressFixture, "a line every few seconds without a terminal") {
  Progress progress("epoch 3/10", 100, 0, output(false));
  for (int i = 0; i < 12; ++i) {
    now += 1;
    progress.loss(2.0);
    progress.step(32, 0.25);
  }
  REQUIRE(written.size() == 2);
  CHECK(written[0] == "epoch 3/10 step 5/100  loss 2.0000  32.0 img/s  wait 25.0%  eta 1:35\n");
  CHECK(written[1] == "epoch 3/10 step 10/100  loss 2.0000  32.0 img/s  wait 25.0%  eta 1:30\n");
  progress.finish();
  CHECK(written.back() ==
        "epoch 3/10 step 12/100  loss 2.0000  32.0 img/s  wait 25.0%  took 0:12\n");
  const size_t lines = written.size();
  progress.finish();
  CHECK(written.size() == lines);
}

TEST_CASE_FIXTURE(ProgressFixture,
                  "the rate is that of the last seconds, the last line's that of all") {
  Progress progress("epoch 1/1", 1000, 0, output(false));
  for (int i = 0; i < 100; ++i) now += 1, progress.step(10, 1);
  for (int i = 0; i < 20; ++i) now += 1, progress.step(1000, 0);
  CHECK(written.back().find("1000 img/s  wait 0.0%  eta 14:40") != std::string::npos);
  progress.finish();
  CHECK(written.back().find("175 img/s  wait 83.3%  took 2:00") != std::string::npos);
  CHECK(progress.images_per_second() == doctest::Approx(21000 / 120.0));
  CHECK(progress.wait_share() == doctest::Approx(100 / 120.0));
}

TEST_CASE_FIXTURE(ProgressFixture,
                  "the loss shown is the mean of the last twenty, and no loss is no column") {
  Progress progress("validation", 60, 0, output(false));
  now += 6, progress.step(1, 0);
  CHECK(written.back().find("loss") == std::string::npos);
  for (int i = 0; i < 40; ++i) progress.loss(i);
  now += 6, progress.step(1, 0);
  CHECK(written.back().find("loss 29.5000") != std::string::npos);
  progress.finish();
  CHECK(written.back().find("loss 19.5000") != std::string::npos);
}

TEST_CASE_FIXTURE(ProgressFixture,
                  "an epoch that is resumed counts on, its rate does not include what was before") {
  Progress progress("epoch 2/2", 50, 40, output(false));
  now += 5, progress.step(10, 0);
  CHECK(written.back() == "epoch 2/2 step 41/50  2.0 img/s  wait 0.0%  eta 0:45\n");
}

TEST_CASE_FIXTURE(ProgressFixture,
                  "where other epochs follow, the line tells how long the run takes") {
  Progress progress("epoch 1/3", 50, 0, output(false), 100);
  now += 5, progress.step(10, 0);
  CHECK(written.back() == "epoch 1/3 step 1/50  2.0 img/s  wait 0.0%  eta 4:05, run 12:25\n");
}

TEST_CASE_FIXTURE(ProgressFixture,
                  "a live line is rewritten, cut to the width, and makes room for other lines") {
  columns = 25;
  Progress progress("epoch 1/1", 10, 0, output(true));
  now += 1, progress.step(8, 0);
  now += 0.01, progress.step(8, 0);  // too soon to draw again
  REQUIRE(written.size() == 1);
  CHECK(written[0] == "\r\x1b[Kepoch 1/1 step 1/10  8.0");
  progress.clear();
  progress.clear();
  REQUIRE(written.size() == 2);
  CHECK(written[1] == "\r\x1b[K");
  columns = 12;  // the window was made narrower
  now += 1, progress.step(8, 0);
  CHECK(written.back() == "\r\x1b[Kepoch 1/1 s");
  columns = 80;
  progress.finish();
  CHECK(written[3].starts_with("\r\x1b[Kepoch 1/1 step 3/10  11.9 img/s"));
  CHECK(written.back() == "\n");
}

TEST_CASE_FIXTURE(ProgressFixture, "an open line ends when the loop is left by an exception") {
  {
    Progress progress("epoch 1/1", 10, 0, output(true));
    now += 1, progress.step(8, 0);
  }
  CHECK(written.back() == "\n");
}

TEST_CASE_FIXTURE(ProgressFixture,
                  "bytes that arrive are told with their rate since the first ones") {
  constexpr int64_t kMiB = 1 << 20;
  ByteProgress progress("fetching f", output(false));
  progress.show(10 * kMiB, 50 * kMiB);  // were there before
  now += 1;
  progress.show(12 * kMiB, 50 * kMiB);  // too soon for another line
  now += 4;
  progress.show(20 * kMiB, 50 * kMiB);
  now += 15;
  progress.show(50 * kMiB, 50 * kMiB);
  REQUIRE(written.size() == 3);
  CHECK(written[0] == "fetching f  10.0 of 50.0 MiB\n");
  CHECK(written[1] == "fetching f  20.0 of 50.0 MiB  2.0 MiB/s  eta 0:15\n");
  CHECK(written[2] == "fetching f  50.0 of 50.0 MiB  2.0 MiB/s\n");
  ByteProgress unknown("g", output(false));
  unknown.show(kMiB, 0);
  CHECK(written.back() == "g  1.0 MiB\n");
}
