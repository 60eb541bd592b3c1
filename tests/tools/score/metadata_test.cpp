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
  std::map<std::string, std::string> metadata = {{"model", "m"}};
  for (const RejectThreshold& reject :
       {RejectThreshold{0.95, 0.875, 0.7}, RejectThreshold{1, 0.9, {}},
        RejectThreshold{0.5, {}, {}}}) {
    const Decisions decisions{1.25, written, reject};
    put_decisions(metadata, decisions);
    CHECK(decisions_of(metadata, "w") == decisions);
  }
  put_decisions(metadata, {.temperature = 0.1 + 0.2});
  CHECK(decisions_of(metadata, "w") == Decisions{.temperature = 0.1 + 0.2});
  put_decisions(metadata, {});
  CHECK(metadata == std::map<std::string, std::string>{{"model", "m"}});
  CHECK(decisions_of(metadata, "w") == Decisions{});
}

TEST_CASE("metadata that is no calibration is refused by name") {
  const auto refused = [](const char* name, const char* text) {
    return message_of([&] { decisions_of({{name, text}}, "w.safetensors"); }, Failure::weights);
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
