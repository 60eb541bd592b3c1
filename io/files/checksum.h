// SHA-256 (FIPS 180-4) through OpenSSL, to compare weight files with what their publishers state;
// XXH64, to find damage and equal files at the speed of memory.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>

struct evp_md_ctx_st;  // OpenSSL's EVP_MD_CTX

namespace engine {

// Hashes bytes that come in parts.
class Sha256 {
 public:
  Sha256();
  void update(std::span<const std::byte> bytes);
  std::string finish();  // 64 hexadecimal digits; may be called once

 private:
  struct Free {
    void operator()(evp_md_ctx_st* context) const;
  };
  std::unique_ptr<evp_md_ctx_st, Free> context_;
};

std::string sha256(std::span<const std::byte> bytes);

// XXH64 (Collet) with seed 0. It does not withstand people who make files collide on purpose.
uint64_t xxh64(std::span<const std::byte> bytes);

}  // namespace engine
