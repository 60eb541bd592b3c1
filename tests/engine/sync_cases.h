// Ranks that share batch statistics are one rank with all images: what every backend is asked.
#pragma once

#include "engine/session.h"
#include "tests/engine/ranks.h"

namespace engine::test {

// The images of every rank in a batch; a batch of an update that is not its last is accumulated.
using BatchSplit = std::vector<int>;
using UpdateSplit = std::vector<BatchSplit>;

// A training whose batches are split between ranks.
struct SplitTraining {
  Graph graph;
  std::vector<UpdateSplit> updates;
  SessionOptions options;  // but for programs and accumulation
  double rate = 0.01;
};

// What a training left; vectors by kind: "parameters", "running", "moments", "averages", "losses".
using Trained = std::map<std::string, std::vector<double>>;

// Trains on random images with sync_norms, or as one rank on all of every batch. CHECKs that the
// ranks hold the same bits.
Trained train_split(const SplitTraining& training, const MakeBackend& make_backend);
Trained train_whole(const SplitTraining& training, const MakeBackend& make_backend);

// CHECKs small models and random graphs, several optimizers, accumulation, averages, frozen norms,
// and uneven batches in which ranks have no images: `ranks` end within `limit` (relative L2 of
// every kind) of one rank and farther off than ten times that where statistics are not shared.
void check_synced_ranks(int ranks, Precision precision, double limit,
                        const MakeBackend& make_backend);
// The same in 16 bits, where rounding turns some activation's side of a kink and moves as much as
// sharing does: summed over the cases, ranks end no farther from one rank in float than `factor`
// times as far as one rank in 16 bits does.
void check_synced_ranks_in_16_bits(int ranks, Precision precision, double factor,
                                   const MakeBackend& make_backend,
                                   const MakeBackend& make_exact_backend);

// CHECKs that these trainings end in the same bits with lean memory as with fast, whether the ranks
// share statistics or not.
void check_lean_memory(int ranks, Precision precision, const MakeBackend& make_backend);

}  // namespace engine::test
