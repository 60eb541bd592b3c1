// Cross entropy against the reference, and what it does with ties and large logits.
#include "tests/kernels/gpu.h"

using namespace engine;
using namespace engine::test;

TEST_CASE_TEMPLATE("cross_entropy", T, float, __half, __nv_bfloat16) {
  if (!has_gpu()) return note_skipped("no GPU");
  for (const int batch : {1, 3, 40})
    for (const int classes : {1, 2, 10, 35, 1000})
      for (const bool ties : {false, true}) {
        const Extent e{batch, 1, 1, classes, classes, 0};
        std::vector<float> values = normal(e.elements(), 1, 20.f, 8.f);
        if (ties)
          for (float& v : values) v = std::round(v / 8.f);
        Mirror<T> logits(values), dlogits(normal(e.elements(), 2));
        const int capacity = batch + 2;
        std::vector<int32_t> labels(2 * capacity, -1);
        for (int n = 0; n < batch; ++n) labels[capacity + n] = (n * 7) % classes;
        const StepParams params{.slot = 1, .result = 3, .samples = 64};
        const ScaleState scale{.scale = 128};
        const DeviceArray<int32_t> device_labels(labels);
        const DeviceArray<StepParams> device_params(std::vector<StepParams>{params});
        const DeviceArray<ScaleState> device_scale(std::vector<ScaleState>{scale});
        const DeviceArray<StepResult> results(5);
        const OperandView<T> view{logits.device(), batch, 1, 1, classes, classes};
        const OperandView<double> host_view{logits.host(), batch, 1, 1, classes, classes};
        kernels::cross_entropy(dlogits.device(), results.data(), view, device_labels.data(),
                               capacity, device_params.data(), device_scale.data(), nullptr);
        StepResult expected;
        reference::cross_entropy(dlogits.host(), expected, host_view, labels.data() + capacity,
                                 params, scale);
        const StepResult result = results.download()[3];
        CHECK(result.loss == doctest::Approx(expected.loss).epsilon(1e-6));
        CHECK(result.correct1 == expected.correct1);
        CHECK(result.correct5 == expected.correct5);
        Tolerance allowed = tolerance(kType<T>);
        dlogits.check({2 * allowed.absolute, 2 * allowed.relative}, "dlogits");  // they reach 2
      }
}
