#include "engine/forms.h"

#include <algorithm>

#include "engine/error.h"
#include "engine/step_sizes.h"
#include "kernels/banded_tiles.h"
#include "kernels/dense_tiles.h"
#include "kernels/folded_tiles.h"
#include "kernels/joined_tiles.h"
#include "kernels/narrow_tiles.h"
#include "kernels/product.h"
#include "kernels/stem_tiles.h"
#include "kernels/streamed_tiles.h"

namespace engine {

namespace {

// One convolution, and what its forms ask about it.
struct Layer {
  const Conv& conv;
  const FormOptions& options;
  StepSizes sizes;

  // The bytes of the tensors.
  size_t in() const { return sizes.dense(conv.in.at); }
  size_t out() const { return sizes.dense(conv.out); }
  size_t weight() const { return elements(memory()) * storage_size(options.precision); }
  size_t partials() const { return std::max(sizes.partials(conv.in.at), sizes.partials(conv.out)); }
  const Shape& memory() const { return sizes.graph.parameters[conv.weight].memory; }

  // A library reads the operand, or the gradient of the output, where it lies.
  bool operand_in_place() const {
    const bool dense = sizes.whole(conv.in.at);
    return conv.in.plain() && (dense || conv.kind == Conv::Kind::pointwise);
  }
  bool gradient_in_place() const {
    if (!sizes.gradient_in_parts(conv.out)) return true;
    const bool strided = conv.product() && conv.bias == kNone;
    return strided && !sizes.completed_on_load(conv.out);
  }
  double multiply_adds() const {
    return double(sizes.pixels(conv.out)) * double(elements(memory()));
  }
};

// ---------------------------------------------------------------- fused depthwise

// The kernels are square, of 3 or 5 pixels, and add no bias.
bool takes_fused_depthwise(const Layer& l, Direction) {
  const Window& w = l.conv.window;
  return l.conv.depthwise() && l.conv.bias == kNone && w.kernel_h == w.kernel_w &&
         (w.kernel_h == 3 || w.kernel_h == 5);
}

Scratch fused_depthwise_scratch(const Layer& l, Direction direction) {
  Scratch scratch{.partials = l.partials()};
  if (direction == Direction::forward) return scratch;
  const Slice& in = l.conv.in.at;
  const Buffer& b = l.sizes.graph.buffers[in.buffer];
  scratch.weight = depthwise_weight_partials(l.options.batch, b.height, b.width, in.channels(),
                                             l.conv.window, l.options.limits) *
                   sizeof(float);
  return scratch;
}

Cost fused_cost(const Layer& l, Direction direction) {
  const double in = l.in(), out = l.out(), weight = l.weight(), flops = 2 * l.multiply_adds();
  if (direction == Direction::forward) return {in + weight + out, flops};
  const double gradient = l.sizes.completed_on_load(l.conv.out) ? 2 * out : out;
  return {gradient + in + 2 * weight + in, 2 * flops};
}

// ---------------------------------------------------------------- banded depthwise

const BandedTile* banded_tile(const Layer& l, Direction direction) {
  const bool forward = direction == Direction::forward;
  const Buffer& b = l.sizes.graph.buffers[(forward ? l.conv.out : l.conv.in.at).buffer];
  return (forward ? banded_forward_tile : banded_backward_tile)(l.conv.window, l.conv.in.act,
                                                                b.height, b.width);
}

// The kernels multiply 16-bit values of a normalised operand without a gate, in whole vectors of 16
// bytes; the backward wants an output that a squeeze-excite gates.
bool takes_banded_depthwise(const Layer& l, Direction direction) {
  constexpr int kVector = 8;
  const auto in_vectors = [&](const Slice& s) {
    return s.c0 % kVector == 0 && s.channels() % kVector == 0 &&
           l.sizes.graph.buffers[s.buffer].channels % kVector == 0;
  };
  const Operand& in = l.conv.in;
  const int out = l.conv.out.buffer;
  return l.conv.depthwise() && l.conv.bias == kNone && storage_size(l.options.precision) == 2 &&
         in.norm != kNone && in.gate == kNone && in_vectors(in.at) && in_vectors(l.conv.out) &&
         banded_tile(l, direction) != nullptr &&
         (direction == Direction::forward ||
          (l.sizes.graph.buffers[out].normed && l.sizes.gated(out)));
}

Scratch banded_depthwise_scratch(const Layer& l, Direction direction) {
  const bool forward = direction == Direction::forward;
  const BandedTile& tile = *banded_tile(l, direction);
  const Slice& at = forward ? l.conv.out : l.conv.in.at;
  const Buffer& b = l.sizes.graph.buffers[at.buffer];
  const int sums = forward ? kBandedStatistics : banded_sums(tile.kernel);
  const size_t bytes = banded_partials(tile, sums, l.options.batch, b.height, b.width,
                                       at.channels(), l.options.limits) *
                       sizeof(float);
  return forward ? Scratch{.partials = bytes} : Scratch{.weight = bytes};
}

// ---------------------------------------------------------------- fused pointwise

// The kernels multiply 16-bit values, add no bias, and take a learned gate on the operand alone.
bool takes_pointwise(const Layer& l) {
  const Operand& in = l.conv.in;
  return l.conv.kind == Conv::Kind::pointwise && l.conv.bias == kNone &&
         storage_size(l.options.precision) == 2 && l.sizes.in_packs(in.at) &&
         l.sizes.in_packs(l.conv.out) &&
         (in.gate == kNone || l.sizes.graph.gates[in.gate].learned) &&
         !l.sizes.gated(l.conv.out.buffer);
}

// They keep the weights of a few channels in shared memory.
bool takes_fused_pointwise(const Layer& l, Direction direction) {
  const bool forward = direction == Direction::forward;
  const Slice &in = l.conv.in.at, &out = l.conv.out, &from = forward ? in : out,
              &to = forward ? out : in;
  return takes_pointwise(l) && product_fits(from.channels(), to.channels(), l.options.limits);
}

// Large images are bound by memory, where a fused form moves less; small ones are so by the matrix
// unit, which a library feeds better.
bool large_images(const Layer& l) {
  constexpr int kLarge = 28 * 28;
  const Buffer& b = l.sizes.graph.buffers[l.conv.out.buffer];
  return b.height * b.width >= kLarge;
}
bool takes_fused_pointwise_first(const Layer& l, Direction direction) {
  return large_images(l) && takes_fused_pointwise(l, direction);
}
bool takes_fused_pointwise_last(const Layer& l, Direction direction) {
  return takes_fused_pointwise(l, direction) && !takes_fused_pointwise_first(l, direction);
}
bool takes_mixed_pointwise_first(const Layer& l, Direction direction) {
  return direction == Direction::backward && takes_fused_pointwise_first(l, direction);
}
bool takes_mixed_pointwise_last(const Layer& l, Direction direction) {
  return direction == Direction::backward && takes_fused_pointwise_last(l, direction);
}

Scratch fused_pointwise_scratch(const Layer& l, Direction direction) {
  Scratch scratch{.partials = l.partials()};
  if (direction == Direction::forward) return scratch;
  const WgradCut cut = wgrad_cut(l.sizes.pixels(l.conv.out), l.conv.out.channels(),
                                 l.conv.in.at.channels(), l.options.limits);
  scratch.weight = wgrad_partials(cut) * sizeof(float);
  return scratch;
}

// Each product of the backward reads the gradient and the operand.
Cost fused_pointwise_cost(const Layer& l, Direction direction) {
  const double in = l.in(), out = l.out(), weight = l.weight(), flops = 2 * l.multiply_adds();
  if (direction == Direction::forward) return {in + weight + out, flops};
  const double gradient = l.gradient_in_place() ? out : 2 * out;
  const double operand = l.conv.in.plain() ? 0 : in;
  return {gradient + weight + operand + in + gradient + in + weight, 2 * flops};
}

// ---------------------------------------------------------------- streamed pointwise

// The kernel keeps the weights of a few channels in shared memory. Small images are for expansions
// alone, whose statistics a library leaves to a sweep.
bool takes_streamed_pointwise(const Layer& l, Direction direction) {
  const Buffer& b = l.sizes.graph.buffers[l.conv.out.buffer];
  const int channels = l.conv.in.at.channels(), outs = l.conv.out.channels();
  const int64_t pixels = l.sizes.pixels(l.conv.out),
                area = l.conv.in.gate == kNone ? pixels : int64_t{b.height} * b.width;
  return direction == Direction::forward && takes_pointwise(l) &&
         (large_images(l) || outs > channels) &&
         streamed_fits(pixels, area, channels, outs, l.options.limits);
}

Scratch partials_alone(const Layer& l, Direction) {
  return {.partials = l.partials()};
}

// ---------------------------------------------------------------- narrow pointwise

// The kernel makes both gradients of an operand without a gate that is narrower than the output,
// whose norm needs nothing of the output but what the operand says.
bool takes_narrow_pointwise(const Layer& l, Direction direction) {
  const Slice& out = l.conv.out;
  return direction == Direction::backward && takes_pointwise(l) && l.conv.in.gate == kNone &&
         l.sizes.graph.buffers[out.buffer].normed &&
         narrow_fits(l.sizes.pixels(out), l.conv.in.at.channels(), out.channels(),
                     l.options.limits);
}

Scratch narrow_pointwise_scratch(const Layer& l, Direction) {
  const int channels = l.conv.in.at.channels(), outs = l.conv.out.channels();
  const NarrowCut cut = narrow_cut(l.sizes.pixels(l.conv.out), channels, outs, l.options.limits);
  return {.weight = narrow_scratch(cut, channels, outs).total() * sizeof(float),
          .partials = l.partials()};
}

// Its rows of sums are written and read, and the operand is multiplied by itself.
Cost narrow_pointwise_cost(const Layer& l, Direction direction) {
  const double in = l.in(), channels = l.conv.in.at.channels();
  const double rows = 2. * narrow_pointwise_scratch(l, direction).weight;
  const double squares = l.sizes.pixels(l.conv.out) * channels * channels;
  return {l.out() + in + in + 2. * l.weight() + rows, 4 * l.multiply_adds() + 6 * squares};
}

// ---------------------------------------------------------------- folded pointwise

// The kernel makes the operand's gradient like that, and leaves f(x) for the products of the weight
// gradient with the output's gradient, which stays as it is.
bool takes_folded_pointwise(const Layer& l, Direction direction) {
  const Slice& out = l.conv.out;
  return direction == Direction::backward && large_images(l) && takes_pointwise(l) &&
         l.conv.in.gate == kNone && l.sizes.graph.buffers[out.buffer].normed &&
         !takes_narrow_pointwise(l, direction) &&
         folded_fits(l.sizes.pixels(out), l.conv.in.at.channels(), out.channels(),
                     l.options.limits);
}

Scratch folded_pointwise_scratch(const Layer& l, Direction) {
  const int channels = l.conv.in.at.channels(), outs = l.conv.out.channels();
  const FoldedCut cut = folded_cut(l.sizes.pixels(l.conv.out), channels, outs, l.options.limits);
  return {.operand = l.operand_in_place() ? 0 : l.in(),
          .weight = folded_scratch(cut, channels, outs).total() * sizeof(float),
          .partials = l.partials()};
}

// The products of the weight gradient read the output's gradient, and f(x) twice.
Cost folded_pointwise_cost(const Layer& l, Direction) {
  const double in = l.in(), channels = l.conv.in.at.channels();
  const double operand = l.operand_in_place() ? in : 2 * in;
  const double squares = l.sizes.pixels(l.conv.out) * channels * channels;
  return {2. * l.out() + operand + in + 3 * in + 3. * l.weight(),
          4 * l.multiply_adds() + 6 * squares};
}

// ---------------------------------------------------------------- joined pointwise

// The kernel makes both gradients of an operand without a gate, from few channels of the output.
bool takes_joined_pointwise(const Layer& l, Direction direction) {
  return direction == Direction::backward && takes_pointwise(l) && l.conv.in.gate == kNone &&
         !l.sizes.scaled(l.conv.out) &&
         joined_fits(l.sizes.pixels(l.conv.out), l.conv.in.at.channels(), l.conv.out.channels(),
                     l.options.limits);
}

Scratch joined_pointwise_scratch(const Layer& l, Direction) {
  const int channels = l.conv.in.at.channels(), outs = l.conv.out.channels();
  const JoinedCut cut = joined_cut(l.sizes.pixels(l.conv.out), channels, outs, l.options.limits);
  return {.weight = joined_rows(cut, channels, outs) * sizeof(float), .partials = l.partials()};
}

// Its rows of sums are written and read.
Cost joined_pointwise_cost(const Layer& l, Direction direction) {
  const double in = l.in(), out = l.out(), flops = 2 * l.multiply_adds();
  const double gradient = l.gradient_in_place() ? out : 2 * out;
  const double rows = 2. * joined_pointwise_scratch(l, direction).weight;
  return {gradient + in + in + 2. * l.weight() + rows, 2 * flops};
}

// ---------------------------------------------------------------- mixed pointwise

// The gradient of the operand leaves dy and f(x) for the product of the weight gradient.
Scratch mixed_pointwise_scratch(const Layer& l, Direction) {
  Scratch scratch{.partials = l.partials()};
  if (!l.operand_in_place()) scratch.operand = l.in();
  if (!l.gradient_in_place()) scratch.output = l.out();
  return scratch;
}

Cost mixed_pointwise_cost(const Layer& l, Direction) {
  const double in = l.in(), out = l.out(), weight = l.weight(), flops = 2 * l.multiply_adds();
  const double gradient = l.gradient_in_place() ? out : 3 * out;
  const double operand = l.operand_in_place() ? in : 3 * in;
  return {gradient + weight + operand + in + weight + out, 2 * flops};
}

// ---------------------------------------------------------------- fused dense

// The kernels multiply 16-bit values of an operand without a gate, behind ReLU or nothing, and add
// no bias.
bool takes_fused_dense(const Layer& l, Direction direction) {
  constexpr int kDepth = 16;  // channels that the matrix unit takes at a time
  const Operand& in = l.conv.in;
  const Buffer& b = l.sizes.graph.buffers[in.at.buffer];
  return l.conv.kind == Conv::Kind::dense && l.conv.window == Window{3, 3, 1, 1} &&
         l.conv.bias == kNone && storage_size(l.options.precision) == 2 && in.gate == kNone &&
         (in.act == Activation::relu || in.act == Activation::none) &&
         in.at.channels() % kDepth == 0 && l.sizes.in_packs(in.at) &&
         l.sizes.in_packs(l.conv.out) && !l.sizes.gated(l.conv.out.buffer) &&
         !(direction == Direction::backward && l.sizes.scaled(l.conv.out)) &&
         dense_fits(l.options.batch, b.height, b.width, in.at.channels(), l.conv.out.channels(),
                    l.options.limits);
}

Scratch fused_dense_scratch(const Layer& l, Direction direction) {
  Scratch scratch{.partials = l.partials()};
  if (direction == Direction::forward) return scratch;
  const Slice& in = l.conv.in.at;
  const Buffer& b = l.sizes.graph.buffers[in.buffer];
  scratch.weight = dense_wgrad_rows(l.options.batch, b.height, b.width, in.channels(),
                                    l.conv.out.channels(), l.options.limits) *
                   sizeof(float);
  return scratch;
}

// Both gradients read the operand and the gradient of the output.
Cost fused_dense_cost(const Layer& l, Direction direction) {
  if (direction == Direction::forward) return fused_cost(l, direction);
  const double gradient = l.sizes.completed_on_load(l.conv.out) ? 2 * l.out() : l.out();
  const double rows = 2. * fused_dense_scratch(l, direction).weight;
  return {2 * gradient + 3. * l.in() + 2. * l.weight() + rows, 4 * l.multiply_adds()};
}

// ---------------------------------------------------------------- fused stem

// The kernels multiply 16-bit values of a plain image, do not find its gradient, and add no bias.
bool takes_fused_stem(const Layer& l, Direction direction) {
  const Operand& in = l.conv.in;
  const Window& w = l.conv.window;
  const Buffer& b = l.sizes.graph.buffers[in.at.buffer];
  if (direction == Direction::backward && (l.options.input_gradient || l.sizes.scaled(l.conv.out)))
    return false;
  return l.conv.kind == Conv::Kind::dense && in.at.buffer == l.sizes.graph.image.buffer &&
         in.at.channels() == kStemChannels && in.plain() && l.conv.bias == kNone &&
         storage_size(l.options.precision) == 2 &&
         w == Window{w.kernel_h, w.kernel_h, kStemStride, w.kernel_h / 2} &&
         l.sizes.in_packs(l.conv.out) && !l.sizes.gated(l.conv.out.buffer) &&
         stem_fits(l.options.batch, b.height, b.width, w.kernel_h, l.conv.out.channels(),
                   l.options.limits);
}

Scratch fused_stem_scratch(const Layer& l, Direction direction) {
  if (direction == Direction::forward) return {.partials = l.partials()};
  const Buffer& b = l.sizes.graph.buffers[l.conv.in.at.buffer];
  return {.weight = stem_wgrad_rows(l.options.batch, b.height, b.width, l.conv.window.kernel_h,
                                    l.conv.out.channels(), l.options.limits) *
                    sizeof(float)};
}

Cost fused_stem_cost(const Layer& l, Direction direction) {
  if (direction == Direction::forward) return fused_cost(l, direction);
  const double gradient = l.sizes.completed_on_load(l.conv.out) ? 2 * l.out() : l.out();
  const double rows = 2. * fused_stem_scratch(l, direction).weight;
  return {gradient + l.in() + l.weight() + rows, 2 * l.multiply_adds()};
}

// ---------------------------------------------------------------- around a library call

Scratch library_scratch(const Layer& l, Direction direction) {
  Scratch scratch{.partials = l.partials()};
  const bool product = l.conv.product();
  if (direction == Direction::forward) {
    if (!l.operand_in_place()) scratch.operand = l.in();
    if (!product && !l.sizes.whole(l.conv.out)) scratch.output = l.out();
    return scratch;
  }
  // A product accumulates where it must; a convolution writes df to a place of its own, unless the
  // operand is plain and the step is the first writer, which the plan decides later.
  if (!product || !l.operand_in_place()) scratch.operand = l.in();
  if (!l.gradient_in_place()) scratch.output = l.out();
  if (!product && !weights_are_masters(l.options.precision)) scratch.weight = l.weight();
  return scratch;
}

Cost library_cost(const Layer& l, Direction direction) {
  const double in = l.in(), out = l.out(), weight = l.weight(), flops = 2 * l.multiply_adds();
  const double loaded = l.operand_in_place() ? 0 : 2 * in, call = in + weight + out;
  if (direction == Direction::forward) {
    const bool copied = !l.conv.product() && !l.sizes.whole(l.conv.out);
    return {loaded + call + (copied ? 2 * out : out), flops};
  }
  const double gradient = l.sizes.completed_on_load(l.conv.out) ? 2 * out : out;
  const double completed = l.gradient_in_place() ? 0 : gradient + out;
  const double epilogue = l.operand_in_place() ? 0 : 3 * in;
  return {completed + call + epilogue + loaded + call, 2 * flops};
}

bool takes_product(const Layer& l, Direction) {
  return l.conv.product();
}
// It has been slower than these two forms everywhere, and takes long to find its algorithms.
bool takes_cudnn(const Layer& l, Direction direction) {
  const bool beaten = takes_banded_depthwise(l, direction) || takes_fused_stem(l, direction);
  return !l.conv.product() && (!beaten || l.options.conv == ConvForm::library);
}
bool takes_dense(const Layer& l, Direction) {
  return l.conv.kind == Conv::Kind::dense;
}
bool takes_depthwise(const Layer& l, Direction) {
  return l.conv.depthwise();
}
bool takes_any(const Layer&, Direction) {
  return true;
}

// The CPU's forms work in tiles of the workspace, the reference's in memory of their own.
Scratch no_scratch(const Layer&, Direction) {
  return {};
}

// ---------------------------------------------------------------- the table

struct Row {
  BackendKind backend;
  Form form;
  std::string_view name;
  ConvForm family;
  bool (*takes)(const Layer&, Direction);
  Scratch (*scratch)(const Layer&, Direction);
  Cost (*cost)(const Layer&, Direction);
};

// The rows of each backend are in the order of preference.
constexpr Row kRows[] = {
    {BackendKind::cuda, Form::banded_depthwise, "banded depthwise", ConvForm::fused,
     takes_banded_depthwise, banded_depthwise_scratch, fused_cost},
    {BackendKind::cuda, Form::fused_depthwise, "fused depthwise", ConvForm::fused,
     takes_fused_depthwise, fused_depthwise_scratch, fused_cost},
    {BackendKind::cuda, Form::streamed_pointwise, "streamed pointwise", ConvForm::fused,
     takes_streamed_pointwise, partials_alone, fused_pointwise_cost},
    {BackendKind::cuda, Form::narrow_pointwise, "narrow pointwise", ConvForm::fused,
     takes_narrow_pointwise, narrow_pointwise_scratch, narrow_pointwise_cost},
    {BackendKind::cuda, Form::folded_pointwise, "folded pointwise", ConvForm::fused,
     takes_folded_pointwise, folded_pointwise_scratch, folded_pointwise_cost},
    {BackendKind::cuda, Form::joined_pointwise, "joined pointwise", ConvForm::fused,
     takes_joined_pointwise, joined_pointwise_scratch, joined_pointwise_cost},
    {BackendKind::cuda, Form::fused_pointwise, "fused pointwise", ConvForm::fused,
     takes_fused_pointwise_first, fused_pointwise_scratch, fused_pointwise_cost},
    {BackendKind::cuda, Form::mixed_pointwise, "mixed pointwise", ConvForm::fused,
     takes_mixed_pointwise_first, mixed_pointwise_scratch, mixed_pointwise_cost},
    {BackendKind::cuda, Form::matrix_product, "cuBLASLt", ConvForm::library, takes_product,
     library_scratch, library_cost},
    {BackendKind::cuda, Form::fused_pointwise, "fused pointwise", ConvForm::fused,
     takes_fused_pointwise_last, fused_pointwise_scratch, fused_pointwise_cost},
    {BackendKind::cuda, Form::mixed_pointwise, "mixed pointwise", ConvForm::fused,
     takes_mixed_pointwise_last, mixed_pointwise_scratch, mixed_pointwise_cost},
    {BackendKind::cuda, Form::fused_dense, "fused dense", ConvForm::fused, takes_fused_dense,
     fused_dense_scratch, fused_dense_cost},
    {BackendKind::cuda, Form::fused_stem, "fused stem", ConvForm::fused, takes_fused_stem,
     fused_stem_scratch, fused_stem_cost},
    {BackendKind::cuda, Form::library_convolution, "cuDNN", ConvForm::library, takes_cudnn,
     library_scratch, library_cost},
    {BackendKind::cpu, Form::fused_depthwise, "fused depthwise", ConvForm::fused, takes_depthwise,
     no_scratch, fused_cost},
    {BackendKind::cpu, Form::matrix_product, "sgemm tiles", ConvForm::library, takes_product,
     no_scratch, fused_cost},
    {BackendKind::cpu, Form::library_convolution, "oneDNN", ConvForm::library, takes_dense,
     no_scratch, fused_cost},
    {BackendKind::reference, Form::loops, "loops", ConvForm::library, takes_any, no_scratch,
     library_cost},
};

}  // namespace

std::string_view name_of(Direction direction) {
  return direction == Direction::forward ? "forward" : "backward";
}

Scratch larger(const Scratch& a, const Scratch& b) {
  return {.operand = std::max(a.operand, b.operand),
          .output = std::max(a.output, b.output),
          .weight = std::max(a.weight, b.weight),
          .partials = std::max(a.partials, b.partials)};
}

std::vector<Candidate> candidates(const Graph& graph, const Conv& conv, Direction direction,
                                  const FormOptions& options) {
  const Layer layer{conv, options, {graph, options.batch, options.precision}};
  std::vector<const Row*> rows;
  for (const Row& row : kRows)
    if (row.backend == options.backend && row.takes(layer, direction)) rows.push_back(&row);
  require(!rows.empty(), Failure::internal, "{}: no form computes it", conv.name);
  const auto unwanted = [&](const Row* row) {
    return options.conv != ConvForm::automatic && row->family != options.conv;
  };
  if (!std::all_of(rows.begin(), rows.end(), unwanted)) std::erase_if(rows, unwanted);
  std::vector<Candidate> found;
  for (const Row* row : rows)
    found.push_back(
        {row->form, row->name, row->scratch(layer, direction), row->cost(layer, direction)});
  return found;
}

std::string names_of(const std::vector<Candidate>& candidates) {
  std::string names;
  for (const Candidate& c : candidates) names.append(names.empty() ? "" : " | ").append(c.name);
  return names;
}

}  // namespace engine
