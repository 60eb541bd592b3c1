// Comparisons of two channels of x together, in the order of u = scale·x + shift, which rises with
// x or falls.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cstdint>
#include <type_traits>

#include "kernels/transform.cuh"

namespace engine::kernels {

constexpr int kPair = 2;  // channels

// Two channels, in one word of 16-bit types or in two: values, masks or taps.
template <class T>
struct Words {
  static constexpr int kCount = kPair * int{sizeof(T)} / 4;
  uint32_t at[kCount];

  __device__ __forceinline__ static Words all(uint32_t of_float, uint32_t of_half,
                                              uint32_t of_bfloat) {
    Words words;
#pragma unroll
    for (int i = 0; i < kCount; ++i)
      words.at[i] = std::is_same_v<T, float>    ? of_float
                    : std::is_same_v<T, __half> ? of_half * 0x10001u
                                                : of_bfloat * 0x10001u;
    return words;
  }
  __device__ __forceinline__ static Words lowest() {
    return all(0xff800000u, 0xfc00u, 0xff80u);
  }
  __device__ __forceinline__ static Words tap(int tap) {
    return all(tap, tap, tap);
  }
  // That of channel k.
  __device__ __forceinline__ uint32_t of(int k) const {
    return kCount == 2 ? at[k % kCount] : at[0] >> 16 * k & 0xffffu;
  }
};

template <class T>
__device__ __forceinline__ Words<T> selected(const Words<T>& mask, const Words<T>& one,
                                             const Words<T>& other) {
  Words<T> words;
#pragma unroll
  for (int i = 0; i < Words<T>::kCount; ++i)
    words.at[i] = (one.at[i] & mask.at[i]) | (other.at[i] & ~mask.at[i]);
  return words;
}

// The larger of each, NaN if one is.
template <class T>
__device__ __forceinline__ Words<T> larger(const Words<T>& a, const Words<T>& b) {
  Words<T> words;
  if constexpr (std::is_same_v<T, float>) {
#pragma unroll
    for (int i = 0; i < Words<T>::kCount; ++i)
      asm("max.NaN.f32 %0, %1, %2;"
          : "=f"(reinterpret_cast<float&>(words.at[i]))
          : "f"(__uint_as_float(a.at[i])), "f"(__uint_as_float(b.at[i])));
  } else if constexpr (std::is_same_v<T, __half>) {
    asm("max.NaN.f16x2 %0, %1, %2;" : "=r"(words.at[0]) : "r"(a.at[0]), "r"(b.at[0]));
  } else {
    asm("max.NaN.bf16x2 %0, %1, %2;" : "=r"(words.at[0]) : "r"(a.at[0]), "r"(b.at[0]));
  }
  return words;
}

// Where a is larger than b, or NaN: the first of equals wins, but of NaN the last, as in PyTorch.
template <class T>
__device__ __forceinline__ Words<T> wins(const Words<T>& a, const Words<T>& b) {
  Words<T> mask;
  if constexpr (std::is_same_v<T, float>) {
#pragma unroll
    for (int i = 0; i < Words<T>::kCount; ++i) {
      const float one = __uint_as_float(a.at[i]);
      mask.at[i] = one > __uint_as_float(b.at[i]) || isnan(one) ? ~0u : 0u;
    }
  } else {
    using Two = std::conditional_t<std::is_same_v<T, __half>, __half2, __nv_bfloat162>;
    const Two one = reinterpret_cast<const Two&>(a.at[0]),
              two = reinterpret_cast<const Two&>(b.at[0]);
    mask.at[0] = __hgt2_mask(one, two) | __hneu2_mask(one, one);
  }
  return mask;
}

// x as values that rise with u: as it is, negated, or zero.
template <class T>
struct Order {
  Words<T> sign, mask;
  bool flat = false;  // a channel's u does not depend on x

  __device__ __forceinline__ explicit Order(const FoldedNorm (&norm)[kPair]) {
    constexpr int kBits = 8 * sizeof(T);
    sign = mask = Words<T>::tap(0);
#pragma unroll
    for (int k = 0; k < kPair; ++k) {
      const int word = kBits == 32 ? k % Words<T>::kCount : 0, shift = kBits == 32 ? 0 : 16 * k;
      const bool zero = norm[k].scale() == 0;
      if (norm[k].scale() < 0) sign.at[word] |= 1u << (kBits - 1) << shift;
      if (!zero) mask.at[word] |= ~0u >> (32 - kBits) << shift;
      flat |= zero;
    }
  }
  __device__ __forceinline__ Words<T> of(const Vector<T, kPair>& x) const {
    const Words<T>& bits = reinterpret_cast<const Words<T>&>(x);
    Words<T> words;
#pragma unroll
    for (int i = 0; i < Words<T>::kCount; ++i) words.at[i] = (bits.at[i] & mask.at[i]) ^ sign.at[i];
    return words;
  }
  __device__ __forceinline__ Vector<T, kPair> back(const Words<T>& words) const {
    Vector<T, kPair> x;
    Words<T>& bits = reinterpret_cast<Words<T>&>(x);
#pragma unroll
    for (int i = 0; i < Words<T>::kCount; ++i) bits.at[i] = words.at[i] ^ sign.at[i];
    return x;
  }
};

}  // namespace engine::kernels
