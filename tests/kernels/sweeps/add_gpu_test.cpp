// The sum of two operands against the reference.
#include <algorithm>
#include <cmath>

#include "tests/kernels/gpu.h"

using namespace engine;
using namespace engine::test;

namespace {

// What a sum behind `act` may hold.
std::vector<float> stored_sum(const Extent& e, Activation act) {
  std::vector<float> stored = normal(e.pixels() * e.channels, 7, 4.f);
  for (float& h : stored) h = activate(act, h).h;
  return stored;
}

// The bytes of ActivatedGradient::slopes of stored values.
std::vector<uint8_t> slopes_of(const Extent& e, const std::vector<double>& stored, Activation act) {
  std::vector<uint8_t> bytes(slope_bytes(e.pixels(), e.channels));
  for (size_t i = 0; i < stored.size(); ++i) {
    const int c = static_cast<int>(i % e.channels);
    if (activate(act, stored[i]).slope != 0)
      bytes[slope_byte(e.pixels(), i / e.channels, c)] |= 1 << c % kSlopesOfByte;
  }
  return bytes;
}

bool in_packs(const Extent& e) {
  return e.channels % kSlopesOfByte == 0 && e.pitch % kSlopesOfByte == 0 &&
         e.c0 % kSlopesOfByte == 0;
}

constexpr OperandOptions kNorm{true, Activation::none, GateKind::none},
    kPlain{false, Activation::none, GateKind::none};

}  // namespace

TEST_CASE_TEMPLATE("add_forward", T, float, __half, __nv_bfloat16) {
  if (!has_gpu()) return note_skipped("no GPU");
  const std::vector<OperandOptions> first = {{true, Activation::none, GateKind::image},
                                             {true, Activation::silu, GateKind::elements},
                                             {false, Activation::none, GateKind::none}};
  for (const Extent& e : extents())
    for (const OperandOptions& o : first)
      for (const auto& [statistics, act] :
           {std::pair{false, Activation::none}, std::pair{true, Activation::none},
            std::pair{false, Activation::relu}, std::pair{true, Activation::relu6}}) {
        OperandCase<T> a(e, o, 1), b(e, {false, Activation::none, GateKind::none}, 2);
        OutputCase<T> out(e, statistics);
        const SweepScratch partials(e);
        kernels::Addition<T>::forward(out.device_view(), nullptr, a.device_view(), b.device_view(),
                                      act, partials.view(), nullptr);
        reference::add_forward(out.host_view(), a.host_view(), b.host_view(), act);
        out.check("sum");
      }
}

TEST_CASE_TEMPLATE("add_forward of two norms, and its slopes", T, float, __half, __nv_bfloat16) {
  if (!has_gpu()) return note_skipped("no GPU");
  for (const Extent& e : extents())
    for (const OperandOptions& o : {kNorm, kPlain})
      for (const Activation act : {Activation::relu, Activation::relu6, Activation::none})
        for (const bool statistics : {false, true}) {
          OperandCase<T> a(e, kNorm, 1), b(e, o, 2);
          const Extent whole{e.batch, e.height, e.width, e.channels, e.channels, 0};
          OutputCase<T> out(whole, statistics);
          const SweepScratch partials(e);
          const bool keeps = sizeof(T) == 2 && in_packs(e) && act != Activation::none;
          const DeviceArray<uint8_t> slopes(keeps ? slope_bytes(e.pixels(), e.channels) : 0);
          kernels::Addition<T>::forward(out.device_view(), keeps ? slopes.data() : nullptr,
                                        a.device_view(), b.device_view(), act, partials.view(),
                                        nullptr);
          reference::add_forward(out.host_view(), a.host_view(), b.host_view(), act);
          out.check("sum");
          if (!keeps) continue;
          std::vector<double> stored;
          for (const T& h : out.y.download()) stored.push_back(plain(h));
          CHECK(slopes.download() == slopes_of(whole, stored, act));
        }
}

TEST_CASE_TEMPLATE("add_backward", T, float, __half, __nv_bfloat16) {
  if (!has_gpu()) return note_skipped("no GPU");
  const std::vector<OperandOptions> operands = {{true, Activation::none, GateKind::none},
                                                {true, Activation::none, GateKind::image},
                                                {true, Activation::silu, GateKind::none},
                                                {false, Activation::none, GateKind::elements},
                                                {false, Activation::none, GateKind::none}};
  for (const Extent& e : extents())
    for (const OperandOptions& o : operands)
      for (const auto& [how, act] :
           {std::pair{Write::assign, Activation::relu}, std::pair{Write::add, Activation::relu},
            std::pair{Write::assign, Activation::relu6}}) {
        OperandCase<T> in(e, o, 1);
        SinkCase<T> sink(in, how);
        Mirror<T> dy(normal(e.pixels() * e.channels, 6));
        const Mirror<T> h(stored_sum(e, act));
        const SweepScratch partials(e);
        std::vector<double> expected = dy.values();
        reference::multiply_slopes<double>(expected, {.h = h.values().data(), .act = act});
        kernels::Addition<T>::backward({dy.device(), h.device(), nullptr, act},
                                       {sink.device_view(), in.device_view()}, {}, partials.view(),
                                       nullptr);
        reference::store_gradient(sink.host_view(), expected, in.host_view());
        sink.check("G", 3);
        std::ranges::copy(expected, dy.host());
        dy.check({}, "dy");  // slopes are 0 or 1, so nothing is rounded
      }
}

// The sums of one operand or of two, the slopes as bits where they can be.
TEST_CASE_TEMPLATE("add_backward of sums alone", T, float, __half, __nv_bfloat16) {
  if (!has_gpu()) return note_skipped("no GPU");
  std::vector<Extent> all = extents();
  all.push_back({2, 37, 41, 200, 208, 8});  // several groups and many tiles
  for (const Extent& e : all)
    for (const bool both : {false, true})
      for (const bool bits : {false, true})
        for (const Activation act : {Activation::relu, Activation::relu6}) {
          if (bits && (sizeof(T) != 2 || !in_packs(e))) continue;
          OperandCase<T> a(e, kNorm, 1), b(e, kNorm, 11);
          SinkCase<T> first(a, Write::assign), second(b, Write::assign);
          Mirror<T> dy(normal(e.pixels() * e.channels, 6));
          const Mirror<T> h(stored_sum(e, act));
          const DeviceArray<uint8_t> slopes(bits ? slopes_of(e, h.values(), act)
                                                 : std::vector<uint8_t>{});
          const SweepScratch partials(e);
          std::vector<double> expected = dy.values();
          reference::multiply_slopes<double>(expected, {.h = h.values().data(), .act = act});
          using Term = kernels::SummedOperand<T>;
          const Term none{};
          kernels::Addition<T>::backward(
              {dy.device(), h.device(), bits ? slopes.data() : nullptr, act},
              {first.sums_only(first.device_view()), a.device_view()},
              both ? Term{second.sums_only(second.device_view()), b.device_view()} : none,
              partials.view(), nullptr);
          reference::store_gradient(first.sums_only(first.host_view()), expected, a.host_view());
          if (both)
            reference::store_gradient(second.sums_only(second.host_view()), expected,
                                      b.host_view());
          first.check("first", 3);
          second.check("second", 3);
          std::ranges::copy(expected, dy.host());
          dy.check({}, "dy");
        }
}

TEST_CASE("add_backward without an operand, and at values that are not numbers") {
  if (!has_gpu()) return note_skipped("no GPU");
  const Extent e{1, 2, 3, 8, 8, 0};
  OperandCase<float> in(e, {}, 1);
  Mirror<float> dy(normal(e.elements(), 6));
  std::vector<float> stored = normal(e.elements(), 7);
  for (float& h : stored) h = activate(Activation::relu, h).h;
  stored[3] = std::nanf("");
  const Mirror<float> h(stored);
  for (size_t i = 0; i < stored.size(); ++i)
    if (stored[i] <= 0) dy.host()[i] = 0;
  const SweepScratch partials(e);
  kernels::Addition<float>::backward({dy.device(), h.device(), nullptr, Activation::relu},
                                     {{}, in.device_view()}, {}, partials.view(), nullptr);
  dy.check({}, "dy");
}
