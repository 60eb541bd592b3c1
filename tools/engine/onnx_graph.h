// A graph with its weights as an ONNX model: what evaluation mode computes, in NCHW as ONNX has it.
// Values bear the names of the layers, initializers those of the state dict.
#pragma once

#include <map>
#include <string>

#include "engine/graph.h"
#include "io/images/preprocess.h"
#include "io/weights/onnx.h"

namespace engine {

struct OnnxOptions {
  // Batch norms become part of the convolution before them, where that one is the only producer of
  // what they read (all of an EfficientNet; of a DenseNet the norms inside dense layers).
  bool fold_norms = false;
  // The model takes decoded bytes "pixels" (batch, H, W, C) instead of normalised floats "images"
  // (batch, C, H, W).
  bool with_normalisation = false;
};

// `tensors`: parameters and running statistics by the reference's names. The output is "logits"
// (batch, classes).
OnnxModel to_onnx(const Graph& graph, const std::map<std::string, Tensor>& tensors,
                  const Preprocess& preprocess, const OnnxOptions& options);

}  // namespace engine
