// Counter-based random numbers: Philox4x32-10 (Salmon et al., SC 2011), the same bits on host and
// device. A key names what is drawn (seed, epoch, position in the epoch, purpose), so nothing has
// state to save and no result depends on the order or the thread in which samples are treated.
#pragma once

#include <cstdint>

#if defined(__CUDACC__)
#define ENGINE_HOST_DEVICE __host__ __device__ __forceinline__
#else
#define ENGINE_HOST_DEVICE inline
#endif

namespace engine {

struct RandomKey {
  uint64_t seed = 0;
  uint32_t epoch = 0;
  uint32_t position = 0;  // of the sample in the epoch, over all ranks
  uint32_t purpose = 0;   // purpose("dropout classifier.0"), purpose("crop"), …
};

struct Random4 {
  uint32_t bits[4];
};

// FNV-1a of a name, at compile time or when a graph is built.
constexpr uint32_t purpose(const char* name) {
  uint32_t hash = 2166136261u;
  for (; *name; ++name) hash = (hash ^ static_cast<uint8_t>(*name)) * 16777619u;
  return hash;
}

// 128 random bits: block `index` of the stream that `key` names.
ENGINE_HOST_DEVICE Random4 philox(const RandomKey& key, uint32_t index) {
  uint32_t c0 = index, c1 = key.position, c2 = key.epoch, c3 = key.purpose;
  uint32_t k0 = static_cast<uint32_t>(key.seed), k1 = static_cast<uint32_t>(key.seed >> 32);
  for (int round = 0; round < 10; ++round) {
    const uint64_t p0 = uint64_t{0xD2511F53u} * c0, p1 = uint64_t{0xCD9E8D57u} * c2;
    c0 = static_cast<uint32_t>(p1 >> 32) ^ c1 ^ k0;
    c2 = static_cast<uint32_t>(p0 >> 32) ^ c3 ^ k1;
    c1 = static_cast<uint32_t>(p1);
    c3 = static_cast<uint32_t>(p0);
    k0 += 0x9E3779B9u;
    k1 += 0xBB67AE85u;
  }
  return {{c0, c1, c2, c3}};
}

// Uniform in [0, 1): 24 bits, exact in float.
ENGINE_HOST_DEVICE float uniform(uint32_t bits) {
  return static_cast<float>(bits >> 8) * 0x1p-24f;
}

}  // namespace engine
