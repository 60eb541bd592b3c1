#include "engine/cuda/sync_norms.h"

#include <algorithm>
#include <memory>

#include "engine/sync_norms.h"
#include "kernels/kernels.h"

namespace engine::cuda {

// Slices are merged one after the other, so all share the memory of the widest one's rows.
void share_norms(std::vector<StepExec>& steps, const Program& program, Backend& backend,
                 GradientSum& ranks, cudaStream_t stream) {
  const Communicator& world = ranks.communicator();
  RankRows<float> widest{.ranks = world.ranks()};
  for (const NormedSlice<float>& slice : normed_slices<float>(program))
    widest.channels = std::max(widest.channels, slice.channels);
  const std::shared_ptr<std::byte> memory =
      backend.allocate(sizeof(float) * widest.ranks * widest.length());
  const auto merge_of = [&](const NormedSlice<float>& slice) -> SliceMerge {
    const RankRows<float> rows{reinterpret_cast<float*>(memory.get()), world.ranks(),
                               slice.channels};
    const auto exchange = [memory, rows, stream, &ranks, rank = world.rank,
                           images = program.batch()](const float* first, const float* second) {
      kernels::pack_rank_row(rows, rank, first, second, images, stream);
      ranks.gather(rows, stream);
    };
    return {.statistics =
                [=] {
                  exchange(slice.mean, slice.var);
                  kernels::merge_rank_statistics(slice.mean, slice.var, rows, stream);
                },
            .sums =
                [=] {
                  exchange(slice.k0, slice.k1);
                  kernels::merge_rank_sums(slice.k0, slice.k1, rows, stream);
                }};
  };
  add_merges<float>(steps, program, world.ranks(), merge_of);
}

}  // namespace engine::cuda
