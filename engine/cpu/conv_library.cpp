// Dense convolutions larger than 1×1 through oneDNN, some images at a time per worker, so that the materialised operand,
// the output and their gradients stay in the cache. Activations are plain NHWC; the weights are reordered to what
// oneDNN likes once per step (measured: with plain weights it falls back to a path many times slower).
#include <omp.h>

#include <algorithm>
#include <memory>

#include "engine/cpu/onednn.h"
#include "engine/cpu/prepare.h"
#include "engine/cpu/sweeps.h"

namespace engine::cpu {

namespace {

using Tag = dnnl::memory::format_tag;
using Desc = dnnl::memory::desc;

// Images of one call: several where an image is small, so that a weight gradient is worth its sum.
int images_per_call(int batch, int threads, int64_t pixels) {
  constexpr int64_t kPixels = 256;
  int images = 1;
  for (int n = 1; n <= batch / std::min(threads, batch) && n * pixels <= kPixels; ++n)
    if (batch % n == 0) images = n;
  return images;
}

// Descriptors of one call, made for one thread: workers run side by side.
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
  DenseForward(const Threads& threads, const Program& program, const std::string& name,
               const Dense& d)
      : threads_(threads), d_(d) {
    Workspace workspace(program, name);
    const auto desc = for_one_thread([&] { return d.forward(); });
    const dnnl::convolution_forward primitive(desc);
    float* weight = workspace.take<float>(floats_of(desc.weights_desc()));
    weight_.push_back(reorder(d.plain_weight, d.c.weight, desc.weights_desc(), weight));
    const int64_t f_floats = d.c.in.dense() ? 0 : d.in_pixels() * d.c.in.channels;
    const int64_t y_floats = d.c.out.dense() ? 0 : d.out_pixels() * d.c.out.channels;
    const int64_t scratch = floats_of(desc.scratchpad_desc());
    const int workers = workspace.workers(
        d.most_workers(threads), OperandReader::bytes(d.c.in) + OutputWriter::bytes(d.c.out) +
                                     block_bytes<float>(f_floats) + block_bytes<float>(y_floats) +
                                     block_bytes<float>(scratch));
    for (int w = 0; w < workers; ++w) {
      in_.emplace_back(d.c.in, workspace);
      out_.emplace_back(d.c.out, d.c.bias, workspace);
      f_.push_back(workspace.take<float>(f_floats));
      y_.push_back(workspace.take<float>(y_floats));
      call_.push_back(
          {primitive,
           {{DNNL_ARG_SRC, d.x, nullptr},
            {DNNL_ARG_WEIGHTS, desc.weights_desc(), weight},
            {DNNL_ARG_DST, d.y, nullptr},
            {DNNL_ARG_SCRATCHPAD, desc.scratchpad_desc(), workspace.take<float>(scratch)}}});
    }
  }

  void run() {
    threads_.run_library([&] { weight_[0].execute(); });
    const int workers = static_cast<int>(in_.size());
    threads_.run(workers, [&](int w) { work(w, share_of(d_.calls(), w, workers)); });
    OutputWriter::merge(out_);
  }

 private:
  void work(int w, Share calls) {
    const ConvViews& c = d_.c;
    in_[w].renew();
    out_[w].renew();
    for (int64_t call = calls.first; call < calls.last; ++call) {
      const int64_t in = call * d_.in_pixels(), out = call * d_.out_pixels();
      if (!c.in.dense()) in_[w].load(f_[w], c.in.channels, in, in + d_.in_pixels());
      call_[w].set(DNNL_ARG_SRC, c.in.dense() ? c.in.x + in * c.in.pitch : f_[w]);
      call_[w].set(DNNL_ARG_DST, c.out.dense() ? c.out.y + out * c.out.pitch : y_[w]);
      call_[w].execute();
      if (c.out.dense())
        out_[w].finish(out, out + d_.out_pixels());
      else
        out_[w].store(y_[w], c.out.channels, nullptr, 0, out, out + d_.out_pixels());
    }
  }

  const Threads& threads_;
  Dense d_;
  std::vector<Call> weight_;
  std::vector<OperandReader> in_;
  std::vector<OutputWriter> out_;
  std::vector<float*> f_, y_;
  std::vector<Call> call_;
};

// ---------------------------------------------------------------- backward

class DenseBackward {
 public:
  DenseBackward(const Threads& threads, const Program& program, const std::string& name,
                const Dense& d)
      : threads_(threads), d_(d) {
    Workspace workspace(program, name);
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
    const int workers = workspace.workers(
        d.most_workers(threads),
        GradientReader::bytes(c.dy) + GradientWriter::bytes(c.sink, c.in) +
            ColumnSums::bytes(c.out.channels) + block_bytes<float>(y_floats) +
            2 * block_bytes<float>(x_floats) + 2 * block_bytes<float>(dweight_floats_) +
            block_bytes<float>(scratch));
    for (int w = 0; w < workers; ++w) {
      dy_.emplace_back(c.dy, workspace);
      writer_.emplace_back(c.sink, c.in, workspace);
      bias_.emplace_back(c.out.channels, workspace);
      tiles_.push_back({.dy = workspace.take<float>(c.dy.dense() ? 0 : y_floats),
                        .df = workspace.take<float>(c.sink.grad ? x_floats : 0),
                        .f = workspace.take<float>(c.in.dense() ? 0 : x_floats),
                        .part = workspace.take<float>(dweight_floats_),
                        .dweight = workspace.take<float>(dweight_floats_)});
      float* scratchpad = workspace.take<float>(scratch);
      data_.push_back({data_primitive,
                       {{DNNL_ARG_DIFF_DST, d.y, nullptr},
                        {DNNL_ARG_WEIGHTS, weight_desc, weight},
                        {DNNL_ARG_DIFF_SRC, d.x, nullptr},
                        {DNNL_ARG_SCRATCHPAD, data.scratchpad_desc(), scratchpad}}});
      weights_.push_back({weights_primitive,
                          {{DNNL_ARG_DIFF_DST, d.y, nullptr},
                           {DNNL_ARG_SRC, d.x, nullptr},
                           {DNNL_ARG_DIFF_WEIGHTS, dweight_desc, tiles_[w].part},
                           {DNNL_ARG_SCRATCHPAD, weights.scratchpad_desc(), scratchpad}}});
    }
    weight_.push_back(reorder(dweight_desc, tiles_[0].dweight, d.plain_weight, c.dweight));
  }

  void run() {
    const int workers = static_cast<int>(dy_.size());
    if (d_.c.sink.grad) threads_.run_library([&] { weight_[0].execute(); });
    threads_.run(workers, [&](int w) { work(w, share_of(d_.calls(), w, workers)); });
    for (int w = 1; w < workers; ++w)
      row_kernels().add_scaled(tiles_[0].dweight, tiles_[w].dweight, 1, dweight_floats_);
    threads_.run_library([&] { weight_[1].execute(); });
    GradientWriter::merge(writer_);
    if (d_.c.dbias) ColumnSums::merge(d_.c.dbias, bias_);
  }

 private:
  struct Tiles {
    float *dy, *df, *f;
    float *part, *dweight;  // of one call, of this worker; in oneDNN's layout
  };

  void work(int w, Share calls) {
    dy_[w].renew();
    writer_[w].renew();
    bias_[w].renew();
    std::fill_n(tiles_[w].dweight, dweight_floats_, 0.f);
    for (int64_t call = calls.first; call < calls.last; ++call) work_call(w, call);
  }

  void work_call(int w, int64_t call) {
    const ConvViews& c = d_.c;
    const Tiles& t = tiles_[w];
    const int64_t in = call * d_.in_pixels(), in_end = in + d_.in_pixels();
    const int64_t out = call * d_.out_pixels(), out_end = out + d_.out_pixels();
    if (!c.dy.dense()) dy_[w].load(t.dy, c.out.channels, out, out_end);
    const float* dy = c.dy.dense() ? c.dy.grad + out * c.dy.pitch : t.dy;
    if (c.dbias) bias_[w].add(dy, c.out.channels, d_.out_pixels());
    float* f = c.in.dense() ? nullptr : t.f;
    if (c.sink.grad) {
      data_[w].set(DNNL_ARG_DIFF_DST, dy);
      data_[w].set(DNNL_ARG_DIFF_SRC, t.df);
      data_[w].execute();
      writer_[w].store(t.df, c.in.channels, f, c.in.channels, in, in_end);
    } else if (f) {
      writer_[w].operand().load(f, c.in.channels, in, in_end);
    }
    weights_[w].set(DNNL_ARG_DIFF_DST, dy);
    weights_[w].set(DNNL_ARG_SRC, f ? f : c.in.x + in * c.in.pitch);
    weights_[w].execute();
    row_kernels().add_scaled(t.dweight, t.part, 1, dweight_floats_);
  }

  const Threads& threads_;
  Dense d_;
  int64_t dweight_floats_ = 0;
  std::vector<Call> weight_;  // to oneDNN's layout, and back
  std::vector<GradientReader> dy_;
  std::vector<GradientWriter> writer_;
  std::vector<ColumnSums> bias_;
  std::vector<Tiles> tiles_;
  std::vector<Call> data_, weights_;
};

}  // namespace

ConvWork prepare_library(const Threads& threads, const Program& program, const std::string& name,
                         const ConvViews& c) {
  const Dense dense(c, threads.count());
  ConvWork exec;
  exec.forward = [f = std::make_shared<DenseForward>(threads, program, name, dense)] { f->run(); };
  if (program.training())
    exec.backward = [b = std::make_shared<DenseBackward>(threads, program, name, dense)] {
      b->run();
    };
  return exec;
}

}  // namespace engine::cpu
