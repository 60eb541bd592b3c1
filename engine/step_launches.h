// The launches around the layers of a step: their names, shapes and costs, for every backend; the
// backend says how they are enqueued.
#pragma once

#include <functional>

#include "engine/launch.h"
#include "engine/optimizer.h"
#include "engine/program.h"

namespace engine {

using Enqueue = std::function<void()>;

Launch mark_launch(Mark mark, Enqueue enqueue);
Launch images_launch(const Program& program, Enqueue enqueue);
Launch clear_launch(size_t bytes, Enqueue enqueue);
Launch running_launch(const Program& program, Enqueue enqueue);
Launch reduce_launch(const Bucket& bucket, int ranks, Enqueue enqueue);
Launch finish_reduce_launch(Enqueue enqueue);
Launch accumulate_launch(const Program& program, Enqueue enqueue);
Launch add_accumulated_launch(const Bucket& bucket, size_t real, Enqueue enqueue);
Launch gradient_norm_launch(const Program& program, Enqueue enqueue);
Launch update_launch(const Program& program, const OptimizerConfig& optimizer, Enqueue enqueue);
Launch average_launch(const Program& program, Enqueue enqueue);  // of the running statistics
Launch finish_step_launch(Enqueue enqueue);
Launch copy_weights_launch(const Program& program, Enqueue enqueue);
Launch exchange_averages_launch(const Program& program, Enqueue enqueue);

// Throws Error(usage) where a backend of that kind, with activations in `storage`, has no sums of
// gradients in the precision `buckets`.
void check_buckets(Precision buckets, Precision storage, BackendKind kind);

// The bytes of the buffers' channel vectors and of the gradients, which a training step clears
// first.
size_t channel_bytes(const Program& program);
size_t gradient_bytes(const Program& program);

}  // namespace engine
