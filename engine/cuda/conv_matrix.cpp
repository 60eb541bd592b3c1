// Pointwise and linear convolutions as matrix products by cuBLASLt, which reads and writes strided
// slices as they are.
#include "engine/cuda/conv.h"
#include "engine/cuda/cublas.h"

namespace engine::cuda {

namespace {

// (rows, k) · (k, outs); a row of a linear layer is an image, else a pixel.
template <class T>
struct MatrixForm {
  explicit MatrixForm(const Layer<T>& l)
      : rows(l.out.pixels()),
        outs(l.out.channels),
        by_pixel(l.conv.kind != Conv::Kind::linear),
        k(by_pixel ? l.in.channels : l.in_elements() / rows),
        precision(l.program.precision()) {}

  int64_t rows, outs;
  bool by_pixel;  // else a row spans pixels, which must then be dense
  int64_t k;
  Precision precision;

  int64_t row_pitch(int pixel_pitch) const { return by_pixel ? pixel_pitch : k; }
  bool in_place(const OperandView<T>& in) const { return in.plain() && (by_pixel || in.dense()); }

  static Matrix matrix(const T* data, int64_t rows, int64_t columns, int64_t pitch,
                       bool transposed = false) {
    return {data, Storage<T>::matrix, rows, columns, pitch, transposed};
  }
  Matrix f(const Source<T>& s) const { return matrix(s.data, k, rows, row_pitch(s.pitch)); }
  Matrix dy(const Source<T>& s, bool transposed) const {
    return matrix(s.data, outs, rows, s.pitch, transposed);
  }
  Matrix weight(const T* w, bool transposed) const { return matrix(w, k, outs, k, transposed); }

  // yᵀ (outs, rows) = W · fᵀ
  Product y(const Layer<T>& l, const Source<T>& f) const {
    return {weight(l.weight, true), this->f(f), matrix(l.out.y, outs, rows, l.out.pitch), 0,
            precision};
  }
  // dfᵀ (k, rows) = Wᵀ · dyᵀ
  Product df(const Layer<T>& l, const Source<T>& dy, T* df, int pixel_pitch, bool add) const {
    return {weight(l.weight, false), this->dy(dy, false),
            matrix(df, k, rows, row_pitch(pixel_pitch)), add ? 1.f : 0.f, precision};
  }
  // dWᵀ (k, outs) = fᵀ · dy, in float whatever the storage type
  Product dweight(const Source<T>& f, const Source<T>& dy, float* to) const {
    return {this->f(f), this->dy(dy, true), {to, CUDA_R_32F, k, outs, k}, 0, precision};
  }
  // fᵀ · f (k, k), likewise
  Product squares(const Source<T>& f, float* to) const {
    return {this->f(f),
            matrix(f.data, k, rows, row_pitch(f.pitch), true),
            {to, CUDA_R_32F, k, k, k},
            0,
            precision};
  }
};

template <class T>
Launches matrix_forward(Cuda& gpu, const Layer<T>& l) {
  const MatrixForm<T> form(l);
  const auto f = operand_source(l, form.in_place(l.in), l.plan().forward.operand);
  Launches launches;
  if (f.scratch) launches.push_back(load_operand(gpu, f.scratch, l.in));
  launches.push_back(plan_product(gpu, "cuBLASLt forward", form.y(l, f), workspace(l.program)));
  append(launches, store_output<T>(gpu, l.out, l.out.y, l.bias, l.forward_partials));
  return launches;
}

// df goes where the gradient of a plain operand lives, or dz of a gated one, of which the epilogue
// only takes the sums; else through scratch and the epilogue.
template <class T>
Launches matrix_dgrad(Cuda& gpu, const Layer<T>& l, const Source<T>& dy) {
  if (!l.sink.grad) return {};
  const MatrixForm<T> form(l);
  const bool in_place = form.in_place(l.in);
  const bool stays = in_place || (l.sink.gated() && l.sink.pitch == l.in.channels);
  T* df =
      stays ? l.sink.grad : scratch<T>(l.program, l.plan().backward.operand, l.in_elements(), "df");
  const Product product = form.df(l, dy, df, stays ? l.sink.pitch : l.in.channels,
                                  in_place && l.sink.how == Write::add);
  Launches launches;
  launches.push_back(plan_product(gpu, "cuBLASLt dgrad", product, workspace(l.program)));
  if (!in_place) launches.push_back(store_gradient<T>(gpu, l.sink, df, l.in, l.backward_partials));
  return launches;
}

template <class T>
Launches matrix_backward(Cuda& gpu, const Layer<T>& l) {
  const MatrixForm<T> form(l);
  // The sum over a bias's gradient wants it dense.
  const bool plain = !l.gradient.normed() && !l.gradient.gated();
  const auto dy = gradient_source(l, l.gradient.dense() || (plain && !l.dbias));
  Launches dgrad = matrix_dgrad(gpu, l, dy);
  const auto f = operand_source(l, form.in_place(l.in), l.plan().backward.operand);
  Launches wgrad;
  wgrad.push_back(matrix_wgrad(gpu, l, f, dy, l.dweight));
  return library_backward(gpu, l, dy, f, std::move(dgrad), std::move(wgrad));
}

}  // namespace

template <class T>
Launch matrix_wgrad(Cuda& gpu, const Layer<T>& l, const Source<T>& f, const Source<T>& dy,
                    float* to) {
  return plan_product(gpu, "cuBLASLt wgrad", MatrixForm<T>(l).dweight(f, dy, to),
                      workspace(l.program));
}

template <class T>
Launch matrix_squares(Cuda& gpu, const Layer<T>& l, const Source<T>& f, float* to) {
  return plan_product(gpu, "cuBLASLt squares", MatrixForm<T>(l).squares(f, to),
                      workspace(l.program));
}

template <class T>
Launch pixels_dgrad(Cuda& gpu, const Layer<T>& l, const Source<T>& dy, T* df) {
  return plan_product(gpu, "cuBLASLt dgrad", MatrixForm<T>(l).df(l, dy, df, l.in.channels, false),
                      workspace(l.program));
}

template <class T>
std::optional<Launches> matrix_form(Cuda& gpu, const Layer<T>& l, Direction direction) {
  return direction == Direction::forward ? matrix_forward(gpu, l) : matrix_backward(gpu, l);
}

template Launch matrix_wgrad(Cuda&, const Layer<__half>&, const Source<__half>&,
                             const Source<__half>&, float*);
template Launch matrix_wgrad(Cuda&, const Layer<__nv_bfloat16>&, const Source<__nv_bfloat16>&,
                             const Source<__nv_bfloat16>&, float*);
template Launch matrix_squares(Cuda&, const Layer<__half>&, const Source<__half>&, float*);
template Launch matrix_squares(Cuda&, const Layer<__nv_bfloat16>&, const Source<__nv_bfloat16>&,
                               float*);
template Launch pixels_dgrad(Cuda&, const Layer<float>&, const Source<float>&, float*);
template Launch pixels_dgrad(Cuda&, const Layer<__half>&, const Source<__half>&, __half*);
template Launch pixels_dgrad(Cuda&, const Layer<__nv_bfloat16>&, const Source<__nv_bfloat16>&,
                             __nv_bfloat16*);
template std::optional<Launches> matrix_form(Cuda&, const Layer<float>&, Direction);
template std::optional<Launches> matrix_form(Cuda&, const Layer<__half>&, Direction);
template std::optional<Launches> matrix_form(Cuda&, const Layer<__nv_bfloat16>&, Direction);

}  // namespace engine::cuda
