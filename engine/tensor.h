// Element types, shapes and tensors in host memory: what files hold and what readers exchange.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace engine {

enum class DType { f32, f16, bf16, f64, i64, i32, u8, boolean };

size_t size_of(DType type);            // bytes per element
std::string_view name_of(DType type);  // "F32", "F16", …: safetensors' names

using Shape = std::vector<int64_t>;

int64_t elements(const Shape& shape);  // throws Error(internal) on overflow or a negative dimension
std::string to_string(const Shape& shape);  // "[40, 3, 3, 3]"

// Dense and row-major: `bytes.size() == elements(shape) * size_of(dtype)`.
struct Tensor {
  DType dtype = DType::f32;
  Shape shape;
  std::vector<std::byte> bytes;

  Tensor() = default;
  Tensor(DType dtype, Shape shape);  // zeros

  int64_t size() const { return elements(shape); }
  template <class T>
  std::span<T> as() {
    return {reinterpret_cast<T*>(bytes.data()), bytes.size() / sizeof(T)};
  }
  template <class T>
  std::span<const T> as() const {
    return {reinterpret_cast<const T*>(bytes.data()), bytes.size() / sizeof(T)};
  }
};

// Converts between f32, f64, f16, bf16 (round to nearest even) and from integers; same shape.
Tensor convert(const Tensor& from, DType to);

// The element as a number.
double value_at(const Tensor& tensor, int64_t index);

// The index of the first element that is NaN or infinite; -1: all are finite.
int64_t first_not_finite(const Tensor& tensor);
// The same of a matrix, among the columns [first, last) of all rows.
int64_t first_not_finite(const Tensor& matrix, int64_t first, int64_t last);

float half_to_float(uint16_t bits);
uint16_t float_to_half(float value);  // round to nearest even, overflow to infinity
float bfloat16_to_float(uint16_t bits);
uint16_t float_to_bfloat16(float value);  // round to nearest even

// The contents of a weight file: tensors, sorted by name, and its free-text metadata.
struct TensorFile {
  std::map<std::string, Tensor> tensors;
  std::map<std::string, std::string> metadata;
};

}  // namespace engine
