// ONNX models: the parts of the format that an exported network needs, and their bytes. Opset 13
// with IR version 7 is the oldest that has every operator used here; onnxruntime ≥ 1.6, TensorRT ≥
// 8 and OpenVINO ≥ 2021.3 read it.
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "engine/tensor.h"

namespace engine {

inline constexpr int kOnnxOpset = 13, kOnnxIrVersion = 7;

struct OnnxNode {
  std::string op;    // an operator of the default domain: "Conv"
  std::string name;  // unique
  std::vector<std::string> inputs;
  std::string output;
  using Attribute = std::variant<int64_t, float, std::vector<int64_t>>;
  std::vector<std::pair<std::string, Attribute>> attributes;
};

// An input or output. A dimension of 0 is the batch, which may have any size.
struct OnnxValue {
  std::string name;
  DType dtype = DType::f32;  // f32, u8 or i64
  Shape shape;
};

struct OnnxModel {
  std::string name;
  std::vector<OnnxValue> inputs, outputs;
  std::vector<OnnxNode> nodes;                               // each after those that it reads
  std::vector<std::pair<std::string, Tensor>> initializers;  // weights and constants
  std::map<std::string, std::string> metadata;               // metadata_props
  std::string producer_version;
};

std::string onnx_bytes(const OnnxModel& model);

// Writes the file atomically. Error(usage) for more than 2 GiB, which the format does not allow.
void write_onnx(const std::filesystem::path& path, const OnnxModel& model);

}  // namespace engine
