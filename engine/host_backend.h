// What the backends in host memory have in common: plain memory, copies, and launches that are done
// when they return.
#pragma once

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cmath>
#include <cstring>
#include <new>

#include "engine/backend.h"
#include "engine/step_launches.h"
#include "engine/sync_norms.h"
#include "kernels/update.h"

namespace engine {

// R is the type of gradients and masters.
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
    if (batch.labels.classes) std::copy_n(batch.labels.classes, batch.count, arenas.labels + first);
    if (const int64_t row = program.graph.classes(); batch.labels.labels)
      std::copy_n(batch.labels.labels, batch.count * row, arenas.presence + first * row);
    if (batch.records) std::copy_n(batch.records, batch.count, arenas.records + first);
    if (batch.mixes) std::copy_n(batch.mixes, batch.count, arenas.mixes + first);
  }
  void wait_uploaded(int) override {}
  void set_params(const Program& program, const StepParams& params) override {
    *program.arenas.params = params;
  }

  Prepared prepare(const Program& program, const PrepareOptions& options) override {
    check_buckets(options.buckets, program.precision(), info().kind);
    Prepared p;
    if (program.batch() > 0) {
      p.images.push_back(images_launch(program, [this, &program] { load_images(program); }));
      p.steps = prepare_steps(program);
    }
    if (shares_statistics(program, options, communicator_.ranks()))
      add_merges<R>(p.steps, program, communicator_.ranks(), [&](const NormedSlice<R>& slice) {
        return merge_in_host_memory(communicator_, slice, program.batch());
      });
    const Arenas& arenas = program.arenas;
    if (program.training()) prepare_training(p, program, options);
    for (int mark = 0; options.marks && mark < static_cast<int>(Mark::end); ++mark)
      p.marks[mark].push_back(mark_launch(Mark{static_cast<uint8_t>(mark)},
                                          [&program, mark] { note_time(program, mark); }));
    p.publish.push_back(finish_step_launch([&program] { finish_step(program, false); }));
    if (arenas.ema_parameters)
      p.exchange_averages.push_back(
          exchange_averages_launch(program, [&program] { exchange_averages(program); }));
    return p;  // copy_weights stays empty: the masters are the weights
  }

  std::function<void()> record(const std::function<void()>& body) override { return body; }

 protected:
  virtual std::vector<StepExec> prepare_steps(const Program& program) = 0;
  virtual void load_images(const Program& program) = 0;
  // The statistics of the step are those of `images` images.
  virtual void update_running(const Program& program, int64_t images) = 0;

  static std::span<R> gradients(const Program& program) {
    return {program.arenas.gradients.as<R>(), static_cast<size_t>(program.plan.layout.trained)};
  }

  static void note_time(const Program& program, int mark) {
    const std::chrono::nanoseconds now = std::chrono::steady_clock::now().time_since_epoch();
    program.arenas.results[program.arenas.params->result].times[mark] =
        static_cast<uint64_t>(now.count());
  }

  // Advances the loss scale and fills the step's entry of the result ring, its number last.
  static void finish_step(const Program& program, bool updated) {
    const StepParams& params = *program.arenas.params;
    StepResult& result = program.arenas.results[params.result];
    engine::finish_step(*program.arenas.scale, result, updated);
    note_time(program, static_cast<int>(Mark::end));
    std::atomic_ref(result.step).store(params.step, std::memory_order_release);
  }

  // Calls body(first, last) for parts that make up [0, count), side by side where it can.
  virtual void for_parts(int64_t count, const std::function<void(int64_t, int64_t)>& body) {
    body(0, count);
  }

  Communicator communicator_;

 private:
  void prepare_training(Prepared& p, const Program& program, const PrepareOptions& options) {
    const auto clear_bytes = [this, &p](Untyped arena, size_t bytes) {
      p.clear.push_back(clear_launch(bytes, [this, arena, bytes] { clear(arena.at, bytes); }));
    };
    clear_bytes(program.arenas.channels, channel_bytes(program));
    clear_bytes(program.arenas.gradients, gradient_bytes(program));
    const bool shared = shares_statistics(program, options, communicator_.ranks());
    if ((shared || program.batch() > 0) && program.batch_statistics() &&
        !program.graph.norms.empty())
      p.running.push_back(running_launch(program, [this, &program, shared] {
        update_running(program, shared ? program.arenas.params->total : program.batch());
      }));
    for (const Bucket& bucket : program.plan.buckets) {
      CollectiveMark& mark = program.arenas.collectives[p.reduce.size()];
      const auto reduce = [this, &program, &bucket, &mark] {
        const uint64_t step = program.arenas.params->step;
        std::atomic_ref(mark.began).store(step);
        communicator_.group->sum(communicator_.rank,
                                 gradients(program).subspan(bucket.first, bucket.elements));
        std::atomic_ref(mark.ended).store(step);
      };
      p.reduce.push_back({reduce_launch(bucket, communicator_.ranks(), reduce)});
      p.add_accumulated.push_back({add_accumulated_launch(
          bucket, sizeof(R), [this, &program, &bucket] { add_accumulated(program, bucket); })});
    }
    p.accumulate.push_back(accumulate_launch(program, [this, &program] {
      add(program.arenas.accumulated.template as<R>(), gradients(program).data(),
          program.plan.layout.trained);
    }));
    p.update.push_back(gradient_norm_launch(program, [this, &program] { take_norm(program); }));
    p.update.push_back(update_launch(program, options.optimizer, [this, &program, options] {
      if (program.arenas.scale->found_inf) return;
      visit_update(options.optimizer, [&](auto step) {
        update_parameters(program, step, options.optimizer, options.ema_decay);
      });
      if (program.arenas.ema_state) average_state(program, options.ema_decay);
    }));
    p.update.push_back(finish_step_launch([&program] { finish_step(program, true); }));
  }

  void add_accumulated(const Program& program, const Bucket& bucket) {
    R* sums = program.arenas.accumulated.template as<R>() + bucket.first;
    add(gradients(program).data() + bucket.first, sums, bucket.elements);
    std::fill_n(sums, bucket.elements, R(0));
  }

  static void exchange_averages(const Program& program) {
    const Arenas& a = program.arenas;
    const ParameterLayout& layout = program.plan.layout;
    const auto swap = [](Untyped values, Untyped averages, int64_t count) {
      std::swap_ranges(values.as<R>(), values.as<R>() + count, averages.as<R>());
    };
    swap(a.parameters, a.ema_parameters, layout.trained);
    swap(a.state, a.ema_state, layout.state);
  }

  void take_norm(const Program& program) {
    note_gradients(*program.arenas.scale, sum_of_squares(program));
  }

  void add(R* to, const R* from, int64_t count) {
    for_parts(count, [=](int64_t first, int64_t last) {
      for (int64_t i = first; i < last; ++i) to[i] += from[i];
    });
  }

  // The sum over the gradients that are updated; its bits do not depend on the number of threads.
  double sum_of_squares(const Program& program) {
    constexpr int64_t kBlocks = 64;  // per partial sum
    const Arenas& a = program.arenas;
    const R* g = gradients(program).data();
    const int64_t blocks = program.plan.layout.trained / kUpdateBlock;
    norm_partials_.resize((blocks + kBlocks - 1) / kBlocks);
    for_parts(static_cast<int64_t>(norm_partials_.size()), [&](int64_t first, int64_t last) {
      for (int64_t part = first; part < last; ++part) {
        double sum = 0;
        for (int64_t b = part * kBlocks; b < std::min(blocks, (part + 1) * kBlocks); ++b) {
          if (a.groups[a.group_of[b]].rate == 0) continue;
          for (int64_t i = b * kUpdateBlock; i < (b + 1) * kUpdateBlock; ++i)
            sum += double(g[i]) * double(g[i]);
        }
        norm_partials_[part] = sum;
      }
    });
    double sum = 0;
    for (const double part : norm_partials_) sum += part;
    return sum;
  }

  template <class Step>
  void update_parameters(const Program& program, Step step, const OptimizerConfig& config,
                         double ema_decay) {
    const Arenas& a = program.arenas;
    const ScaleState& scale = *a.scale;
    begin(step, a.params->learning_rate, scale.optimizer_steps);
    const R factor = R(1. / scale.scale) * R(clip_factor(scale.gradient_norm, config.clip_norm));
    const int64_t n = program.plan.layout.trained;
    R *w = a.parameters.template as<R>(), *moments = a.moments.template as<R>(),
      *ema = a.ema_parameters.template as<R>();
    const R* g = gradients(program).data();
    for_parts(n / kUpdateBlock, [&](int64_t first, int64_t last) {
      for (int64_t block = first; block < last; ++block) {
        const int64_t from = block * kUpdateBlock, to = from + kUpdateBlock;
        const ParameterGroup& group = a.groups[a.group_of[block]];
        const Step s = of_group(step, group);
        for (int64_t i = from; group.rate != 0 && i < to; ++i) {
          R m[Step::kMoments];
          for (int j = 0; j < Step::kMoments; ++j) m[j] = moments[j * n + i];
          update(w[i], m, g[i] * factor, s);
          for (int j = 0; j < Step::kMoments; ++j) moments[j * n + i] = m[j];
        }
        for (int64_t i = from; ema && i < to; ++i) ema[i] = averaged(ema[i], w[i], ema_decay);
      }
    });
  }

  static void average_state(const Program& program, double decay) {
    const R* now = program.arenas.state.template as<R>();
    R* ema = program.arenas.ema_state.template as<R>();
    for (int64_t i = 0; i < program.plan.layout.state; ++i)
      ema[i] = averaged(ema[i], now[i], decay);
  }

  std::vector<double> norm_partials_;
};

}  // namespace engine
