#include "io/files/checksum.h"

#include <fmt/ranges.h>
#include <openssl/evp.h>

#include <array>
#include <bit>
#include <cstring>

#include "engine/error.h"

namespace engine {
namespace {

// The five primes of XXH64.
constexpr uint64_t kPrime1 = 0x9E3779B185EBCA87, kPrime2 = 0xC2B2AE3D27D4EB4F,
                   kPrime3 = 0x165667B19E3779F9, kPrime4 = 0x85EBCA77C2B2AE63,
                   kPrime5 = 0x27D4EB2F165667C5;

template <class T>
uint64_t take(std::span<const std::byte>& bytes) {
  T value;
  std::memcpy(&value, bytes.data(), sizeof value);
  bytes = bytes.subspan(sizeof value);
  return value;
}

uint64_t xx_round(uint64_t sum, uint64_t lane) {
  return std::rotl(sum + lane * kPrime2, 31) * kPrime1;
}

}  // namespace

void Sha256::Free::operator()(evp_md_ctx_st* context) const {
  EVP_MD_CTX_free(context);
}

Sha256::Sha256() : context_(EVP_MD_CTX_new()) {
  require(context_ && EVP_DigestInit_ex(context_.get(), EVP_sha256(), nullptr) == 1,
          Failure::internal, "OpenSSL cannot compute SHA-256");
}

void Sha256::update(std::span<const std::byte> bytes) {
  require(EVP_DigestUpdate(context_.get(), bytes.data(), bytes.size()) == 1, Failure::internal,
          "OpenSSL cannot add {} bytes to a SHA-256", bytes.size());
}

std::string Sha256::finish() {
  std::array<unsigned char, 32> digest;
  require(EVP_DigestFinal_ex(context_.get(), digest.data(), nullptr) == 1, Failure::internal,
          "OpenSSL cannot finish a SHA-256");
  return fmt::format("{:02x}", fmt::join(digest, ""));
}

std::string sha256(std::span<const std::byte> bytes) {
  Sha256 hash;
  hash.update(bytes);
  return hash.finish();
}

uint64_t xxh64(std::span<const std::byte> bytes) {
  const uint64_t length = bytes.size();
  uint64_t hash = kPrime5;
  if (length >= 32) {
    std::array<uint64_t, 4> sums = {kPrime1 + kPrime2, kPrime2, 0, 0 - kPrime1};
    while (bytes.size() >= 32)
      for (uint64_t& sum : sums) sum = xx_round(sum, take<uint64_t>(bytes));
    hash = std::rotl(sums[0], 1) + std::rotl(sums[1], 7) + std::rotl(sums[2], 12) +
           std::rotl(sums[3], 18);
    for (const uint64_t sum : sums) hash = (hash ^ xx_round(0, sum)) * kPrime1 + kPrime4;
  }
  hash += length;
  while (bytes.size() >= 8)
    hash = std::rotl(hash ^ xx_round(0, take<uint64_t>(bytes)), 27) * kPrime1 + kPrime4;
  if (bytes.size() >= 4)
    hash = std::rotl(hash ^ take<uint32_t>(bytes) * kPrime1, 23) * kPrime2 + kPrime3;
  while (!bytes.empty()) hash = std::rotl(hash ^ take<uint8_t>(bytes) * kPrime5, 11) * kPrime1;
  hash = (hash ^ hash >> 33) * kPrime2;
  hash = (hash ^ hash >> 29) * kPrime3;
  return hash ^ hash >> 32;
}

}  // namespace engine
