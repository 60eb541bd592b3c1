#include "engine/precision.h"

#include <utility>

#include "engine/error.h"

namespace engine {

namespace {
constexpr std::pair<Precision, std::string_view> kNames[] = {{Precision::fp64, "fp64"},
                                                             {Precision::fp32, "fp32"},
                                                             {Precision::tf32, "tf32"},
                                                             {Precision::fp16, "fp16"},
                                                             {Precision::bf16, "bf16"}};
}  // namespace

Precision parse_precision(std::string_view name) {
  for (const auto& [precision, known] : kNames)
    if (name == known) return precision;
  fail(Failure::usage, "--precision {}: known are fp64, fp32, tf32, fp16, bf16", name);
}

std::string_view name_of(Precision precision) {
  for (const auto& [known, name] : kNames)
    if (precision == known) return name;
  return "?";
}

DType storage_type(Precision precision) {
  switch (precision) {
    case Precision::fp64: return DType::f64;
    case Precision::fp32:
    case Precision::tf32: return DType::f32;
    case Precision::fp16: return DType::f16;
    case Precision::bf16: return DType::bf16;
  }
  return DType::f32;
}

}  // namespace engine
