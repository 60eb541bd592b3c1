// The merge of ranks' rows against the formulas on the host.
#include "tests/kernels/gpu.h"

using namespace engine;
using namespace engine::test;

TEST_CASE("rows of ranks are packed and merged") {
  if (!has_gpu()) return note_skipped("no GPU");
  constexpr int kRanks = 3, kImages[kRanks] = {4, 0, 7};
  for (const int channels : {1, 40, 300}) {
    const RankRows<float> shape{nullptr, kRanks, channels};
    const DeviceArray<float> memory(kRanks * shape.length());
    const RankRows<float> rows{memory.data(), kRanks, channels};
    std::vector<float> expected(kRanks * shape.length());
    const RankRows<float> host{expected.data(), kRanks, channels};
    for (int rank = 0; rank < kRanks; ++rank) {
      const std::vector<float> first = normal(channels, 2 * rank),
                               second = uniform_values(channels, 2 * rank + 1, 0.f, 2.f);
      const DeviceArray<float> a(first), b(second);
      kernels::pack_rank_row(rows, rank, a.data(), b.data(), kImages[rank], nullptr);
      host.row(rank)[0] = static_cast<float>(kImages[rank]);
      std::copy(first.begin(), first.end(), host.row(rank) + 1);
      std::copy(second.begin(), second.end(), host.row(rank) + 1 + channels);
    }
    CHECK(memory.download() == expected);
    const DeviceArray<float> mean(channels), var(channels), k0(channels), k1(channels);
    kernels::merge_rank_statistics(mean.data(), var.data(), rows, nullptr);
    kernels::merge_rank_sums(k0.data(), k1.data(), rows, nullptr);
    const auto check = [&](const DeviceArray<float>& first, const DeviceArray<float>& second,
                           ChannelPair (*merged)(const RankRows<float>&, int)) {
      const std::vector<float> ours1 = first.download(), ours2 = second.download();
      for (int c = 0; c < channels; ++c) {
        const ChannelPair pair = merged(host, c);
        CHECK(ours1[c] == doctest::Approx(pair.first).epsilon(1e-6));
        CHECK(ours2[c] == doctest::Approx(pair.second).epsilon(1e-6));
      }
    };
    check(mean, var, &merged_statistics<float>);
    check(k0, k1, &merged_sums<float>);
  }
}
