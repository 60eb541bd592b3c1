// What a model is: steps, buffers, norms, gates and named parameters, recorded by a builder. Pure
// data; no batch size, no memory, no device. A value is an operand with a shape: batch_norm,
// activate, scale and drop only annotate it; conv, pool, add, linear and squeeze_excite create a
// step.
#pragma once

#include <span>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "engine/tensor.h"
#include "kernels/operand.h"

namespace engine {

constexpr int kNone = -1;  // an index that points to nothing

// The activation memory of one layer's raw output, before its norms, or of all outputs of a dense
// block.
struct Buffer {
  std::string name;
  int channels = 0, height = 0, width = 0;
  int placed = 0;       // channels given to producers so far
  bool normed = false;  // some norm reads it
  double eps = 0;       // of those norms, which share statistics
};

// The channels [c0, c1) of a buffer: those that a producer owns or an operand reads.
struct Slice {
  int buffer = kNone, c0 = 0, c1 = 0;
  int channels() const { return c1 - c0; }
  bool operator==(const Slice&) const = default;
};

struct Parameter {
  // A gain is a norm's gamma; an offset is its beta, or a bias.
  enum class Kind { weight, gain, offset, running_mean, running_var };
  std::string name;  // torchvision's
  Shape shape;       // torchvision's: OIHW, (out, C·H·W) of a linear layer, (C,)
  Kind kind = Kind::weight;
  Shape memory;       // ours: OHWI, so that NHWC operands meet contiguous channels; (C,)
  bool head = false;  // initialised anew when a weight file has another number of classes
  bool trained() const { return kind != Kind::running_mean && kind != Kind::running_var; }
};

// One batch-norm layer. Several may read one buffer: they share its statistics and have a gamma,
// beta and running values of their own.
struct Norm {
  std::string name;
  Slice at;
  double eps = 0, momentum = 0;
  int gamma = kNone, beta = kNone, running_mean = kNone, running_var = kNone;  // parameters
};

// A factor of an operand: learned, which a squeeze-excite leaves as (N, C), or random, for dropout
// and stochastic depth.
struct Gate {
  std::string name;
  bool learned = false;
  int channels = 0;  // of a learned gate
  int squeezed = 0;  // width of its hidden layer
  float keep = 1;    // of a random gate
  bool whole_image = false;
};

struct Operand {
  Slice at;
  int norm = kNone;
  Activation act = Activation::none;
  int gate = kNone;
  bool plain() const { return norm == kNone && act == Activation::none && gate == kNone; }
  bool operator==(const Operand&) const = default;
};

struct Value : Operand {
  int channels = 0, height = 0, width = 0;
};

// ---------------------------------------------------------------- steps: a closed set

// A linear layer is a convolution whose kernel is the image.
struct Conv {
  enum class Kind : uint8_t {
    dense,      // groups 1
    depthwise,  // groups = channels
    pointwise,  // a matrix product whose rows are pixels: dense, 1x1, stride 1, no padding
    linear,     // a matrix product whose rows are images: dense, the kernel is the image
  };
  std::string name;
  Operand in;
  Slice out;
  Window window;
  Kind kind = Kind::dense;
  int weight = kNone, bias = kNone;  // parameters
  bool depthwise() const { return kind == Kind::depthwise; }
  bool product() const { return kind == Kind::pointwise || kind == Kind::linear; }
};

// gate = sigmoid(expand · silu(reduce · mean(h))), after Hu et al. (CVPR 2018), with the SiLU of
// EfficientNet.
struct SqueezeExcite {
  std::string name;
  Operand in;
  int gate = kNone;
  int reduce_weight = kNone, reduce_bias = kNone, expand_weight = kNone, expand_bias = kNone;
};

// Takes the maximum or the average of each window; one that overhangs is dropped, as in PyTorch.
// The window of a global pool is the image.
struct Pool {
  std::string name;
  Operand in;
  Slice out;
  Window window;
  bool maximal = false;
};

// act(a + b). It is in memory, because it is read plain, normalised and added to again. relu and
// relu6 alone: their slopes can be told from what is stored.
struct Add {
  std::string name;
  Operand a, b;
  Slice out;
  Activation act = Activation::none;
};

// The mean cross entropy of the logits. Its forward writes their gradient, too.
struct Loss {
  std::string name;
  Operand in;
};

using Step = std::variant<Conv, SqueezeExcite, Pool, Add, Loss>;

const std::string& name_of(const Step& step);
// The operands that a step reads, in a fixed order.
std::vector<Operand> operands_of(const Step& step);
// The slice that a step writes; null for SqueezeExcite and Loss.
const Slice* output_of(const Step& step);

class Graph;

// An operand reads the buffer through a learned gate.
bool gated(const Graph& graph, int buffer);

// The operand of a sum through which alone `buffer` is read, behind a norm and nothing else, if the
// sum's gradient is still there when the buffer's producer, a convolution, wants its own: that is
// the sum's times gamma·inv_std, so that nobody need write it. Null: it has one of its own.
const Operand* scaled_operand(const Graph& graph, int buffer);

// ---------------------------------------------------------------- the builder

struct ConvOptions {
  int out = 0, kernel = 1, stride = 1;
  int padding = kNone;  // none: kernel / 2
  bool depthwise = false, bias = false;
  int into = kNone;  // the shared buffer that takes the output; none: one of its own
};

// How parameters start, by the rules of the reference implementations. Gains and running variances
// start at 1. The head starts as a torch.nn.Linear does, weight and bias ±1/√fan_in, unless
// `published_head` says that these rules hold for it too.
struct Initialisation {
  enum class Weight { normal_fan_out, normal_fan_in, normal_small, uniform_fan_in, uniform_out };
  Weight conv = Weight::normal_fan_in;     // normal_fan_*: He et al., std √(2/fan); small: 0.01
  Weight linear = Weight::uniform_fan_in;  // uniform_*: ±1/√fan; uniform_out: fan = output features
  bool zero_bias = true;                   // else uniform, ±1/√fan_in of its layer
  bool published_head = false;
};

class Graph {
 public:
  Graph(std::string model, double eps, double momentum)
      : model(std::move(model)), eps_(eps), momentum_(momentum) {}

  Value input(int height, int width, int channels);
  // A shared buffer, whose shape comes with its first slice.
  int buffer(std::string name, int channels);
  Value placed(int buffer) const;  // all channels placed in it so far

  Value batch_norm(Value v, const std::string& name);
  Value relu(Value v) { return activate(v, Activation::relu); }
  Value relu6(Value v) { return activate(v, Activation::relu6); }
  Value silu(Value v) { return activate(v, Activation::silu); }
  Value scale(Value v, int gate);  // by the gate that squeezed this very value
  Value dropout(Value v, const std::string& name, float p);
  Value stochastic_depth(Value v, const std::string& name, float p);

  Value conv(Value v, const std::string& name, const ConvOptions& options);
  Value linear(Value v, const std::string& name, int out);
  Value max_pool(Value v, const std::string& name, int kernel, int stride, int padding = 0,
                 int into = kNone);
  Value average_pool(Value v, const std::string& name, int kernel);
  Value global_pool(Value v, const std::string& name);
  Value add(Value a, Value b, const std::string& name, Activation act = Activation::none);
  int squeeze_excite(Value v, const std::string& name, int squeezed);  // returns the gate
  void cross_entropy(Value logits);  // the last step; marks its layer's parameters as the head

  std::string model;
  std::vector<Step> steps;
  std::vector<Buffer> buffers;
  std::vector<Parameter> parameters;
  std::vector<Norm> norms;
  std::vector<Gate> gates;
  Slice image, logits;
  Initialisation initialisation;

  int classes() const { return logits.channels(); }
  int64_t trained_parameters() const;  // number of trained scalars

 private:
  Value activate(Value v, Activation act);
  Value drop(Value v, const std::string& name, float p, bool whole_image);
  int parameter(std::string name, Shape shape, Parameter::Kind kind, Shape memory);
  Slice place(int buffer, int channels, int height, int width);
  Value window(Value v, const std::string& name, int out, Window w, int into, Slice& slice);
  Value pool(Value v, const std::string& name, Window w, bool maximal, int into);
  Value value_of(Slice at) const;

  double eps_, momentum_;
};

}  // namespace engine
