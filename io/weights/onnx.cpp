#include "io/weights/onnx.h"

#include "engine/error.h"
#include "io/files/atomic_file.h"
#include "io/files/protobuf.h"

namespace engine {
namespace {

// Field numbers of onnx.proto.
struct ModelProto {
  enum {
    ir_version = 1,
    producer_name = 2,
    producer_version = 3,
    graph = 7,
    opset_import = 8,
    metadata_props = 14
  };
};
struct OperatorSetIdProto {
  enum { domain = 1, version = 2 };
};
struct StringStringEntryProto {
  enum { key = 1, value = 2 };
};
struct GraphProto {
  enum { node = 1, name = 2, initializer = 5, input = 11, output = 12 };
};
struct NodeProto {
  enum { input = 1, output = 2, name = 3, op_type = 4, attribute = 5 };
};
struct AttributeProto {
  enum { name = 1, f = 2, i = 3, ints = 8, type = 20 };
  enum Type { kFloat = 1, kInt = 2, kInts = 7 };
};
struct TensorProto {
  enum { dims = 1, data_type = 2, name = 8, raw_data = 9 };
};
struct ValueInfoProto {
  enum { name = 1, type = 2 };
};
struct TypeProto {
  enum { tensor_type = 1, elem_type = 1, shape = 2 };
};
struct TensorShapeProto {
  enum { dim = 1, dim_value = 1, dim_param = 2 };
};

// The value of TensorProto.DataType.
int64_t data_type(DType type) {
  switch (type) {
    case DType::f32: return 1;
    case DType::u8: return 2;
    case DType::i64: return 7;
    default: fail(Failure::internal, "onnx: no tensors of {}", name_of(type));
  }
}

ProtoWriter attribute(const std::string& name, const OnnxNode::Attribute& value) {
  ProtoWriter w;
  w.text(AttributeProto::name, name);
  if (const auto* i = std::get_if<int64_t>(&value)) {
    w.integer(AttributeProto::i, *i);
    w.integer(AttributeProto::type, AttributeProto::kInt);
  } else if (const auto* f = std::get_if<float>(&value)) {
    w.real(AttributeProto::f, *f);
    w.integer(AttributeProto::type, AttributeProto::kFloat);
  } else {
    for (const int64_t i : std::get<std::vector<int64_t>>(value))
      w.integer(AttributeProto::ints, i);
    w.integer(AttributeProto::type, AttributeProto::kInts);
  }
  return w;
}

ProtoWriter node(const OnnxNode& n) {
  ProtoWriter w;
  for (const std::string& input : n.inputs) w.text(NodeProto::input, input);
  w.text(NodeProto::output, n.output);
  w.text(NodeProto::name, n.name);
  w.text(NodeProto::op_type, n.op);
  for (const auto& [name, value] : n.attributes)
    w.message(NodeProto::attribute, attribute(name, value));
  return w;
}

ProtoWriter tensor(const std::string& name, const Tensor& t) {
  ProtoWriter w;
  for (const int64_t d : t.shape) w.integer(TensorProto::dims, d);
  w.integer(TensorProto::data_type, data_type(t.dtype));
  w.text(TensorProto::name, name);
  w.text(TensorProto::raw_data, as_text(t.bytes));
  return w;
}

ProtoWriter value_info(const OnnxValue& v) {
  ProtoWriter shape, tensor, type, w;
  for (const int64_t d : v.shape) {
    ProtoWriter dim;
    if (d == 0)
      dim.text(TensorShapeProto::dim_param, "batch");
    else
      dim.integer(TensorShapeProto::dim_value, d);
    shape.message(TensorShapeProto::dim, dim);
  }
  tensor.integer(TypeProto::elem_type, data_type(v.dtype));
  tensor.message(TypeProto::shape, shape);
  type.message(TypeProto::tensor_type, tensor);
  w.text(ValueInfoProto::name, v.name);
  w.message(ValueInfoProto::type, type);
  return w;
}

}  // namespace

std::string onnx_bytes(const OnnxModel& model) {
  ProtoWriter graph;
  for (const OnnxNode& n : model.nodes) graph.message(GraphProto::node, node(n));
  graph.text(GraphProto::name, model.name);
  for (const auto& [name, t] : model.initializers)
    graph.message(GraphProto::initializer, tensor(name, t));
  for (const OnnxValue& v : model.inputs) graph.message(GraphProto::input, value_info(v));
  for (const OnnxValue& v : model.outputs) graph.message(GraphProto::output, value_info(v));

  ProtoWriter opset, w;
  opset.text(OperatorSetIdProto::domain, "");
  opset.integer(OperatorSetIdProto::version, kOnnxOpset);
  w.integer(ModelProto::ir_version, kOnnxIrVersion);
  w.text(ModelProto::producer_name, "engine");
  w.text(ModelProto::producer_version, model.producer_version);
  w.message(ModelProto::graph, graph);
  w.message(ModelProto::opset_import, opset);
  for (const auto& [key, value] : model.metadata) {
    ProtoWriter entry;
    entry.text(StringStringEntryProto::key, key);
    entry.text(StringStringEntryProto::value, value);
    w.message(ModelProto::metadata_props, entry);
  }
  return w.bytes();
}

void write_onnx(const std::filesystem::path& path, const OnnxModel& model) {
  const std::string bytes = onnx_bytes(model);
  require(bytes.size() < (size_t{1} << 31), Failure::usage, "{}: {} bytes, an ONNX file has 2 GiB",
          path.string(), bytes.size());
  write_file_atomically(path, bytes);
}

}  // namespace engine
