// Packs of eight channels: 16 bytes, the unit of what fused kernels copy into shared memory, also
// asynchronously, and also where a pack may not be there, without a branch.
#pragma once

#include "kernels/matrix.cuh"
#include "kernels/vector.cuh"

namespace engine::kernels {

// Eight channels of a pixel in 16 bits each: 16 bytes, or four words of two.
constexpr int kPack = 8;
template <class T>
using Pack = Vector<T, kPack>;

template <class T>
__device__ __forceinline__ uint32_t word_of(const Pack<T>& pack, int i) {
  return reinterpret_cast<const uint32_t*>(&pack)[i];
}

extern __shared__ __align__(16) unsigned char dynamic_shared[];

// Four packs, of 32 channels, as planes in another order: columns 2t and 2t + 1 of plane j are
// channels 8t + 2j and 8t + 2j + 1, so that a thread t of the matrix unit makes eight neighbouring
// ones: words change places.
template <class T>
__device__ __forceinline__ void store_columns(Pack<T>* to, int plane, const Pack<T> (&packs)[4]) {
#pragma unroll
  for (int j = 0; j < 4; ++j)
    *reinterpret_cast<uint4*>(to + j * plane) = make_uint4(
        word_of(packs[0], j), word_of(packs[1], j), word_of(packs[2], j), word_of(packs[3], j));
}
// Of 16 channels, of which a thread makes four: column 2t of plane j is channel 4t + 2j.
template <class T>
__device__ __forceinline__ void store_columns(Pack<T>* to, int plane, const Pack<T> (&packs)[2]) {
#pragma unroll
  for (int j = 0; j < 2; ++j)
    *reinterpret_cast<uint4*>(to + j * plane) =
        make_uint4(word_of(packs[0], j), word_of(packs[0], 2 + j), word_of(packs[1], j),
                   word_of(packs[1], 2 + j));
}

// Copies a pack, past L1. Whoever waits for the thread's groups may read it.
template <class T>
__device__ __forceinline__ void copy_async(Pack<T>* shared, const T* global) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16;\n" ::"r"(
                   static_cast<uint32_t>(__cvta_generic_to_shared(shared))),
               "l"(global)
               : "memory");
}
__device__ __forceinline__ void commit_copies() {
  asm volatile("cp.async.commit_group;\n" ::: "memory");
}
// Until at most `Pending` of the thread's newest groups are under way.
template <int Pending>
__device__ __forceinline__ void wait_copies() {
  asm volatile("cp.async.wait_group %0;\n" ::"n"(Pending) : "memory");
}

// A pack, or zeros without a branch.
template <class T>
__device__ __forceinline__ Pack<T> load_if(bool wanted, const T* from) {
  uint4 bits;
  asm volatile(
      "{\n.reg .pred p;\nsetp.ne.b32 p, %5, 0;\nmov.b32 %0, 0;\nmov.b32 %1, 0;\n"
      "mov.b32 %2, 0;\nmov.b32 %3, 0;\n@p ld.global.v4.b32 {%0, %1, %2, %3}, [%4];\n}\n"
      : "=&r"(bits.x), "=&r"(bits.y), "=&r"(bits.z), "=&r"(bits.w)
      : "l"(from), "r"(int{wanted}));
  return *reinterpret_cast<const Pack<T>*>(&bits);
}

// Copies a pack past L1, or zeros.
template <class T>
__device__ __forceinline__ void copy_or_zero(Pack<T>* to, const T* from, bool wanted) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;\n" ::"r"(banded::shared_address(to)),
               "l"(from), "r"(wanted ? 16 : 0)
               : "memory");
}

// Keeps addresses in registers of their own: a copy reads its address late, and the next one would
// wait for it before it changed a register that both use.
template <class T, int N>
__device__ __forceinline__ void keep_apart(const T* (&addresses)[N]) {
#pragma unroll
  for (int i = 0; i < N; ++i) asm volatile("" : "+l"(addresses[i]));
}

}  // namespace engine::kernels
