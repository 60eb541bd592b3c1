// Which form each direction of a convolution takes: the fastest of the candidates that engine/forms
// names, measured as it runs, or the first of them.
#include "engine/cuda/conv.h"

namespace engine::cuda {

namespace {

template <class T>
std::optional<Launches> prepare_form(Cuda& gpu, const Layer<T>& l, Form form, Direction direction) {
  switch (form) {
    case Form::banded_depthwise: return banded_depthwise_form(gpu, l, direction);
    case Form::fused_depthwise: return fused_depthwise_form(gpu, l, direction);
    case Form::fused_pointwise: return fused_pointwise_form(gpu, l, direction);
    case Form::streamed_pointwise: return streamed_pointwise_form(gpu, l, direction);
    case Form::narrow_pointwise: return narrow_pointwise_form(gpu, l, direction);
    case Form::folded_pointwise: return folded_pointwise_form(gpu, l, direction);
    case Form::joined_pointwise: return joined_pointwise_form(gpu, l, direction);
    case Form::mixed_pointwise: return mixed_pointwise_form(gpu, l, direction);
    case Form::fused_dense: return fused_dense_form(gpu, l, direction);
    case Form::fused_stem: return fused_stem_form(gpu, l, direction);
    case Form::matrix_product: return matrix_form(gpu, l, direction);
    case Form::library_convolution: return library_form(gpu, l, direction);
    case Form::loops: break;
  }
  return std::nullopt;
}

// All on which the time of a direction depends: a plain operand wants no sweep before a library,
// and a gradient that is added to is read as well.
template <class T>
std::string form_key(const Layer<T>& l, Direction direction) {
  std::string key = fmt::format("form {} {} {} to {} {} groups {} {}", name_of(direction),
                                name_of(l.program.precision()), text_of(l.in), text_of(l.out),
                                text_of(l.conv.window), l.conv.depthwise() ? l.in.channels : 1,
                                l.program.training() ? "training" : "evaluation");
  if (direction == Direction::backward)
    key += fmt::format(" dy {} dx {}", text_of(l.gradient),
                       !l.sink.grad               ? "none"
                       : l.sink.how == Write::add ? "+="
                                                  : "=");
  return key;
}

// Those candidates that can be prepared, from the first one on; only the first, or the one that was
// chosen before, where nothing is timed.
struct Choice {
  std::vector<std::string> names;
  std::vector<Form> forms;
  std::vector<Launches> launches;
};

template <class T>
Choice prepare_candidates(Cuda& gpu, const Layer<T>& l, Direction direction,
                          const std::vector<Candidate>& candidates, const std::string* known) {
  Choice choice;
  const auto add = [&](const Candidate& c) {
    auto launches = prepare_form(gpu, l, c.form, direction);
    if (!launches) return;
    choice.names.emplace_back(c.name);
    choice.forms.push_back(c.form);
    choice.launches.push_back(std::move(*launches));
  };
  const bool timed = gpu.algorithms.timed();
  for (const Candidate& c : candidates)
    if (timed && known && c.name == *known) add(c);
  for (const Candidate& c : candidates)
    if (choice.names.empty() || (timed && !known)) add(c);
  return choice;
}

struct Chosen {
  Form form;
  Launches launches;
};

template <class T>
Chosen prepare_direction(Cuda& gpu, const Layer<T>& l, Direction direction) {
  const std::vector<Candidate> all =
      candidates(l.program.graph, l.conv, direction, l.program.plan.options.forms());
  const std::string key = form_key(l, direction);
  Choice choice = prepare_candidates(gpu, l, direction, all,
                                     all.size() > 1 ? gpu.algorithms.find(key) : nullptr);
  require(!choice.names.empty(), Failure::internal,
          "no form of its {} can be prepared: {}, in {} MiB of workspace", name_of(direction),
          names_of(all), workspace(l.program).bytes >> 20);
  const auto take = [&](size_t i) {
    return Chosen{choice.forms[i], std::move(choice.launches[i])};
  };
  if (choice.names.size() == 1) return take(0);
  const size_t chosen = gpu.algorithms.choose(key, choice.names, [&](size_t i) {
    enqueue(choice.launches[i]);
    return cudaPeekAtLastError() == cudaSuccess;
  });
  require(chosen < choice.names.size(), Failure::internal, "no form of its {} runs: {}",
          name_of(direction), names_of(all));
  return take(chosen);
}

// The chosen form once more, with the algorithms that it took, so that the bits are the same.
template <class T>
Launches prepare_again(Cuda& gpu, Layer<T> layer, Form form) {
  layer.out = layer.program.template output_again<T>(layer.conv.out);
  auto launches = prepare_form(gpu, layer, form, Direction::forward);
  require(launches.has_value(), Failure::internal, "its forward cannot be prepared a second time");
  return std::move(*launches);
}

}  // namespace

StepExec prepare(Cuda& gpu, const Program& program, int index, const Conv& conv) {
  return visit_storage(program.precision(), [&]<class T>() {
    const Layer<T> layer(program, index, conv);
    StepExec exec;
    Chosen forward = prepare_direction(gpu, layer, Direction::forward);
    exec.forward = std::move(forward.launches);
    if (program.training())
      exec.backward = prepare_direction(gpu, layer, Direction::backward).launches;
    if (program.recomputed(index)) exec.again = prepare_again(gpu, layer, forward.form);
    return exec;
  });
}

}  // namespace engine::cuda
