// A staging slot to the network's input, against the reference: bytes as they are, mixed, and
// records of a pack.
#include "tests/kernels/gpu.h"

#include "kernels/image.h"

using namespace engine;
using namespace engine::test;

namespace {

constexpr float kMean[3] = {0.485f, 0.456f, 0.406f}, kStd[3] = {0.229f, 0.224f, 0.225f};

struct Extents {
  int batch, height, width, channels;
};
constexpr Extents kExtents[] = {{1, 1, 1, 1}, {2, 5, 7, 1}, {5, 8, 8, 1},   {1, 1, 1, 3},
                                {2, 5, 7, 3}, {5, 8, 8, 3}, {3, 12, 10, 3}, {4, 60, 50, 3}};

std::vector<uint8_t> some_bytes(size_t count) {
  std::vector<uint8_t> bytes(count);
  for (size_t i = 0; i < count; ++i) bytes[i] = static_cast<uint8_t>(i * 37 + i / 251 * 11);
  return bytes;
}

// Stored images larger and smaller than the input; every edit, in different orders, and overhanging
// crops.
std::vector<ImageRecord> some_records(const Extents& e) {
  std::vector<ImageRecord> records;
  uint64_t offset = 0;
  for (int n = 0; n < e.batch; ++n) {
    ImageRecord r{.offset = offset,
                  .width = e.width + 3 - 2 * n,
                  .height = e.height + n,
                  .left = 2 - n,
                  .top = n % 3 - 1,
                  .flip_horizontal = n % 2 == 0,
                  .flip_vertical = n % 3 == 1};
    r.width = std::max(1, r.width);
    const ColorEdit order[] = {ColorEdit::brightness, ColorEdit::contrast, ColorEdit::saturation,
                               ColorEdit::hue};
    const float amounts[] = {1.25f, 0.7f, 1.3f, -0.07f};
    for (int i = 0; i < (n == 3 ? 1 : kColorEdits); ++i) {
      r.edits[i] = order[(i + n) % 4];
      r.amounts[i] = amounts[(i + n) % 4];
    }
    offset += uint64_t(r.width) * r.height * e.channels;
    records.push_back(r);
  }
  return records;
}

// A plain one, a mixup, a box of the neighbour, an empty one.
std::vector<Mix> some_mixes(const Extents& e) {
  std::vector<Mix> mixes;
  for (int n = 0; n < e.batch; ++n) {
    Mix mix{.partner = (n + 1) % e.batch, .share = n % 2 ? 0.3f : 1.f};
    if (n % 3 == 2) {
      mix.right = static_cast<int16_t>(e.width - 1);
      mix.top = 1, mix.bottom = static_cast<int16_t>(e.height / 2 + 1);
      mix.share = 0.6f;
    }
    mixes.push_back(mix);
  }
  return mixes;
}

template <class V>
std::vector<V> in_second_slot(const std::vector<V>& values, int capacity) {
  std::vector<V> slots(2 * capacity);
  std::copy(values.begin(), values.end(), slots.begin() + capacity);
  return slots;
}

template <class T>
void check_load_images(const Extents& e, bool packed, bool mixed) {
  const int capacity = e.batch + 1;
  const size_t pixels = size_t(e.height) * e.width * e.channels;
  const auto bytes = some_bytes(2 * capacity * pixels);
  const auto records = some_records(e);
  const auto pack = some_bytes(records.back().offset +
                               size_t(records.back().width) * records.back().height * e.channels);
  const auto record_slots = in_second_slot(records, capacity);
  const auto mix_slots = in_second_slot(some_mixes(e), capacity);
  const StepParams params{.slot = 1, .packed = packed, .mixed = mixed};
  std::vector<int32_t> levels(capacity);

  InputView host{.images = bytes.data(),
                 .pack = packed ? pack.data() : nullptr,
                 .records = record_slots.data(),
                 .mean_levels = levels.data(),
                 .mixes = mixed ? mix_slots.data() : nullptr,
                 .capacity = capacity,
                 .batch = e.batch,
                 .height = e.height,
                 .width = e.width,
                 .channels = e.channels,
                 .mean = {kMean[0], kMean[1], kMean[2]},
                 .std = {kStd[0], kStd[1], kStd[2]},
                 .params = &params};
  const DeviceArray<uint8_t> device_bytes(bytes), device_pack(pack);
  const DeviceArray<ImageRecord> device_records(record_slots);
  const DeviceArray<Mix> device_mixes(mix_slots);
  const DeviceArray<int32_t> device_levels(levels);
  const DeviceArray<StepParams> device_params(std::vector<StepParams>{params});
  InputView device = host;
  device.images = device_bytes.data();
  device.pack = packed ? device_pack.data() : nullptr;
  device.records = device_records.data();
  device.mean_levels = device_levels.data();
  device.mixes = mixed ? device_mixes.data() : nullptr;
  device.params = device_params.data();

  Mirror<T> image(e.batch * pixels, 0);
  kernels::Images<T>::load(image.device(), device, nullptr);
  reference::load_images(image.host(), host);
  INFO(e.batch << " x " << e.height << " x " << e.width << " x " << e.channels);
  // Colours are the same bytes, so that only the normalised value is rounded.
  image.check(tolerance(kType<T>), "image");
}

}  // namespace

TEST_CASE_TEMPLATE("load_images", T, float, __half, __nv_bfloat16) {
  if (!has_gpu()) return note_skipped("no GPU");
  for (const Extents& e : kExtents)
    for (const bool packed : {false, true})
      for (const bool mixed : {false, true}) check_load_images<T>(e, packed, mixed);
}
