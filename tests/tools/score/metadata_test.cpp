// What weight files say of calibration, as texts.
#include "tools/score/metadata.h"

#include <doctest/doctest.h>

#include "engine/error.h"
#include "tests/support.h"

using namespace engine;
using namespace engine::test;

TEST_CASE("thresholds come back from a weight file, with names of any bytes and without a value") {
  const Thresholds written{.rule = "sensitivity@0.9",
                           .classes = {{"z, \"big\"", 0.25, 0.9, 1. / 3}, {"a\xff", {}, {}, {}}}};
  const std::map<std::string, std::string> metadata = {{kThresholds, to_json(written)},
                                                       {kTemperature, "1.25"}};
  CHECK(thresholds_of(metadata, "w") == written);
  CHECK(temperature_of(metadata, "w") == 1.25);
  for (const RejectThreshold& reject : {RejectThreshold{0.95, 0.875, 0.7},
                                        RejectThreshold{1, 0.9, {}}, RejectThreshold{0.5, {}, {}}})
    CHECK(reject_of({{kReject, to_json(reject)}}, "w") == reject);
  CHECK_FALSE(reject_of({}, "w").has_value());
  CHECK_FALSE(thresholds_of({}, "w").has_value());
  CHECK_FALSE(temperature_of({}, "w").has_value());
}

TEST_CASE("metadata that is no calibration is refused by name") {
  const auto refused = [](const char* name, const char* text) {
    return message_of(
        [&] {
          temperature_of({{name, text}}, "w.safetensors");
          thresholds_of({{name, text}}, "w.safetensors");
          reject_of({{name, text}}, "w.safetensors");
        },
        Failure::weights);
  };
  for (const char* text : {"", "0", "-1", "nan", "inf", "1e999", "1.5x"})
    CHECK(mentions(refused(kTemperature, text),
                   fmt::format("w.safetensors: '{}' in its metadata is no temperature", text)));
  for (const char* text : {"", "[]", "{}", R"({"threshold": 0.5})"})
    CHECK(mentions(refused(kReject, text), "no JSON object with an accuracy"));
  for (const char* text : {R"({"accuracy": 1.5})", R"({"accuracy": 0.5, "threshold": "0.5"})"})
    CHECK(mentions(refused(kReject, text), "is no number from 0 to 1"));
  for (const char* text :
       {"", "[]", "{}", R"({"rule": 1, "classes": {}})", R"({"rule": "youden"})"})
    CHECK(mentions(refused(kThresholds, text), "no JSON object with rule and classes"));
  CHECK(mentions(refused(kThresholds, R"({"rule": "youden", "classes": {"a": 1}})"),
                 "no JSON object"));
  CHECK(mentions(refused(kThresholds, R"({"rule": "youden", "classes": {"a": {"threshold": 2}}})"),
                 "the threshold of a threshold in its metadata is no number from 0 to 1"));
}
