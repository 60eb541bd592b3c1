// Means, intervals, speed-up and what is said of them, beside values worked by hand.
#include <cmath>

#include "io/files/csv.h"
#include "tests/support.h"
#include "tests/tools/scale/study_rows.h"
#include "tools/scale/report.h"
#include "tools/scale/summary.h"

using namespace engine;
using namespace engine::test;
using doctest::Approx;

namespace {

std::vector<RunRow> joined(std::initializer_list<std::vector<RunRow>> parts) {
  std::vector<RunRow> rows;
  for (const auto& part : parts) rows.insert(rows.end(), part.begin(), part.end());
  return rows;
}

}  // namespace

TEST_CASE("intervals are Student's") {
  CHECK(student_t(1) == Approx(12.706));
  CHECK(student_t(2) == Approx(4.303));
  CHECK(student_t(30) == Approx(2.042));
  CHECK(student_t(60) == Approx(2.000).epsilon(1e-3));
  CHECK(student_t(1'000'000) == Approx(1.96).epsilon(1e-4));
  // Of 9, 10, 11: s = 1, so the half width is 4.303 / √3.
  const MeanInterval three = mean_interval(std::vector<double>{9, 10, 11});
  CHECK(three.value == 10);
  CHECK(three.half == Approx(2.4843).epsilon(1e-4));
  CHECK(std::isnan(mean_interval(std::vector<double>{7}).half));
  CHECK(std::isnan(mean_interval({}).value));
  // 3% and 4% are 5%.
  const MeanInterval quotient = ratio({200, 6}, {100, 4});
  CHECK(quotient.value == 2);
  CHECK(quotient.half == Approx(0.1));
}

TEST_CASE("weak scaling is compared with one rank of the same batch") {
  auto rows = joined({repeats_of(1, 32, 32, "weak", 100, 1), repeats_of(1, 64, 64, "weak", 500, 1),
                      repeats_of(4, 32, 128, "weak", 360, 2)});
  // A step takes 1280 / 3.6 = 355.6 ms of which one alone needs 320; 5% of it is all-reduce.
  for (RunRow& row : rows)
    if (row.ranks == 4) row.exposed_all_reduce_ms = 0.05 * row.ms_median;
  const auto all = summarise(rows, 360'000);
  REQUIRE(all.size() == 3);
  const Summary& one = all[0];
  const Summary& four = all[2];
  CHECK(one.efficiency->value == 1);
  CHECK_FALSE(one.losses);
  CHECK(four.repeats == 3);
  CHECK(four.rate.value == Approx(360));
  CHECK(four.speed_up->value == Approx(3.6));
  CHECK(four.efficiency->value == Approx(0.9));
  // 4.303 / √3 = 2.484 times spreads of 1 in 100 and 2 in 360.
  CHECK(four.efficiency->half == Approx(0.9 * 2.4843 * std::hypot(0.01, 2. / 360)).epsilon(1e-3));
  CHECK(four.losses->all_reduce == Approx(0.05).epsilon(1e-3));
  CHECK(four.losses->data == 0);
  CHECK(four.losses->rest == Approx(0.05).epsilon(1e-2));
  CHECK(four.hours_per_epoch == Approx(360'000. / 360 / 3600));
  CHECK(four.superlinear.empty());
  CHECK((all[1].best && !four.best && !one.best));
  CHECK(sentence(four, "GPU") ==
        "4 GPUs: 3.60x one, 90%; lost 5% to all-reduce, 5% to computation");
}

TEST_CASE("what independent ranks lose is lost to the host") {
  // Of 400 images a second that four ranks might reach, they reach 380 apart and 340 together.
  auto rows = joined({repeats_of(1, 32, 32, "weak", 100, 1), repeats_of(4, 32, 128, "weak", 340, 1),
                      repeats_of(4, 32, 128, "independent", 380, 1)});
  for (RunRow& row : rows)  // of which most is waiting for ranks that the host has slowed
    if (row.scaling == "weak" && row.ranks == 4) row.exposed_all_reduce_ms = 0.14 * row.ms_median;
  const auto all = summarise(rows, 0);
  REQUIRE(all.size() == 3);
  const Summary &four = all[1], &apart = all[2];
  CHECK(apart.efficiency->value == Approx(0.95));
  CHECK(std::isnan(apart.losses->host));
  CHECK(four.efficiency->value == Approx(0.85));
  // One alone computes its 32 images in 320 ms, one of four apart in 336.8.
  CHECK(four.losses->host == Approx((1280 / 3.8 - 320) / (1280 / 3.4)).epsilon(1e-3));
  CHECK(four.losses->all_reduce == Approx(0.15 - four.losses->host).epsilon(1e-3));
  const Losses& lost = *four.losses;
  CHECK(four.efficiency->value + lost.data + lost.all_reduce + lost.host + lost.rest == Approx(1));
  CHECK(mentions(sentence(four, "core"), "lost 11% to all-reduce, 4% to the host"));
  CHECK((four.best && !apart.best));  // which trains four models
}

TEST_CASE("one disturbed turn does not move the median of the turns") {
  auto rows =
      joined({repeats_of(1, 32, 32, "weak", 100, 0), repeats_of(2, 32, 64, "weak", 190, 0)});
  rows[1].images_per_second = 40;  // of one rank
  const Summary two = summarise(rows, 0)[1];
  CHECK(two.efficiency->value == Approx(190. / 2 / 80));
  CHECK(two.median_efficiency == Approx(0.95));
  CHECK(mentions(sentence(two, "core"), "(median of the turns 95%)"));
}

TEST_CASE("strong scaling is compared with one rank of the whole batch") {
  // One rank waits 32 of 320 ms for data; two have half of that step, 160 ms, and 40 ms for data.
  auto rows =
      joined({repeats_of(1, 32, 32, "weak", 100, 0), repeats_of(2, 16, 32, "strong", 160, 0)});
  for (RunRow& row : rows) row.data_ms = row.ranks == 1 ? 32 : 40;
  const Summary two = summarise(rows, 0)[1];
  CHECK(two.efficiency->value == Approx(0.8));
  CHECK(two.losses->data == Approx((40. - 16) / 200));
  CHECK(two.losses->rest == Approx(0.2 - 24. / 200));
  CHECK(std::isnan(two.hours_per_epoch));
}

TEST_CASE("more than the ideal is explained") {
  const auto verdict = [](double spread, const char* scaling, int batch) {
    const int global = scaling == std::string("weak") ? 64 : 32;
    return summarise(joined({repeats_of(1, 32, 32, "weak", 100, spread),
                             repeats_of(2, batch, global, scaling, 210, 0)}),
                     0)[1]
        .superlinear;
  };
  CHECK(mentions(verdict(10, "weak", 32), "noise: the repeats of one rank differ by ±24.8%"));
  CHECK(mentions(verdict(0.1, "weak", 32), "baseline"));
  const std::vector<RunRow> single{measured_row(1, 32, 32, "weak", 100),
                                   measured_row(2, 32, 64, "weak", 210)};
  CHECK(mentions(summarise(single, 0)[1].superlinear, "unsure"));
  CHECK(mentions(verdict(0.1, "strong", 16), "cache: a rank works on 16 MiB, one alone on 32 MiB"));
}

TEST_CASE("what was not measured is neither compared nor best") {
  auto rows = joined({repeats_of(2, 32, 64, "weak", 100, 1), repeats_of(3, 32, 96, "weak", 1, 0)});
  for (RunRow& row : rows)
    if (row.ranks == 3) {
      row.images_per_second = kNotMeasured;
      row.status = "does_not_fit";
    }
  rows[0].status = "failed: once";
  const auto all = summarise(rows, 0);
  REQUIRE(all.size() == 2);
  CHECK(all[0].repeats == 2);
  CHECK(all[0].mean.status == "ok");
  CHECK_FALSE(all[0].speed_up);  // no run of one rank
  CHECK(all[0].best);
  CHECK(all[1].repeats == 0);
  CHECK(all[1].mean.status == "does_not_fit");
  CHECK_FALSE(all[1].best);
}

TEST_CASE("the summary is a CSV, a row for each configuration") {
  const auto all = summarise(
      joined({repeats_of(1, 32, 32, "weak", 100, 1), repeats_of(2, 32, 64, "weak", 190, 1)}), 7200);
  const Csv csv = parse_csv(summary_csv(all), "summary.csv");
  REQUIRE(csv.rows.size() == 2);
  const auto field = [&](int row, const char* name) {
    REQUIRE(csv.column(name) >= 0);
    return csv.rows[row].fields[csv.column(name)];
  };
  CHECK(field(1, "speed_up") == "1.9");
  CHECK(field(1, "efficiency") == "0.95");
  CHECK(field(1, "best") == "1");
  CHECK(field(0, "hours_per_epoch") == "0.02");
  CHECK(field(0, "watts").empty());
  CHECK(field(1, "device") == "A, \"quoted\" device");
}

TEST_CASE("the report has its head, published rates below their configuration, and sentences") {
  const auto all = summarise(
      joined({repeats_of(1, 32, 32, "weak", 100, 1), repeats_of(2, 32, 64, "weak", 190, 1)}), 7200);
  const StudyFacts facts{.machine = {{"host", "somewhere"}, {"links", "NVLink"}},
                         .models = {{"mnist_cnn", "10 classes"}},
                         .unit = "GPU",
                         .fingerprint = "{}"};
  const std::string text = report(facts, all, std::vector{published_rate()});
  for (const char* part :
       {"links             NVLink\n", "1.90x", "95.0%", "  2.00 x 95.0 img/s: H, S, eager\n",
        "mnist_cnn, fp32, batch 32, weak: 2 GPUs: 1.90x one, 95%; lost 5% to computation\n",
        "mnist_cnn: best is 2 GPUs, fp32, batch 32 each: 190.0 img/s, 38 s per epoch\n"})
    CHECK(mentions(text, part));
  CHECK(describe_links({"NVLink", "NVLink", "NVLink"}) == "NVLink");
  CHECK(describe_links({"NVLink", "PCIe switch"}) == "1 pair: NVLink, 1 pair: PCIe switch");
  CHECK(published_csv(std::vector{published_rate()}, std::vector<std::string>{"densenet121"})
            .find("eager") == std::string::npos);
}
