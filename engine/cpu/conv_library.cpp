// Dense convolutions larger than 1×1 by oneDNN, a few images at a time per worker, so that the
// materialised operand, the output and their gradients stay in the cache. Activations are plain
// NHWC; the weights are reordered to what oneDNN likes once per step, because with plain weights it
// falls back to a path that was measured many times slower.
#include <omp.h>

#include <algorithm>

#include "engine/cpu/onednn.h"
#include "engine/cpu/prepare.h"
#include "engine/cpu/sweeps.h"

namespace engine::cpu {

namespace {

using Tag = dnnl::memory::format_tag;
using Desc = dnnl::memory::desc;

// The images of one call: several where an image is small, so that a weight gradient is worth its
// sum.
int images_per_call(int batch, int threads, int64_t pixels) {
  constexpr int64_t kPixels = 256;
  int images = 1;
  for (int n = 1; n <= batch / std::min(threads, batch) && n * pixels <= kPixels; ++n)
    if (batch % n == 0) images = n;
  return images;
}

// The descriptors of one call, made for one thread, since workers run side by side.
struct Dense {
  ConvViews c;
  int images;
  Desc x, y, weight, plain_weight;
  dnnl::memory::dims stride, padding;
  dnnl::primitive_attr attributes;

  Dense(const ConvViews& views, int threads)
      : c(views),
        images(images_per_call(c.in.batch, threads, int64_t{c.out.height} * c.out.width)) {
    const dnnl::memory::dims filter = {c.out.channels, c.in.channels, c.window.kernel_h,
                                       c.window.kernel_w};
    x = dnnl_desc({images, c.in.channels, c.in.height, c.in.width}, Tag::nhwc);
    y = dnnl_desc({images, c.out.channels, c.out.height, c.out.width}, Tag::nhwc);
    weight = dnnl_desc(filter, Tag::any);
    plain_weight = dnnl_desc(filter, Tag::ohwi);
    stride = {c.window.stride, c.window.stride};
    padding = {c.window.padding, c.window.padding};
    attributes.set_scratchpad_mode(dnnl::scratchpad_mode::user);
  }

  int64_t in_pixels() const { return int64_t{images} * c.in.height * c.in.width; }
  int64_t out_pixels() const { return int64_t{images} * c.out.height * c.out.width; }
  int calls() const { return c.in.batch / images; }
  int most_workers(const Threads& threads) const { return std::min(threads.count(), calls()); }

  dnnl::convolution_forward::primitive_desc forward() const {
    return {{dnnl::prop_kind::forward_training, dnnl::algorithm::convolution_direct, x, weight, y,
             stride, padding, padding},
            attributes,
            dnnl_engine()};
  }
  dnnl::convolution_backward_data::primitive_desc backward_data() const {
    return {{dnnl::algorithm::convolution_direct, x, weight, y, stride, padding, padding},
            attributes,
            dnnl_engine(),
            forward()};
  }
  dnnl::convolution_backward_weights::primitive_desc backward_weights() const {
    return {{dnnl::algorithm::convolution_direct, x, weight, y, stride, padding, padding},
            attributes,
            dnnl_engine(),
            forward()};
  }
};

// oneDNN divides work among the threads that it sees when a primitive is made.
template <class Make>
auto for_one_thread(const Make& make) {
  const int before = omp_get_max_threads();
  omp_set_num_threads(1);
  auto made = make();
  omp_set_num_threads(before);
  return made;
}

Call reorder(const Desc& from, const void* source, const Desc& to, void* target) {
  const dnnl::reorder::primitive_desc desc(dnnl_engine(), from, dnnl_engine(), to);
  return {dnnl::reorder(desc), {{DNNL_ARG_FROM, from, source}, {DNNL_ARG_TO, to, target}}};
}

int64_t floats_of(const Desc& desc) {
  return static_cast<int64_t>(desc.get_size() / sizeof(float));
}

// ---------------------------------------------------------------- forward

class DenseForward {
 public:
  DenseForward(const Threads& threads, Workspace workspace, const Dense& d)
      : threads_(threads), d_(d) {
    const auto desc = for_one_thread([&] { return d.forward(); });
    const dnnl::convolution_forward primitive(desc);
    float* weight = workspace.take<float>(floats_of(desc.weights_desc()));
    weight_.push_back(reorder(d.plain_weight, d.c.weight, desc.weights_desc(), weight));
    const int64_t f_floats = d.c.in.dense() ? 0 : d.in_pixels() * d.c.in.channels;
    const int64_t y_floats = d.c.out.dense() ? 0 : d.out_pixels() * d.c.out.channels;
    const int64_t scratch = floats_of(desc.scratchpad_desc());
    workers_ = workspace.workers(d.most_workers(threads), [&](Workspace& own, int) {
      return Worker{{d.c.in, own},
                    {d.c.out, d.c.bias, own},
                    own.take<float>(f_floats),
                    own.take<float>(y_floats),
                    {primitive,
                     {{DNNL_ARG_SRC, d.x, nullptr},
                      {DNNL_ARG_WEIGHTS, desc.weights_desc(), weight},
                      {DNNL_ARG_DST, d.y, nullptr},
                      {DNNL_ARG_SCRATCHPAD, desc.scratchpad_desc(), own.take<float>(scratch)}}}};
    });
  }

  void run() {
    threads_.run_library([&] { weight_[0].execute(); });
    const int workers = static_cast<int>(workers_.size());
    threads_.run(workers, [&](int w) { work(workers_[w], share_of(d_.calls(), w, workers)); });
    OutputWriter::merge(workers_, &Worker::out);
  }

 private:
  struct Worker {
    OperandReader in;
    OutputWriter out;
    float *f, *y;
    Call call;
  };

  void work(Worker& worker, Share calls) const {
    const ConvViews& c = d_.c;
    worker.in.renew();
    worker.out.renew();
    for (int64_t call = calls.first; call < calls.last; ++call) {
      const int64_t in = call * d_.in_pixels(), out = call * d_.out_pixels();
      if (!c.in.dense()) worker.in.load(worker.f, c.in.channels, in, in + d_.in_pixels());
      worker.call.set(DNNL_ARG_SRC, c.in.dense() ? c.in.x + in * c.in.pitch : worker.f);
      worker.call.set(DNNL_ARG_DST, c.out.dense() ? c.out.y + out * c.out.pitch : worker.y);
      worker.call.execute();
      if (c.out.dense())
        worker.out.finish(out, out + d_.out_pixels());
      else
        worker.out.store(worker.y, c.out.channels, nullptr, 0, out, out + d_.out_pixels());
    }
  }

  const Threads& threads_;
  Dense d_;
  std::vector<Call> weight_;  // to oneDNN's layout
  std::vector<Worker> workers_;
};

// ---------------------------------------------------------------- backward

class DenseBackward {
 public:
  DenseBackward(const Threads& threads, Workspace workspace, const Dense& d)
      : threads_(threads), d_(d) {
    const ConvViews& c = d.c;
    const auto data = for_one_thread([&] { return d.backward_data(); });
    const auto weights = for_one_thread([&] { return d.backward_weights(); });
    const dnnl::convolution_backward_data data_primitive(data);
    const dnnl::convolution_backward_weights weights_primitive(weights);
    const Desc weight_desc = data.weights_desc(), dweight_desc = weights.diff_weights_desc();
    dweight_floats_ = floats_of(dweight_desc);
    float* weight = workspace.take<float>(floats_of(weight_desc));
    weight_.push_back(reorder(d.plain_weight, c.weight, weight_desc, weight));
    const int64_t x_floats = d.in_pixels() * c.in.channels,
                  y_floats = d.out_pixels() * c.out.channels;
    const int64_t scratch =
        std::max(floats_of(data.scratchpad_desc()), floats_of(weights.scratchpad_desc()));
    workers_ = workspace.workers(d.most_workers(threads), [&](Workspace& own, int) {
      float* part = own.take<float>(dweight_floats_);
      float* scratchpad = own.take<float>(scratch);
      return Worker{{c.dy, own},
                    {c.sink, c.in, own},
                    {c.out.channels, own},
                    own.take<float>(y_floats),
                    own.take<float>(x_floats),
                    own.take<float>(x_floats),
                    part,
                    own.take<float>(dweight_floats_),
                    {data_primitive,
                     {{DNNL_ARG_DIFF_DST, d.y, nullptr},
                      {DNNL_ARG_WEIGHTS, weight_desc, weight},
                      {DNNL_ARG_DIFF_SRC, d.x, nullptr},
                      {DNNL_ARG_SCRATCHPAD, data.scratchpad_desc(), scratchpad}}},
                    {weights_primitive,
                     {{DNNL_ARG_DIFF_DST, d.y, nullptr},
                      {DNNL_ARG_SRC, d.x, nullptr},
                      {DNNL_ARG_DIFF_WEIGHTS, dweight_desc, part},
                      {DNNL_ARG_SCRATCHPAD, weights.scratchpad_desc(), scratchpad}}}};
    });
    weight_.push_back(reorder(dweight_desc, workers_[0].dweight, d.plain_weight, c.dweight));
  }

  void run() {
    const int workers = static_cast<int>(workers_.size());
    if (d_.c.sink.grad) threads_.run_library([&] { weight_[0].execute(); });
    threads_.run(workers, [&](int w) { work(workers_[w], share_of(d_.calls(), w, workers)); });
    for (int w = 1; w < workers; ++w)
      row_kernels().add_scaled(workers_[0].dweight, workers_[w].dweight, 1, dweight_floats_);
    threads_.run_library([&] { weight_[1].execute(); });
    GradientWriter::merge(workers_, &Worker::writer);
    if (d_.c.dbias) ColumnSums::merge(d_.c.dbias, workers_, &Worker::bias);
  }

 private:
  struct Worker {
    GradientReader gradient;
    GradientWriter writer;
    ColumnSums bias;
    float *dy, *df, *f;
    float *part, *dweight;  // of one call, of this worker; in oneDNN's layout
    Call data, weights;
  };

  void work(Worker& worker, Share calls) const {
    worker.gradient.renew();
    worker.writer.renew();
    worker.bias.renew();
    std::fill_n(worker.dweight, dweight_floats_, 0.f);
    for (int64_t call = calls.first; call < calls.last; ++call) work_call(worker, call);
  }

  void work_call(Worker& worker, int64_t call) const {
    const ConvViews& c = d_.c;
    const int64_t in = call * d_.in_pixels(), in_end = in + d_.in_pixels();
    const int64_t out = call * d_.out_pixels(), out_end = out + d_.out_pixels();
    if (!c.dy.dense()) worker.gradient.load(worker.dy, c.out.channels, out, out_end);
    const float* dy = c.dy.dense() ? c.dy.grad + out * c.dy.pitch : worker.dy;
    if (c.dbias) worker.bias.add(dy, c.out.channels, d_.out_pixels());
    float* f = c.in.dense() ? nullptr : worker.f;
    if (c.sink.grad) {
      worker.data.set(DNNL_ARG_DIFF_DST, dy);
      worker.data.set(DNNL_ARG_DIFF_SRC, worker.df);
      worker.data.execute();
      worker.writer.store(worker.df, c.in.channels, f, c.in.channels, in, in_end);
    } else if (f) {
      worker.writer.operand().load(f, c.in.channels, in, in_end);
    }
    worker.weights.set(DNNL_ARG_DIFF_DST, dy);
    worker.weights.set(DNNL_ARG_SRC, f ? f : c.in.x + in * c.in.pitch);
    worker.weights.execute();
    row_kernels().add_scaled(worker.dweight, worker.part, 1, dweight_floats_);
  }

  const Threads& threads_;
  Dense d_;
  int64_t dweight_floats_ = 0;
  std::vector<Call> weight_;  // to oneDNN's layout, and back
  std::vector<Worker> workers_;
};

}  // namespace

ConvWork prepare_library(const Threads& threads, const Workspace& workspace, bool training,
                         const ConvViews& c) {
  const Dense dense(c, threads.count());
  ConvWork work{runner<DenseForward>(threads, workspace, dense), {}};
  if (training) work.backward = runner<DenseBackward>(threads, workspace, dense);
  return work;
}

}  // namespace engine::cpu
