// The asynchronous product of a warpgroup: c (64, 8 · Tiles) of floats and a (64, 16) · b (16, 8 ·
// Tiles) of 16-bit values (PTX ISA, wgmma.mma_async). sm_90a. An instruction names every register
// of its result, so there is one for each number of columns, 16 to 128, written once for both
// types.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cstdint>
#include <type_traits>

namespace engine::kernels {

// Along what the inner dimension of a product runs.
enum class Inner { channels, positions };

// Eight columns of a thread's result, and all of them.
#define ENGINE_TILE(c) "+f"((c)[0]), "+f"((c)[1]), "+f"((c)[2]), "+f"((c)[3])
#define ENGINE_TILES_2(c) ENGINE_TILE((c)[0]), ENGINE_TILE((c)[1])
#define ENGINE_TILES_4(c) ENGINE_TILES_2(c), ENGINE_TILE((c)[2]), ENGINE_TILE((c)[3])
#define ENGINE_TILES_6(c) ENGINE_TILES_4(c), ENGINE_TILE((c)[4]), ENGINE_TILE((c)[5])
#define ENGINE_TILES_8(c) ENGINE_TILES_6(c), ENGINE_TILE((c)[6]), ENGINE_TILE((c)[7])
#define ENGINE_TILES_12(c) ENGINE_TILES_8(c), ENGINE_TILES_2((c) + 8), ENGINE_TILES_2((c) + 10)
#define ENGINE_TILES_16(c) ENGINE_TILES_12(c), ENGINE_TILES_2((c) + 12), ENGINE_TILES_2((c) + 14)
#define ENGINE_RESULT_2 "%0, %1, %2, %3, %4, %5, %6, %7"
#define ENGINE_RESULT_4 ENGINE_RESULT_2 ", %8, %9, %10, %11, %12, %13, %14, %15"
#define ENGINE_RESULT_6 ENGINE_RESULT_4 ", %16, %17, %18, %19, %20, %21, %22, %23"
#define ENGINE_RESULT_8 ENGINE_RESULT_6 ", %24, %25, %26, %27, %28, %29, %30, %31"
#define ENGINE_RESULT_16                                                                    \
  ENGINE_RESULT_8                                                                           \
  ", %32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, %48, " \
  "%49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63"
// The instruction: its columns, the type of its operands, the registers of the result, the other
// operands, and how the predicate p that adds to c is set.
#define ENGINE_WGMMA(columns, type, result, operands, predicate)                                  \
  "{\n.reg .pred p;\n" predicate                                                                  \
  "\n"                                                                                            \
  "wgmma.mma_async.sync.aligned.m64n" columns "k16.f32." type "." type " {" result "}, " operands \
  ";\n}\n"
// Both operands in shared memory, by descriptors: c += a · b, or = if not `adds`.
#define ENGINE_MULTIPLY(tiles, columns, operands, predicate)                               \
  if constexpr (std::is_same_v<T, __half>)                                                 \
    asm volatile(ENGINE_WGMMA(columns, "f16", ENGINE_RESULT_##tiles, operands, predicate)  \
                 : ENGINE_TILES_##tiles(c)                                                 \
                 : "l"(a), "l"(b), "r"(add), "n"(kA), "n"(kB));                            \
  else                                                                                     \
    asm volatile(ENGINE_WGMMA(columns, "bf16", ENGINE_RESULT_##tiles, operands, predicate) \
                 : ENGINE_TILES_##tiles(c)                                                 \
                 : "l"(a), "l"(b), "r"(add), "n"(kA), "n"(kB))
// The rows of a in registers: c += a · b.
#define ENGINE_MULTIPLY_ROWS(tiles, columns, operands)                                         \
  if constexpr (std::is_same_v<T, __half>)                                                     \
    asm volatile(                                                                              \
        ENGINE_WGMMA(columns, "f16", ENGINE_RESULT_##tiles, operands, "setp.eq.b32 p, 0, 0;")  \
        : ENGINE_TILES_##tiles(c)                                                              \
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "n"(kB));                        \
  else                                                                                         \
    asm volatile(                                                                              \
        ENGINE_WGMMA(columns, "bf16", ENGINE_RESULT_##tiles, operands, "setp.eq.b32 p, 0, 0;") \
        : ENGINE_TILES_##tiles(c)                                                              \
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "n"(kB))

template <class T, Inner A, Inner B>
__device__ __forceinline__ void multiply_async(float (&c)[2][4], uint64_t a, uint64_t b,
                                               bool adds) {
  constexpr int kA = A == Inner::positions, kB = B == Inner::positions;
  const int add = adds;
  ENGINE_MULTIPLY(2, "16", "%8, %9, p, 1, 1, %11, %12", "setp.ne.b32 p, %10, 0;");
}
template <class T, Inner A, Inner B>
__device__ __forceinline__ void multiply_async(float (&c)[4][4], uint64_t a, uint64_t b,
                                               bool adds) {
  constexpr int kA = A == Inner::positions, kB = B == Inner::positions;
  const int add = adds;
  ENGINE_MULTIPLY(4, "32", "%16, %17, p, 1, 1, %19, %20", "setp.ne.b32 p, %18, 0;");
}
template <class T, Inner A, Inner B>
__device__ __forceinline__ void multiply_async(float (&c)[6][4], uint64_t a, uint64_t b,
                                               bool adds) {
  constexpr int kA = A == Inner::positions, kB = B == Inner::positions;
  const int add = adds;
  ENGINE_MULTIPLY(6, "48", "%24, %25, p, 1, 1, %27, %28", "setp.ne.b32 p, %26, 0;");
}
template <class T, Inner A, Inner B>
__device__ __forceinline__ void multiply_async(float (&c)[8][4], uint64_t a, uint64_t b,
                                               bool adds) {
  constexpr int kA = A == Inner::positions, kB = B == Inner::positions;
  const int add = adds;
  ENGINE_MULTIPLY(8, "64", "%32, %33, p, 1, 1, %35, %36", "setp.ne.b32 p, %34, 0;");
}

template <class T, Inner A, Inner B>
__device__ __forceinline__ void multiply_async(float (&c)[16][4], uint64_t a, uint64_t b,
                                               bool adds) {
  constexpr int kA = A == Inner::positions, kB = B == Inner::positions;
  const int add = adds;
  ENGINE_MULTIPLY(16, "128", "%64, %65, p, 1, 1, %67, %68", "setp.ne.b32 p, %66, 0;");
}

template <class T, Inner B>
__device__ __forceinline__ void multiply_async(float (&c)[4][4], const uint32_t (&a)[4],
                                               uint64_t b) {
  constexpr int kB = B == Inner::positions;
  ENGINE_MULTIPLY_ROWS(4, "32", "{%16, %17, %18, %19}, %20, p, 1, 1, %21");
}
template <class T, Inner B>
__device__ __forceinline__ void multiply_async(float (&c)[6][4], const uint32_t (&a)[4],
                                               uint64_t b) {
  constexpr int kB = B == Inner::positions;
  ENGINE_MULTIPLY_ROWS(6, "48", "{%24, %25, %26, %27}, %28, p, 1, 1, %29");
}
template <class T, Inner B>
__device__ __forceinline__ void multiply_async(float (&c)[8][4], const uint32_t (&a)[4],
                                               uint64_t b) {
  constexpr int kB = B == Inner::positions;
  ENGINE_MULTIPLY_ROWS(8, "64", "{%32, %33, %34, %35}, %36, p, 1, 1, %37");
}

#undef ENGINE_MULTIPLY_ROWS
#undef ENGINE_MULTIPLY
#undef ENGINE_WGMMA
#undef ENGINE_RESULT_16
#undef ENGINE_RESULT_8
#undef ENGINE_RESULT_6
#undef ENGINE_RESULT_4
#undef ENGINE_RESULT_2
#undef ENGINE_TILES_16
#undef ENGINE_TILES_12
#undef ENGINE_TILES_8
#undef ENGINE_TILES_6
#undef ENGINE_TILES_4
#undef ENGINE_TILES_2
#undef ENGINE_TILE

}  // namespace engine::kernels
