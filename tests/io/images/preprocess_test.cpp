#include "io/images/preprocess.h"

#include <doctest/doctest.h>

#include <fstream>
#include <string>
#include <vector>

#include "engine/error.h"
#include "tests/io/images/pillow.h"
#include "tests/support.h"

using namespace engine;
using namespace engine::test;

TEST_CASE("torchvision's defaults by model") {
  const Preprocess b3 = default_preprocess("efficientnet_b3");
  CHECK(describe(b3) ==
        "resize 320 bicubic, crop 300, mean 0.485 0.456 0.406, std 0.229 0.224 0.225");
  CHECK(describe(default_preprocess("densenet121")) ==
        "resize 256 bilinear, crop 224, mean 0.485 0.456 0.406, std 0.229 0.224 0.225");
  CHECK(describe(default_preprocess("mnist_cnn")) ==
        "resize 28 bilinear, crop 28, mean 0.1307, std 0.3081");
  CHECK(default_preprocess("mnist_cnn").channels == 1);
  CHECK(default_preprocess("efficientnet_b7").crop == 600);
  for (const char* resnet : {"resnet18", "resnet34", "resnet50", "resnet101", "resnet152"})
    CHECK(default_preprocess(resnet) == default_preprocess("densenet121"));
  CHECK(describe(default_preprocess("efficientnet_v2_s"))
            .starts_with("resize 384 bilinear, crop 384, mean 0.485 "));
  CHECK(describe(default_preprocess("efficientnet_v2_m"))
            .starts_with("resize 480 bilinear, crop 480, mean 0.485 "));
  CHECK_THROWS_AS(default_preprocess("resnet51"), Error);
}

TEST_CASE("flags") {
  Preprocess p;
  set_resize(p, "224x256");
  CHECK(p.resize_height == 224);
  CHECK(p.resize_width == 256);
  CHECK(format_resize(p) == "224x256");
  set_resize(p, "300");
  CHECK(format_resize(p) == "300");
  set_crop(p, "64");
  CHECK(p.crop == 64);
  for (const char* bad : {"", "x", "0", "-3", "12x", "x12", "1x2x3", "99999", "a", "12 "}) {
    INFO(bad);
    CHECK_THROWS_AS(set_resize(p, bad), Error);
    CHECK_THROWS_AS(set_crop(p, bad), Error);
  }
  CHECK(format_resize(p) == "300");  // a refused value changes nothing

  set_mean(p, "none");
  set_std(p, "none");
  CHECK(describe(p).ends_with("mean 0 0 0, std 1 1 1"));
  set_mean(p, "0.5,-0.25,1e-1");
  set_std(p, "0.25");
  CHECK(p.mean == std::array{0.5f, -0.25f, 0.1f});
  CHECK(p.std == std::array{0.25f, 0.25f, 0.25f});
  for (const char* bad : {"", "x", "1,2", "1,2,3,4", "1,", ",1", "nan", "inf", "1;2;3", "None"}) {
    INFO(bad);
    CHECK(mentions(message_of([&] { set_mean(p, bad); }, Failure::usage), "--mean"));
    CHECK(mentions(message_of([&] { set_std(p, bad); }, Failure::usage), "--std"));
  }
  for (const char* bad : {"0", "-1", "1,0,1"}) CHECK_THROWS_AS(set_std(p, bad), Error);
}

TEST_CASE("metadata survives the round trip") {
  Preprocess p = default_preprocess("efficientnet_b3");
  set_resize(p, "224x200");
  CHECK(preprocess_from_json(to_json(p)) == p);
  const Preprocess digits = default_preprocess("mnist_cnn");
  CHECK(preprocess_from_json(to_json(digits)) == digits);
  const std::string good = to_json(p);
  for (const std::string& bad :
       {std::string(), std::string("[]"), std::string("{}"), good.substr(0, good.size() / 2)}) {
    INFO(bad);
    CHECK_THROWS_AS(preprocess_from_json(bad), Error);
  }
  // 4294967520 is 224 beyond 32 bits.
  for (const char* crop : {"4294967520", "28e34", "-28e34", "224.5", "true", "\"224\"", "null"}) {
    CAPTURE(crop);
    std::string other = good;
    const std::string member = fmt::format("\"crop\":{}", p.crop);
    REQUIRE(mentions(other, member));
    other.replace(other.find(member), member.size(), fmt::format("\"crop\":{}", crop));
    CHECK_THROWS_AS(preprocess_from_json(other), Error);
  }
  Preprocess broken = p;
  broken.std[1] = 0;
  CHECK_THROWS_AS(preprocess_from_json(to_json(broken)), Error);
  broken = p;
  broken.crop = -1;
  CHECK_THROWS_AS(preprocess_from_json(to_json(broken)), Error);
}

TEST_CASE("cropping takes what is there and zeros beside it") {
  Image image(2, 2, 1);
  image.pixels = {1, 2, 3, 4};
  CHECK(crop(image, 1, 0, 1, 2).pixels == std::vector<uint8_t>{2, 4});
  CHECK(crop(image, -1, -1, 3, 2).pixels == std::vector<uint8_t>{0, 0, 0, 0, 1, 2});
  CHECK(crop(image, 5, 5, 2, 1).pixels == std::vector<uint8_t>{0, 0});
  Image row(5, 1, 1);
  row.pixels = {1, 2, 3, 4, 5};
  // (5 − 2) / 2 = 1.5 and (1 − 2) / 2: the first rounds to even, the second pads below.
  CHECK(center_crop(row, 2).pixels == std::vector<uint8_t>{3, 4, 0, 0});
}

TEST_CASE("the evaluation transform equals torchvision's") {
  if (!has_python_module("torchvision")) return note_skipped("no Python with torchvision");
  TemporaryFolder folder;
  struct Case {
    Image image;
    Preprocess preprocess;
  };
  std::vector<Case> cases;
  std::ofstream list(folder.path() / "cases.txt");
  const int sizes[][2] = {{31, 40}, {40, 31}, {33, 33}, {7, 90}, {64, 61}};
  const int shapes[][2] = {{32, 28}, {33, 28}, {40, 40}, {20, 27}, {27, 20}};  // resize, crop
  for (const auto& [width, height] : sizes)
    for (const auto& [resize, crop] : shapes)
      for (const int channels : {1, 3})
        for (const Interpolation interpolation :
             {Interpolation::bilinear, Interpolation::bicubic}) {
          const size_t i = cases.size();
          cases.push_back(
              {noise_image(width, height, channels, uint32_t(i)),
               {.resize_height = resize, .interpolation = interpolation, .crop = crop}});
          const auto at = (folder.path() / std::to_string(i)).string();
          write_raw(at + ".in.raw", cases[i].image);
          list << fmt::format("{0}.in.raw|{0}.raw|shorter|{1}|{2}|{3}\n", at, resize,
                              to_string(interpolation), crop);
        }
  list.close();
  run_pillow("cases", folder.path());
  for (size_t i = 0; i < cases.size(); ++i) {
    INFO(cases[i].image.width << "x" << cases[i].image.height << " "
                              << describe(cases[i].preprocess));
    CHECK(same_pixels(evaluate_transform(cases[i].image, cases[i].preprocess),
                      read_raw(folder.path() / fmt::format("{}.raw", i))));
  }
}
