// How the ranks of a training put together what each computes: the flags.
#pragma once

#include <cstdint>

#include "engine/plan.h"
#include "tools/cli/options.h"

namespace engine {

struct Exchange {
  bool sync_norms = false;              // see SessionOptions
  Precision buckets = Precision::fp32;  // in which gradients travel
  int bucket_mib = static_cast<int>(PlanOptions{}.bucket_elements >> 18);  // of float gradients

  int64_t bucket_elements() const { return int64_t{bucket_mib} << 18; }
};

inline constexpr Choice<Precision> kBucketPrecisions[] = {
    {"fp32", Precision::fp32}, {"fp16", Precision::fp16}, {"bf16", Precision::bf16}};

void visit_exchange(auto& v, Exchange& e) {
  v("--sync-bn", e.sync_norms,
    "batch norms take the images of all ranks, as torch.nn.SyncBatchNorm");
  v("--bucket-precision P", e.buckets,
    "in which gradients travel between GPUs; fp16 wants --precision fp16", kBucketPrecisions);
  v("--bucket-mib N", e.bucket_mib, "gradients that travel together", Within{1, 4096});
}

}  // namespace engine
