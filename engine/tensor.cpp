#include "engine/tensor.h"

#include <fmt/ranges.h>

#include <bit>
#include <cassert>
#include <cstring>

#include "engine/error.h"

namespace engine {

size_t size_of(DType type) {
  switch (type) {
    case DType::f64:
    case DType::i64: return 8;
    case DType::f32:
    case DType::i32: return 4;
    case DType::f16:
    case DType::bf16: return 2;
    case DType::u8:
    case DType::boolean: return 1;
  }
  fail(Failure::internal, "unknown element type {}", static_cast<int>(type));
}

std::string_view name_of(DType type) {
  switch (type) {
    case DType::f32: return "F32";
    case DType::f16: return "F16";
    case DType::bf16: return "BF16";
    case DType::f64: return "F64";
    case DType::i64: return "I64";
    case DType::i32: return "I32";
    case DType::u8: return "U8";
    case DType::boolean: return "BOOL";
  }
  fail(Failure::internal, "unknown element type {}", static_cast<int>(type));
}

int64_t elements(const Shape& shape) {
  int64_t count = 1;
  for (int64_t dim : shape) {
    require(dim >= 0 && !__builtin_mul_overflow(count, dim, &count), Failure::internal,
            "shape {} is negative or too large", to_string(shape));
  }
  return count;
}

std::string to_string(const Shape& shape) {
  return fmt::format("[{}]", fmt::join(shape, ", "));
}

Tensor::Tensor(DType dtype, Shape shape)
    : dtype(dtype), shape(std::move(shape)), bytes(elements(this->shape) * size_of(dtype)) {}

float half_to_float(uint16_t bits) {
  const uint32_t sign = uint32_t{bits & 0x8000u} << 16, magnitude = bits & 0x7fffu;
  if (magnitude >= 0x7c00u)
    return std::bit_cast<float>(sign | 0x7f800000u | (magnitude & 0x3ffu) << 13);
  // Multiplying by 2^112 moves the exponent bias from 15 to 127 and normalises subnormals.
  const float value = std::bit_cast<float>(magnitude << 13) * std::bit_cast<float>(0x77800000u);
  return std::bit_cast<float>(std::bit_cast<uint32_t>(value) | sign);
}

uint16_t float_to_half(float value) {
  const uint32_t bits = std::bit_cast<uint32_t>(value), sign = bits >> 16 & 0x8000u;
  const uint32_t magnitude = bits & 0x7fffffffu;
  if (magnitude > 0x7f800000u) return static_cast<uint16_t>(sign | 0x7e00u);   // NaN
  if (magnitude >= 0x477ff000u) return static_cast<uint16_t>(sign | 0x7c00u);  // rounds to ≥ 65520
  if (magnitude < 0x38800000u) {                                               // subnormal half
    // Adding 0.5 leaves the value's 2^-24 multiples in the low mantissa bits, rounded to even.
    const float shifted = std::bit_cast<float>(magnitude) + 0.5f;
    return static_cast<uint16_t>(sign | (std::bit_cast<uint32_t>(shifted) - 0x3f000000u));
  }
  const uint32_t rounded = magnitude + 0xfffu + (magnitude >> 13 & 1u);
  return static_cast<uint16_t>(sign | (rounded - 0x38000000u) >> 13);
}

float bfloat16_to_float(uint16_t bits) {
  return std::bit_cast<float>(uint32_t{bits} << 16);
}

uint16_t float_to_bfloat16(float value) {
  const uint32_t bits = std::bit_cast<uint32_t>(value);
  if ((bits & 0x7fffffffu) > 0x7f800000u) return static_cast<uint16_t>(bits >> 16 | 0x40u);
  return static_cast<uint16_t>((bits + 0x7fffu + (bits >> 16 & 1u)) >> 16);
}

double value_at(const Tensor& t, int64_t i) {
  const std::byte* at = t.bytes.data() + i * size_of(t.dtype);
  const auto load = [&]<class T>(T value) {
    std::memcpy(&value, at, sizeof value);
    return value;
  };
  switch (t.dtype) {
    case DType::f32: return load(float{});
    case DType::f64: return load(double{});
    case DType::f16: return half_to_float(load(uint16_t{}));
    case DType::bf16: return bfloat16_to_float(load(uint16_t{}));
    case DType::i64: return static_cast<double>(load(int64_t{}));
    case DType::i32: return load(int32_t{});
    case DType::u8:
    case DType::boolean: return load(uint8_t{});
  }
  return 0;
}

namespace {

// What a tensor is searched as: rows of elements, and of each row the columns [first, last).
struct Matrix {
  int64_t rows, columns, first, last;
};

// All bits of the exponent are set in NaN and infinity, and in nothing else.
template <class Bits>
int64_t first_not_finite(std::span<const Bits> values, const Matrix& m, Bits exponent) {
  for (int64_t row = 0; row < m.rows; ++row)
    for (int64_t i = row * m.columns + m.first; i < row * m.columns + m.last; ++i)
      if ((values[i] & exponent) == exponent) return i;
  return -1;
}

int64_t first_not_finite(const Tensor& t, const Matrix& m) {
  switch (t.dtype) {
    case DType::f64: return first_not_finite<uint64_t>(t.as<uint64_t>(), m, 0x7ff0000000000000u);
    case DType::f32: return first_not_finite<uint32_t>(t.as<uint32_t>(), m, 0x7f800000u);
    case DType::f16: return first_not_finite<uint16_t>(t.as<uint16_t>(), m, 0x7c00u);
    case DType::bf16: return first_not_finite<uint16_t>(t.as<uint16_t>(), m, 0x7f80u);
    case DType::i64:
    case DType::i32:
    case DType::u8:
    case DType::boolean: break;
  }
  return -1;
}

}  // namespace

int64_t first_not_finite(const Tensor& tensor) {
  return first_not_finite(tensor, Matrix{1, tensor.size(), 0, tensor.size()});
}

int64_t first_not_finite(const Tensor& matrix, int64_t first, int64_t last) {
  assert(matrix.shape.size() == 2);
  return first_not_finite(matrix, Matrix{matrix.shape[0], matrix.shape[1], first, last});
}

Tensor convert(const Tensor& from, DType to) {
  if (from.dtype == to) return from;
  Tensor result(to, from.shape);
  for (int64_t i = 0, n = from.size(); i < n; ++i) {
    const double value = value_at(from, i);
    switch (to) {
      case DType::f32: result.as<float>()[i] = static_cast<float>(value); break;
      case DType::f64: result.as<double>()[i] = value; break;
      case DType::f16: result.as<uint16_t>()[i] = float_to_half(static_cast<float>(value)); break;
      case DType::bf16:
        result.as<uint16_t>()[i] = float_to_bfloat16(static_cast<float>(value));
        break;
      default:
        fail(Failure::internal, "no conversion from {} to {}", name_of(from.dtype), name_of(to));
    }
  }
  return result;
}

}  // namespace engine
