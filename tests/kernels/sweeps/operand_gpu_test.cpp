// The sweeps around library calls against the reference: every activation, with and without a norm,
// every gate, slices of wider buffers, gradients with corrections and of gated buffers, assigned
// and added.
#include "tests/kernels/gpu.h"

using namespace engine;
using namespace engine::test;

namespace {

const std::vector<OperandOptions> kOperands = {
    {false, Activation::none, GateKind::none},     {true, Activation::none, GateKind::none},
    {true, Activation::relu, GateKind::none},      {true, Activation::silu, GateKind::none},
    {false, Activation::relu, GateKind::elements}, {true, Activation::silu, GateKind::learned},
    {true, Activation::none, GateKind::image},     {true, Activation::silu, GateKind::elements},
    {true, Activation::relu6, GateKind::none}};

}  // namespace

TEST_CASE_TEMPLATE("load_operand", T, float, __half, __nv_bfloat16) {
  if (!has_gpu()) return note_skipped("no GPU");
  for (const Extent& e : extents())
    for (const OperandOptions& o : kOperands) {
      OperandCase<T> in(e, o, 1);
      const DeviceArray<T> f(e.pixels() * e.channels);
      kernels::Sweeps<T>::load_operand(f.data(), in.device_view(), nullptr);
      std::vector<double> ours;
      for (const T& v : f.download()) ours.push_back(plain(v));
      expect_close(ours, reference::load_operand(in.host_view()), tolerance(kType<T>), "f");
    }
}

TEST_CASE_TEMPLATE("store_output", T, float, __half, __nv_bfloat16) {
  if (!has_gpu()) return note_skipped("no GPU");
  for (const Extent& e : extents())
    for (const bool with_bias : {false, true})
      for (const bool statistics : {false, true}) {
        Mirror<T> dense(normal(e.pixels() * e.channels, 3, 2.f));
        Mirror<float> bias(with_bias ? normal(e.channels, 4) : std::vector<float>{});
        OutputCase<T> out(e, statistics);
        const SweepScratch partials(e);
        kernels::Sweeps<T>::store_output(out.device_view(), dense.device(), bias.device(),
                                         partials.view(), nullptr);
        reference::store_output(out.host_view(), dense.values(), bias.host());
        out.check("y");
      }
}

TEST_CASE("statistics survive a mean far from zero") {
  if (!has_gpu()) return note_skipped("no GPU");
  const Extent e{4, 33, 31, 24, 24, 0};
  Mirror<float> dense(normal(e.elements(), 5, 1000.f));
  OutputCase<float> out(e, true);
  const SweepScratch partials(e);
  kernels::Sweeps<float>::store_output(out.device_view(), dense.device(),
                                       static_cast<float*>(nullptr), partials.view(), nullptr);
  reference::store_output(out.host_view(), dense.values(), static_cast<double*>(nullptr));
  out.mean.check({0, 1e-6}, "mean");
  out.var.check({0, 1e-5}, "variance");
}

TEST_CASE_TEMPLATE("load_gradient", T, float, __half, __nv_bfloat16) {
  if (!has_gpu()) return note_skipped("no GPU");
  const std::vector<GradientOptions> options = {{false, false},
                                                {true, false},
                                                {true, false, Activation::none, true},
                                                {true, true, Activation::silu},
                                                {false, true, Activation::relu}};
  for (const Extent& e : extents())
    for (const GradientOptions& o : options) {
      GradientCase<T> gradient(e, o, 1);
      const DeviceArray<T> dy(e.pixels() * e.channels);
      kernels::Sweeps<T>::load_gradient(dy.data(), gradient.device_view(), nullptr);
      std::vector<double> ours;
      for (const T& v : dy.download()) ours.push_back(plain(v));
      expect_close(ours, reference::load_gradient(gradient.host_view()), tolerance(kType<T>), "dy");
    }
}

// Images whose last row and column lie on the stride, and beside it; strides of two and three.
TEST_CASE_TEMPLATE("add_strided", T, float, __half, __nv_bfloat16) {
  if (!has_gpu()) return note_skipped("no GPU");
  for (const Extent& e : extents())
    for (const int stride : {2, 3}) {
      OperandCase<T> in(e, {false, Activation::none, GateKind::none}, 1);
      SinkCase<T> sink(in, Write::add);
      const int height = (e.height - 1) / stride + 1, width = (e.width - 1) / stride + 1;
      Mirror<T> df(normal(size_t(e.batch) * height * width * e.channels, 3));
      kernels::Sweeps<T>::add_strided(sink.device_view(), df.device(), in.device_view(), height,
                                      width, stride, nullptr);
      size_t from = 0;
      for (int n = 0; n < e.batch; ++n)
        for (int y = 0; y < height; ++y)
          for (int x = 0; x < width; ++x)
            for (int c = 0; c < e.channels; ++c) {
              const size_t pixel =
                  (size_t(n) * e.height + size_t(y) * stride) * e.width + size_t(x) * stride;
              sink.grad.host()[pixel * e.pitch + e.c0 + c] += df.values()[from++];
            }
      sink.check("G");
    }
}

TEST_CASE_TEMPLATE("store_gradient", T, float, __half, __nv_bfloat16) {
  if (!has_gpu()) return note_skipped("no GPU");
  for (const Extent& e : extents())
    for (const OperandOptions& o : kOperands)
      for (const Write how : {Write::assign, Write::add}) {
        if (o.gate == GateKind::learned && how == Write::add)
          continue;  // its reader is the only one
        OperandCase<T> in(e, o, 1);
        SinkCase<T> sink(in, how);
        Mirror<T> df(normal(e.pixels() * e.channels, 6));
        const SweepScratch partials(e);
        kernels::Sweeps<T>::store_gradient(sink.device_view(), df.device(), in.device_view(),
                                           partials.view(), nullptr);
        reference::store_gradient(sink.host_view(), df.values(), in.host_view());
        sink.check("G", 3);  // gamma·inv_std reaches 3
      }
}

TEST_CASE_TEMPLATE("store_gradient of sums alone", T, float, __half, __nv_bfloat16) {
  if (!has_gpu()) return note_skipped("no GPU");
  for (const Extent& e : extents()) {
    OperandCase<T> in(e, {true, Activation::none, GateKind::none}, 1);
    SinkCase<T> sink(in, Write::assign);
    Mirror<T> df(normal(e.pixels() * e.channels, 6));
    const SweepScratch partials(e);
    kernels::Sweeps<T>::store_gradient(sink.sums_only(sink.device_view()), df.device(),
                                       in.device_view(), partials.view(), nullptr);
    reference::store_gradient(sink.sums_only(sink.host_view()), df.values(), in.host_view());
    sink.check("sums", 3);
  }
}

// Several groups of channels, the last one narrower, and many tiles: what the last blocks merge.
TEST_CASE_TEMPLATE("sweeps over many groups and tiles", T, float, __half, __nv_bfloat16) {
  if (!has_gpu()) return note_skipped("no GPU");
  const Extent e{2, 37, 41, 200, 208, 8};
  const SweepScratch partials(e);
  const Mirror<T> dense(normal(e.pixels() * e.channels, 3, 2.f));
  OutputCase<T> out(e, true);
  kernels::Sweeps<T>::store_output(out.device_view(), dense.device(), nullptr, partials.view(),
                                   nullptr);
  reference::store_output(out.host_view(), dense.values(), static_cast<double*>(nullptr));
  out.check("y");
  OperandCase<T> in(e, {true, Activation::relu, GateKind::none}, 1);
  SinkCase<T> sink(in, Write::add);
  kernels::Sweeps<T>::store_gradient(sink.device_view(), dense.device(), in.device_view(),
                                     partials.view(), nullptr);
  reference::store_gradient(sink.host_view(), dense.values(), in.host_view());
  sink.check("G", 3);
}

TEST_CASE_TEMPLATE("store_gradient in place", T, float, __half) {
  if (!has_gpu()) return note_skipped("no GPU");
  const Extent e{2, 6, 5, 24, 24, 0};
  OperandCase<T> in(e, {}, 1);
  SinkCase<T> sink(in, Write::assign);
  const SweepScratch partials(e);
  const std::vector<double> df = sink.grad.values();
  kernels::Sweeps<T>::store_gradient(sink.device_view(), static_cast<const T*>(sink.grad.device()),
                                     in.device_view(), partials.view(), nullptr);
  reference::store_gradient(sink.host_view(), df, in.host_view());
  sink.check("G", 3);
}

TEST_CASE_TEMPLATE("bias_gradient", T, float, __half, __nv_bfloat16) {
  if (!has_gpu()) return note_skipped("no GPU");
  for (const Extent& e : extents()) {
    Mirror<T> dy(normal(e.pixels() * e.channels, 7));
    Mirror<float> dbias(e.channels, 0.5f);
    const SweepScratch partials(e);
    kernels::Sweeps<T>::bias_gradient(dbias.device(), dy.device(), e.pixels(), e.channels,
                                      partials.view(), nullptr);
    reference::bias_gradient(dbias.host(), dy.values(), e.channels);
    dbias.check(sum_tolerance(double(e.pixels())), "dbias");
  }
}

TEST_CASE_TEMPLATE("sums are the same bits in every run", T, float, __half) {
  if (!has_gpu()) return note_skipped("no GPU");
  const Extent e{5, 17, 19, 40, 40, 0};
  const auto run = [&] {
    OperandCase<T> in(e, {}, 1);
    SinkCase<T> sink(in, Write::assign);
    const Mirror<T> df(normal(e.elements(), 6));
    const SweepScratch partials(e);
    const DeviceArray<float> dgamma(e.channels), dbeta(e.channels);
    GradientSink<T> view = sink.device_view();
    view.dgamma = dgamma.data();
    view.dbeta = dbeta.data();
    kernels::Sweeps<T>::store_gradient(view, df.device(), in.device_view(), partials.view(),
                                       nullptr);
    std::vector<float> sums = dgamma.download(), more = dbeta.download();
    sums.insert(sums.end(), more.begin(), more.end());
    return sums;
  };
  CHECK(run() == run());
}
