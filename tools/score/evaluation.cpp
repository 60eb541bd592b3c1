#include "tools/score/evaluation.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <map>
#include <memory>
#include <string>

#include "engine/error.h"
#include "io/data/sample.h"
#include "io/files/bytes.h"
#include "tools/cli/terminal.h"
#include "tools/score/label_score.h"

namespace engine {

std::vector<ProgramSpec> programs_for(int64_t samples, int batch, Share share, Mode mode) {
  std::vector<ProgramSpec> programs;
  for (int64_t step = 0, steps = steps_per_epoch(samples, batch, share); step < steps; ++step) {
    if (step > 0 && step + 1 < steps) continue;  // all but the last are alike
    const int count = share_of_step(samples, batch, share, step).count;
    const bool known = std::any_of(programs.begin(), programs.end(),
                                   [&](const auto& p) { return p.batch == count; });
    if (count > 0 && !known) programs.push_back({count, mode});
  }
  return programs;
}

namespace {

std::unique_ptr<Backend> lone_backend(const Ranks& ranks, int rank) {
  BackendOptions options = ranks.options[size_t(rank)];
  options.communicator = {};
  return make_backend(ranks.kind, options);
}

// A rank for which no image is left has a program all the same.
std::vector<ProgramSpec> evaluation_programs(const Dataset& data, int batch, Share share) {
  std::vector<ProgramSpec> programs =
      programs_for(static_cast<int64_t>(data.samples.size()), batch, share, Mode::evaluate);
  if (programs.empty()) programs.push_back({1, Mode::evaluate});
  return programs;
}

}  // namespace

Inference::Inference(const ModelFile& file, const Dataset& data, const Preprocess& preprocess,
                     const DeviceOptions& device, int batch, OnBadImage on_bad_image)
    : Inference(file, data, preprocess, device, choose_ranks(device), 0,
                {.batch = batch, .on_bad_image = on_bad_image}) {}

// Nothing is chosen by timing: what an image is taken for must not depend on the run, nor on which
// of several GPUs it came to.
Inference::Inference(const ModelFile& file, const Dataset& data, const Preprocess& preprocess,
                     const DeviceOptions& device, const Ranks& ranks, int rank,
                     const InferenceOptions& options)
    : backend_(lone_backend(ranks, rank)),
      session_(make_model(file, preprocess.crop), *backend_,
               {.programs = evaluation_programs(data, options.batch, {rank, ranks.count()}),
                .precision = ranks.precision,
                .conv = device.conv,
                .deterministic = true,
                .features = options.features,
                .workspace = size_t(device.workspace) << 20,
                .loss = {.task = data.task},
                .normalisation = normalisation_of(preprocess)}),
      loader_(data, evaluation_input(data, preprocess),
              {.width = preprocess.crop,
               .height = preprocess.crop,
               .channels = preprocess.channels,
               .batch = options.batch,
               .share = {rank, ranks.count()},
               .threads = ranks.workers,
               .ahead = 3,
               .shuffle = false,
               .on_bad_image = options.on_bad_image,
               .memory = batch_memory(*backend_)}) {
  load_model_file(session_, file);
}

void require_finite_logits(Session& session, const Batch& batch, std::span<const float> logits,
                           const Dataset& data) {
  const int classes = session.graph().classes();
  std::vector<std::string> images;
  for (int i = 0; i < batch.count; ++i) {
    const auto row = logits.subspan(size_t(i) * classes, classes);
    if (!std::ranges::all_of(row, [](float z) { return std::isfinite(z); }))
      images.push_back(data.samples[batch.indices[i]].path);
  }
  if (images.empty()) return;
  constexpr size_t kShown = 8;
  const Inspection again = session.inspect(
      {.images = batch.images, .count = batch.count, .records = batch.records}, {}, Mode::evaluate);
  fail(Failure::diverged, "the logits of {} of {} images are not finite: {}{}; {}", images.size(),
       batch.count, fmt::join(std::span(images).first(std::min(images.size(), kShown)), ", "),
       images.size() > kShown ? ", …" : "",
       again.first ? "the first output that is not finite: " + to_string(*again.first)
                   : "evaluated again they are finite");
}

std::vector<BadImage> bad_images_of_all(const Communicator& c, const Loader& loader,
                                        const Dataset& data) {
  std::string own;
  for (const BadImage& bad : loader.bad_images()) {
    append_raw(own, bad.index);
    append_raw(own, static_cast<uint32_t>(bad.reason.size()));
    own += bad.reason;
  }
  std::map<uint32_t, std::string> reasons;
  for (const std::vector<std::byte>& bytes : c.group->gather(c.rank, as_bytes(own)))
    for (ByteReader reader(bytes, "the bad images of a rank"); reader.left() > 0;) {
      const auto index = reader.read<uint32_t>(), size = reader.read<uint32_t>();
      reasons.emplace(index, as_text(reader.take(size)));
    }
  std::vector<BadImage> all;
  for (auto& [index, reason] : reasons)
    all.push_back({data.samples[index].path, std::move(reason), index});
  return all;
}

void say_skipped(std::string_view part, const std::vector<BadImage>& bad, size_t images) {
  for (const BadImage& image : bad) say("skipped " + image.reason);
  if (!bad.empty())
    say(fmt::format("{}: of {} images {} cannot be read and are left out", part, images,
                    bad.size()));
}

HostAllocator batch_memory(Backend& backend) {
  auto blocks = std::make_shared<std::map<void*, Memory>>();
  return {.allocate =
              [blocks, &backend](size_t bytes) {
                Memory memory = backend.allocate_host(bytes);
                void* at = memory.get();
                blocks->emplace(at, std::move(memory));
                return at;
              },
          .free = [blocks](void* at) { blocks->erase(at); }};
}

namespace {

// One after the other: place and number of the rows, their logits, whether they count.
std::vector<std::byte> pack(int classes, const std::vector<EvaluatedRows>& rows,
                            const EvaluationResult& result) {
  std::vector<std::byte> packed;
  const auto add = [&](const auto& values) {
    const auto bytes = std::as_bytes(std::span(values));
    packed.insert(packed.end(), bytes.begin(), bytes.end());
  };
  for (const EvaluatedRows& r : rows) {
    add(std::span(&r, 1));
    add(std::span(result.logits).subspan(size_t(r.first * classes), size_t(r.count * classes)));
    add(std::span(result.counted).subspan(size_t(r.first), size_t(r.count)));
  }
  return packed;
}

void unpack(int classes, std::span<const std::byte> packed, EvaluationResult& result) {
  const auto take = [&](const auto& values) {
    const auto bytes = std::as_writable_bytes(std::span(values));
    std::memcpy(bytes.data(), packed.data(), bytes.size());
    packed = packed.subspan(bytes.size());
  };
  while (!packed.empty()) {
    EvaluatedRows r;
    take(std::span(&r, 1));
    take(std::span(result.logits).subspan(size_t(r.first * classes), size_t(r.count * classes)));
    take(std::span(result.counted).subspan(size_t(r.first), size_t(r.count)));
  }
}

}  // namespace

void share_rows(const Communicator& c, int classes, const std::vector<EvaluatedRows>& rows,
                EvaluationResult& result) {
  const int first = c.group->first(), local = c.group->local();
  if (local == c.ranks()) return;
  const auto all = c.group->gather(c.rank, pack(classes, rows, result));
  if (c.local() == 0)
    for (int rank = 0; rank < c.ranks(); ++rank)
      if (rank < first || rank >= first + local) unpack(classes, all[rank], result);
  c.group->barrier(c.rank);
}

CountedSamples counted_samples(const EvaluationResult& result, const Dataset& data) {
  const size_t classes = data.classes.size();
  CountedSamples counted;
  for (size_t i = 0; i < data.samples.size(); ++i) {
    if (!result.counted[i]) continue;
    counted.logits.insert(counted.logits.end(), result.logits.begin() + i * classes,
                          result.logits.begin() + (i + 1) * classes);
    counted.labels.push_back(data.samples[i].label);
  }
  return counted;
}

CountedLabels counted_labels(const EvaluationResult& result, const Dataset& data) {
  CountedLabels counted{.logits = counted_samples(result, data).logits};
  for (size_t i = 0; i < data.samples.size(); ++i)
    if (result.counted[i])
      counted.presence.insert(counted.presence.end(), data.samples[i].labels.begin(),
                              data.samples[i].labels.end());
  return counted;
}

Metrics metrics_of(const EvaluationResult& result, const Dataset& data) {
  if (data.task == Task::labels) return epoch_metrics_of_labels(result, data);
  const CountedSamples counted = counted_samples(result, data);
  return evaluate_logits(counted.logits, counted.labels, static_cast<int>(data.classes.size()));
}

}  // namespace engine
