#include "engine/sync_norms.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>
#include <span>

#include "kernels/sync_norms.h"

namespace engine {

namespace {

// A rank writes its row and reads those of all; the two vectors are read and written.
template <class R>
Launch merge_launch(std::string_view kernel, int channels, int ranks,
                    std::function<void()> enqueue) {
  const RankRows<R> rows{.ranks = ranks, .channels = channels};
  const double values = double(rows.length()) * (ranks + 1) + 4. * channels;
  return {kernel,
          fmt::format("{} channels over {} ranks", channels, ranks),
          {values * sizeof(R), 0},
          std::move(enqueue)};
}

template <class R>
using MergedPair = ChannelPair (*)(const RankRows<R>& rows, int c);

// Replaces (first, second) by what `merged` makes of all ranks' rows.
template <class R>
std::function<void()> host_merge(const Communicator& communicator, R* first, R* second,
                                 int channels, int images, MergedPair<R> merged) {
  const RankRows<R> shape{.ranks = communicator.ranks(), .channels = channels};
  return [=, rows = std::vector<R>(shape.ranks * shape.length())]() mutable {
    const RankRows<R> all{rows.data(), shape.ranks, channels};
    R* own = all.row(communicator.rank);
    own[0] = R(images);
    std::copy_n(first, channels, own + 1);
    std::copy_n(second, channels, own + 1 + channels);
    const auto gathered = communicator.group->gather(
        communicator.rank, std::as_bytes(std::span<const R>(own, all.length())));
    for (int rank = 0; rank < all.ranks; ++rank)
      std::memcpy(all.row(rank), gathered[rank].data(), gathered[rank].size());
    for (int c = 0; c < channels; ++c) {
      const ChannelPair pair = merged(all, c);
      first[c] = static_cast<R>(pair.first);
      second[c] = static_cast<R>(pair.second);
    }
  };
}

}  // namespace

bool shares_statistics(const Program& program, const PrepareOptions& options, int ranks) {
  return options.sync_norms && ranks > 1 && program.batch_statistics();
}

template <class R>
std::vector<NormedSlice<R>> normed_slices(const Program& program) {
  const Graph& graph = program.graph;
  std::vector<NormedSlice<R>> slices;
  for (int step = 0; step < static_cast<int>(graph.steps.size()); ++step) {
    const Slice* out = output_of(graph.steps[step]);
    if (!out || !graph.buffers[out->buffer].normed) continue;
    // The vectors belong to the buffer: any norm that reads it leads to them.
    const auto reader = std::find_if(graph.norms.begin(), graph.norms.end(), [&](const Norm& norm) {
      return norm.at.buffer == out->buffer;
    });
    const int norm = static_cast<int>(reader - graph.norms.begin());
    const SliceView<R> statistics = program.output<R>(*out);
    const GradientSink<R> sums = program.sums<R>({.at = *out, .norm = norm});
    slices.push_back({step, out->channels(), statistics.mean, statistics.var, sums.k0, sums.k1});
  }
  return slices;
}

template <class R>
void add_merges(std::vector<StepExec>& steps, const Program& program, int ranks,
                const std::function<SliceMerge(const NormedSlice<R>&)>& merge_of) {
  steps.resize(program.graph.steps.size());
  for (const NormedSlice<R>& slice : normed_slices<R>(program)) {
    SliceMerge merge = merge_of(slice);
    StepExec& step = steps[slice.step];
    step.forward.push_back(
        merge_launch<R>("share_statistics", slice.channels, ranks, std::move(merge.statistics)));
    step.backward.insert(step.backward.begin(), merge_launch<R>("share_norm_sums", slice.channels,
                                                                ranks, std::move(merge.sums)));
  }
}

template <class R>
SliceMerge merge_in_host_memory(const Communicator& communicator, const NormedSlice<R>& slice,
                                int images) {
  return {host_merge<R>(communicator, slice.mean, slice.var, slice.channels, images,
                        &merged_statistics<R>),
          host_merge<R>(communicator, slice.k0, slice.k1, slice.channels, images, &merged_sums<R>)};
}

template std::vector<NormedSlice<float>> normed_slices(const Program&);
template std::vector<NormedSlice<double>> normed_slices(const Program&);
template void add_merges(std::vector<StepExec>&, const Program&, int,
                         const std::function<SliceMerge(const NormedSlice<float>&)>&);
template void add_merges(std::vector<StepExec>&, const Program&, int,
                         const std::function<SliceMerge(const NormedSlice<double>&)>&);
template SliceMerge merge_in_host_memory(const Communicator&, const NormedSlice<float>&, int);
template SliceMerge merge_in_host_memory(const Communicator&, const NormedSlice<double>&, int);

}  // namespace engine
