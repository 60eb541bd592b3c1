// V consecutive channels of one pixel, moved by one load or store of up to 16 bytes; and the
// conversions to float.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cstdint>

namespace engine::kernels {

template <int Bytes>
struct Word;
template <>
struct Word<2> {
  using type = uint16_t;
};
template <>
struct Word<4> {
  using type = uint32_t;
};
template <>
struct Word<8> {
  using type = uint2;
};
template <>
struct Word<16> {
  using type = uint4;
};

template <class T, int V>
struct alignas(sizeof(T) * V) Vector {
  T at[V];
};

// The channels of a full 16-byte access.
template <class T>
constexpr int kFullVector = 16 / static_cast<int>(sizeof(T));

template <int V, class T>
__device__ __forceinline__ Vector<T, V> load_vector(const T* from) {
  using Bits = typename Word<sizeof(T) * V>::type;
  Vector<T, V> vector;
  *reinterpret_cast<Bits*>(&vector) = *reinterpret_cast<const Bits*>(from);
  return vector;
}

template <class T, int V>
__device__ __forceinline__ void store_vector(T* to, const Vector<T, V>& vector) {
  using Bits = typename Word<sizeof(T) * V>::type;
  *reinterpret_cast<Bits*>(to) = *reinterpret_cast<const Bits*>(&vector);
}

__device__ __forceinline__ float to_float(float x) {
  return x;
}
__device__ __forceinline__ float to_float(__half x) {
  return __half2float(x);
}
__device__ __forceinline__ float to_float(__nv_bfloat16 x) {
  return __bfloat162float(x);
}

template <class T>
__device__ __forceinline__ T from_float(float x);
template <>
__device__ __forceinline__ float from_float<float>(float x) {
  return x;
}
template <>
__device__ __forceinline__ __half from_float<__half>(float x) {
  return __float2half_rn(x);
}
template <>
__device__ __forceinline__ __nv_bfloat16 from_float<__nv_bfloat16>(float x) {
  return __float2bfloat16_rn(x);
}

// Pairs of 16-bit values are taken out of their word together: a half of its own costs a register.
template <class T, int V>
__device__ __forceinline__ void to_floats(float (&out)[V], const Vector<T, V>& vector) {
  if constexpr (sizeof(T) == 2 && V % 2 == 0) {
#pragma unroll
    for (int k = 0; k < V; k += 2) {
      const float2 pair = [&] {
        if constexpr (std::is_same_v<T, __half>) {
          return __half22float2(*reinterpret_cast<const __half2*>(&vector.at[k]));
        } else {  // a bfloat16 is the upper half of a float
          const uint32_t word = *reinterpret_cast<const uint32_t*>(&vector.at[k]);
          return make_float2(__uint_as_float(word << 16), __uint_as_float(word & 0xffff0000u));
        }
      }();
      out[k] = pair.x;
      out[k + 1] = pair.y;
    }
  } else {
#pragma unroll
    for (int k = 0; k < V; ++k) out[k] = to_float(vector.at[k]);
  }
}

// Rounds to the storage type, two values per instruction where there are two.
template <class T, int V>
__device__ __forceinline__ Vector<T, V> vector_of(const float (&in)[V]) {
  Vector<T, V> vector;
  if constexpr (sizeof(T) == 2 && V % 2 == 0) {
#pragma unroll
    for (int k = 0; k < V; k += 2) {
      if constexpr (std::is_same_v<T, __half>)
        *reinterpret_cast<__half2*>(&vector.at[k]) = __floats2half2_rn(in[k], in[k + 1]);
      else
        *reinterpret_cast<__nv_bfloat162*>(&vector.at[k]) = __floats2bfloat162_rn(in[k], in[k + 1]);
    }
  } else {
#pragma unroll
    for (int k = 0; k < V; ++k) vector.at[k] = from_float<T>(in[k]);
  }
  return vector;
}

// Whether vectors of V lie on their own size's boundary in (pixels, pitch) memory; a null pointer
// does not matter.
template <int V, class T>
bool vectors_fit(const T* pointer, int channels, int pitch) {
  return channels % V == 0 && pitch % V == 0 &&
         reinterpret_cast<uintptr_t>(pointer) % (sizeof(T) * V) == 0;
}

}  // namespace engine::kernels
