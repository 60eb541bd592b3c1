// Normalisation of a staging slot against the reference.
#include "tests/kernels/gpu.h"

using namespace engine;
using namespace engine::test;

TEST_CASE_TEMPLATE("normalise_images", T, float, __half, __nv_bfloat16) {
  if (!has_gpu()) return note_skipped("no GPU");
  const float mean[3] = {0.485f, 0.456f, 0.406f}, deviation[3] = {0.229f, 0.224f, 0.225f};
  for (const int channels : {1, 3})
    for (const int64_t pixels : {1, 35, 64})
      for (const int batch : {1, 2, 5}) {
        const int capacity = batch + 1;
        std::vector<uint8_t> bytes(2 * capacity * pixels * channels);
        for (size_t i = 0; i < bytes.size(); ++i) bytes[i] = static_cast<uint8_t>(i * 37);
        const DeviceArray<uint8_t> images(bytes);
        const DeviceArray<StepParams> params(std::vector<StepParams>{{.slot = 1}});
        Mirror<T> image(batch * pixels * channels, 0);
        kernels::normalise_images(image.device(), images.data(), batch, capacity, pixels, channels,
                                  mean, deviation, params.data(), nullptr);
        reference::normalise_images(image.host(), bytes.data() + capacity * pixels * channels,
                                    batch * pixels, channels, mean, deviation);
        image.check(tolerance(kType<T>), "image");
      }
}
