// What the backends in host memory have in common: plain memory, copies, and steps that are done when they return.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstring>
#include <new>

#include "engine/backend.h"
#include "kernels/reference.h"

namespace engine {

// R: of gradients and masters.
template <class R>
class HostBackend : public Backend {
 public:
  explicit HostBackend(const Communicator& communicator) : communicator_(communicator) {}

  Memory allocate(size_t bytes) override {
    constexpr auto kAlign = std::align_val_t{256};
    return {static_cast<std::byte*>(::operator new(std::max<size_t>(bytes, 1), kAlign)),
            [](std::byte* p) { ::operator delete(p, kAlign); }};
  }
  Memory allocate_host(size_t bytes) override { return allocate(bytes); }
  void upload(void* to, const void* from, size_t bytes) override { std::memcpy(to, from, bytes); }
  void download(void* to, const void* from, size_t bytes) override { std::memcpy(to, from, bytes); }
  void clear(void* to, size_t bytes) override { std::memset(to, 0, bytes); }
  void synchronize() override {}

  void upload_batch(const Program& program, int slot, const HostBatch& batch) override {
    const Arenas& arenas = program.arenas;
    const Buffer& b = program.graph.buffers[program.graph.image.buffer];
    const int64_t bytes = int64_t{b.height} * b.width * b.channels,
                  first = int64_t{slot} * program.slot_capacity;
    if (batch.images) std::memcpy(arenas.images + first * bytes, batch.images, batch.count * bytes);
    if (batch.labels) std::copy_n(batch.labels, batch.count, arenas.labels + first);
    if (batch.records) std::copy_n(batch.records, batch.count, arenas.records + first);
    if (batch.mixes) std::copy_n(batch.mixes, batch.count, arenas.mixes + first);
  }
  void wait_uploaded(int) override {}
  void set_params(const Program& program, const StepParams& params) override {
    *program.arenas.params = params;
  }

  void all_reduce(const Program& program, const Bucket& bucket) override {
    communicator_.group->sum(communicator_.rank,
                             gradients(program).subspan(bucket.first, bucket.elements));
  }
  void finish_all_reduce() override {}
  void publish(const Program& program) override { finish_step(program, false); }
  void copy_weights(const Program&) override {}  // the masters are the weights

  std::function<void()> record(const std::function<void()>& body) override { return body; }

 protected:
  static std::span<R> gradients(const Program& program) {
    return {reinterpret_cast<R*>(program.arenas.gradients),
            static_cast<size_t>(program.plan.layout.trained)};
  }

  // Advances the loss scale and fills the step's entry of the result ring, its number last.
  static void finish_step(const Program& program, bool updated) {
    const StepParams& params = *program.arenas.params;
    StepResult& result = program.arenas.results[params.result];
    reference::finish_step(*program.arenas.scale, result, updated);
    std::atomic_ref(result.step).store(params.step, std::memory_order_release);
  }

  Communicator communicator_;
};

}  // namespace engine
