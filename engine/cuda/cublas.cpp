#include "engine/cuda/cublas.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <memory>
#include <optional>
#include <string>
#include <vector>

namespace engine::cuda {

namespace {

constexpr int kHeuristics = 8;  // of the heuristics, best first

// Alignment that cuBLASLt may rely on, in bytes.
uint32_t alignment(const void* pointer) {
  const auto address = reinterpret_cast<uintptr_t>(pointer);
  return static_cast<uint32_t>(std::min<uintptr_t>(address & (~address + 1), 256));
}

MatrixLayout make_layout(const Matrix& m) {
  return create<MatrixLayout>(cublasLtMatrixLayoutCreate, m.type, static_cast<uint64_t>(m.rows),
                              static_cast<uint64_t>(m.columns), m.pitch);
}

// Strict fp32 multiplies floats as they are; TF32 keeps 10 bits of their fractions.
cublasComputeType_t compute_type(Precision precision) {
  return precision == Precision::tf32 ? CUBLAS_COMPUTE_32F_FAST_TF32 : CUBLAS_COMPUTE_32F;
}

MatmulDescriptor make_operation(const Product& p) {
  auto operation =
      create<MatmulDescriptor>(cublasLtMatmulDescCreate, compute_type(p.precision), CUDA_R_32F);
  const auto set = [&](cublasLtMatmulDescAttributes_t attribute, bool transposed) {
    const int32_t value = transposed ? CUBLAS_OP_T : CUBLAS_OP_N;
    check(cublasLtMatmulDescSetAttribute(operation.get(), attribute, &value, sizeof value));
  };
  set(CUBLASLT_MATMUL_DESC_TRANSA, p.a.transposed);
  set(CUBLASLT_MATMUL_DESC_TRANSB, p.b.transposed);
  return operation;
}

// An algorithm is eight opaque words, valid for one version of the library.
std::string to_text(const cublasLtMatmulAlgo_t& algorithm) {
  std::string text;
  for (const uint64_t word : algorithm.data) text += fmt::format("{:016x}", word);
  return text;
}

std::optional<cublasLtMatmulAlgo_t> from_text(const std::string& text) {
  cublasLtMatmulAlgo_t algorithm{};
  constexpr size_t digits = 16;
  if (text.size() != std::size(algorithm.data) * digits) return std::nullopt;
  for (size_t i = 0; i < std::size(algorithm.data); ++i) {
    const char *first = text.data() + i * digits, *last = first + digits;
    if (std::from_chars(first, last, algorithm.data[i], digits).ptr != last) return std::nullopt;
  }
  return algorithm;
}

class PlannedProduct {
 public:
  PlannedProduct(Cuda& gpu, const Product& product, const Workspace& workspace)
      : gpu_(gpu),
        product_(product),
        workspace_(workspace),
        operation_(make_operation(product)),
        a_(make_layout(product.a)),
        b_(make_layout(product.b)),
        d_(make_layout(product.d)) {
    choose();
  }

  void run() const { check(enqueue(algorithm_)); }

 private:
  void choose() {
    const std::string key = this->key();
    std::vector<cublasLtMatmulAlgo_t> candidates;
    if (const std::string* known = gpu_.algorithms.find(key))
      if (const auto algorithm = from_text(*known); algorithm && fits(*algorithm))
        candidates = {*algorithm};
    if (candidates.empty()) candidates = suggestions();
    std::vector<std::string> names(candidates.size());
    std::transform(candidates.begin(), candidates.end(), names.begin(), to_text);
    const size_t chosen = gpu_.algorithms.choose(
        key, names, [&](size_t i) { return enqueue(candidates[i]) == CUBLAS_STATUS_SUCCESS; });
    require(chosen < candidates.size(), Failure::internal, "cuBLASLt has no algorithm for {}", key);
    algorithm_ = candidates[chosen];
  }

  std::string key() const {
    const Product& p = product_;
    return fmt::format(
        "cublasLt {} {} {}{} m{} n{} k{} pitch {} {} {} align {} {} {} out {} beta {}",
        cublasLtGetVersion(), name_of(p.precision), p.a.transposed ? 'T' : 'N',
        p.b.transposed ? 'T' : 'N', p.d.rows, p.d.columns, p.a.transposed ? p.a.rows : p.a.columns,
        p.a.pitch, p.b.pitch, p.d.pitch, alignment(p.a.data), alignment(p.b.data),
        alignment(p.d.data), p.d.type == CUDA_R_32F ? "float" : "storage", p.beta);
  }

  bool fits(const cublasLtMatmulAlgo_t& algorithm) const {
    cublasLtMatmulHeuristicResult_t result{};
    return cublasLtMatmulAlgoCheck(gpu_.blaslt.get(), operation_.get(), a_.get(), b_.get(),
                                   d_.get(), d_.get(), &algorithm,
                                   &result) == CUBLAS_STATUS_SUCCESS &&
           result.workspaceSize <= workspace_.bytes;
  }

  std::vector<cublasLtMatmulAlgo_t> suggestions() const {
    const auto preference = create<MatmulPreference>(cublasLtMatmulPreferenceCreate);
    const auto set = [&](cublasLtMatmulPreferenceAttributes_t attribute, auto value) {
      check(
          cublasLtMatmulPreferenceSetAttribute(preference.get(), attribute, &value, sizeof value));
    };
    set(CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, uint64_t{workspace_.bytes});
    set(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, alignment(product_.a.data));
    set(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, alignment(product_.b.data));
    set(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, alignment(product_.d.data));
    set(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, alignment(product_.d.data));
    std::array<cublasLtMatmulHeuristicResult_t, kHeuristics> results{};
    int found = 0;
    const cublasStatus_t status = cublasLtMatmulAlgoGetHeuristic(
        gpu_.blaslt.get(), operation_.get(), a_.get(), b_.get(), d_.get(), d_.get(),
        preference.get(), kHeuristics, results.data(), &found);
    if (status != CUBLAS_STATUS_NOT_SUPPORTED) check(status);
    std::vector<cublasLtMatmulAlgo_t> algorithms;
    for (int i = 0; i < found; ++i)
      if (results[i].state == CUBLAS_STATUS_SUCCESS) algorithms.push_back(results[i].algo);
    return algorithms;
  }

  cublasStatus_t enqueue(const cublasLtMatmulAlgo_t& algorithm) const {
    const float one = 1;
    void* d = const_cast<void*>(product_.d.data);
    return cublasLtMatmul(gpu_.blaslt.get(), operation_.get(), &one, product_.a.data, a_.get(),
                          product_.b.data, b_.get(), &product_.beta, d, d_.get(), d, d_.get(),
                          &algorithm, workspace_.data, workspace_.bytes, gpu_.stream.get());
  }

  Cuda& gpu_;
  Product product_;
  Workspace workspace_;
  MatmulDescriptor operation_;
  MatrixLayout a_, b_, d_;
  cublasLtMatmulAlgo_t algorithm_{};
};

double size_of(cudaDataType_t type) {
  return type == CUDA_R_32F ? 4 : 2;
}

double bytes_of(const Matrix& m) {
  return double(m.rows) * double(m.columns) * size_of(m.type);
}

int64_t inner(const Product& p) {
  return p.a.transposed ? p.a.rows : p.a.columns;
}

}  // namespace

Launch plan_product(Cuda& gpu, std::string_view kernel, const Product& p,
                    const Workspace& workspace) {
  const bool adds = p.beta > 0;
  const auto planned = std::make_shared<PlannedProduct>(gpu, p, workspace);
  return {kernel,
          fmt::format("{}x{}x{} pitch {}, {}, {}{}", p.d.rows, p.d.columns, inner(p), p.a.pitch,
                      p.b.pitch, p.d.pitch, adds ? " +=" : ""),
          {bytes_of(p.a) + bytes_of(p.b) + bytes_of(p.d) * (adds ? 2 : 1),
           2. * double(p.d.rows) * double(p.d.columns) * double(inner(p))},
          [planned] { planned->run(); }};
}

}  // namespace engine::cuda
