// Cross entropy of classes and of labels against the reference, and what it does with ties and
// large logits; plain, and with weights, smoothing, mixed and missing labels.
#include "tests/kernels/gpu.h"

#include "kernels/loss.h"

using namespace engine;
using namespace engine::test;

namespace {

struct LossCase {
  int batch, classes;
  bool ties, plain;
};

template <class T>
void check_cross_entropy(const LossCase& o) {
  const Extent e{o.batch, 1, 1, o.classes, o.classes, 0};
  std::vector<float> values = normal(e.elements(), 1, 20.f, 8.f);
  if (o.ties)
    for (float& v : values) v = std::round(v / 8.f);
  Mirror<T> logits(values), dlogits(normal(e.elements(), 2));
  const int capacity = o.batch + 2;
  std::vector<int32_t> labels(2 * capacity, -1);
  std::vector<Mix> mixes(2 * capacity, Mix{.partner = -1, .share = 0});
  for (int n = 0; n < o.batch; ++n) {
    labels[capacity + n] = (n * 7) % o.classes;
    mixes[capacity + n] = {.partner = (n + 1) % o.batch, .share = n % 3 == 0 ? 1.f : 0.3f};
  }
  std::vector<double> weights;
  for (int c = 0; c < o.classes; ++c) weights.push_back(0.25 + c % 5);
  const StepParams params{.slot = 1, .result = 3, .divisor = 64, .mixed = 1};
  const ScaleState scale{.scale = 128};
  const DeviceArray<int32_t> device_labels(labels);
  const DeviceArray<Mix> device_mixes(mixes);
  const DeviceArray<double> device_weights(weights);
  const DeviceArray<StepParams> device_params(std::vector<StepParams>{params});
  const DeviceArray<ScaleState> device_scale(std::vector<ScaleState>{scale});
  const DeviceArray<StepResult> results(5);
  const TargetView host{.labels = labels.data(),
                        .mixes = o.plain ? nullptr : mixes.data(),
                        .class_weights = o.plain ? nullptr : weights.data(),
                        .smoothing = o.plain ? 0 : 0.1,
                        .capacity = capacity,
                        .classes = o.classes,
                        .params = &params};
  TargetView device = host;
  device.labels = device_labels.data();
  device.params = device_params.data();
  if (!o.plain) device.mixes = device_mixes.data(), device.class_weights = device_weights.data();

  const OperandView<T> view{logits.device(), o.batch, 1, 1, o.classes, o.classes};
  const OperandView<double> host_view{logits.host(), o.batch, 1, 1, o.classes, o.classes};
  kernels::CrossEntropy<T>::run(dlogits.device(), results.data(), view, device, device_scale.data(),
                                nullptr);
  StepResult expected;
  reference::cross_entropy(dlogits.host(), expected, host_view, host, scale);
  const StepResult result = results.download()[3];
  CHECK(result.loss == doctest::Approx(expected.loss).epsilon(1e-6));
  CHECK(result.correct1 == expected.correct1);
  CHECK(result.correct5 == expected.correct5);
  // They reach 128/64 = 2, times the largest weight.
  const double largest = o.plain ? 2 : 10;
  const Tolerance allowed = tolerance(kType<T>);
  dlogits.check({largest * allowed.absolute, 2 * allowed.relative}, "dlogits");
}

template <class T>
void check_label_loss(const LossCase& o) {
  const int pitch = o.classes + 3;  // the logits are a slice of their buffer
  const Extent e{o.batch, 1, 1, o.classes, pitch, 0};
  std::vector<float> values = normal(e.elements(), 1, 20.f, 8.f);
  if (o.ties)
    for (float& v : values) v = 0;
  Mirror<T> logits(values), dlogits(normal(e.elements(), 2));
  const int capacity = o.batch + 2;
  std::vector<Presence> presence(size_t(2) * capacity * o.classes, Presence::missing);
  std::vector<Mix> mixes(2 * capacity, Mix{.partner = -1, .share = 0});
  for (int n = 0; n < o.batch; ++n) {
    for (int c = 0; c < o.classes; ++c)
      presence[size_t(capacity + n) * o.classes + c] = static_cast<Presence>((n * 5 + c * 7) % 3);
    mixes[capacity + n] = {.partner = (n + 1) % o.batch, .share = n % 3 == 0 ? 1.f : 0.3f};
  }
  std::vector<double> weights;
  for (int c = 0; c < o.classes; ++c) weights.push_back(0.25 + c % 5);
  const StepParams params{.slot = 1, .result = 3, .divisor = 64, .mixed = 1};
  const ScaleState scale{.scale = 128};
  const DeviceArray<Presence> device_presence(presence);
  const DeviceArray<Mix> device_mixes(mixes);
  const DeviceArray<double> device_weights(weights);
  const DeviceArray<StepParams> device_params(std::vector<StepParams>{params});
  const DeviceArray<ScaleState> device_scale(std::vector<ScaleState>{scale});
  const DeviceArray<StepResult> results(5);
  const TargetView host{.presence = presence.data(),
                        .mixes = o.plain ? nullptr : mixes.data(),
                        .class_weights = o.plain ? nullptr : weights.data(),
                        .smoothing = o.plain ? 0 : 0.1,
                        .capacity = capacity,
                        .classes = o.classes,
                        .params = &params};
  TargetView device = host;
  device.presence = device_presence.data();
  device.params = device_params.data();
  if (!o.plain) device.mixes = device_mixes.data(), device.class_weights = device_weights.data();

  const OperandView<T> view{logits.device(), o.batch, 1, 1, o.classes, pitch};
  const OperandView<double> host_view{logits.host(), o.batch, 1, 1, o.classes, pitch};
  kernels::CrossEntropy<T>::run_labels(dlogits.device(), results.data(), view, device,
                                       device_scale.data(), nullptr);
  StepResult expected;
  reference::binary_cross_entropy(dlogits.host(), expected, host_view, host, scale);
  const StepResult result = results.download()[3];
  CHECK(result.loss == doctest::Approx(expected.loss).epsilon(1e-6));
  CHECK(result.correct1 == expected.correct1);
  CHECK(result.correct5 == 0);
  // They reach 128/64 = 2, times the largest weight.
  const double largest = o.plain ? 2 : 10;
  const Tolerance allowed = tolerance(kType<T>);
  dlogits.check({largest * allowed.absolute, 2 * allowed.relative}, "dlogits");
}

}  // namespace

TEST_CASE_TEMPLATE("binary_cross_entropy", T, float, __half, __nv_bfloat16) {
  if (!has_gpu()) return note_skipped("no GPU");
  for (const int batch : {1, 3, 40})
    for (const int labels : {1, 14, 33, 1000})
      for (const bool ties : {false, true})
        for (const bool plain : {false, true}) check_label_loss<T>({batch, labels, ties, plain});
}

TEST_CASE_TEMPLATE("cross_entropy", T, float, __half, __nv_bfloat16) {
  if (!has_gpu()) return note_skipped("no GPU");
  for (const int batch : {1, 3, 40})
    for (const int classes : {1, 2, 10, 35, 1000})
      for (const bool ties : {false, true})
        for (const bool plain : {false, true})
          check_cross_entropy<T>({batch, classes, ties, plain});
}
