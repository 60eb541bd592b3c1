// Chooses the form of a convolution: the first that engine/forms names.
#include "engine/cost.h"
#include "engine/cpu/prepare.h"
#include "engine/error.h"
#include "engine/forms.h"

namespace engine::cpu {

namespace {

ConvViews views_of(const Program& program, int index, const Conv& conv) {
  ConvViews c{.in = program.operand<float>(conv.in),
              .out = program.output<float>(conv.out),
              .weight = program.weight<float>(conv.weight),
              .bias = conv.bias == kNone ? nullptr : program.master<float>(conv.bias),
              .window = conv.window};
  if (!program.training()) return c;
  c.dy = program.gradient<float>(conv.out);
  c.sink = program.sink<float>(index, 0, conv.in);
  c.dweight = program.dparameter<float>(conv.weight);
  if (c.bias) c.dbias = program.dparameter<float>(conv.bias);
  return c;
}

ConvWork prepare_form(Form form, const Threads& threads, const Workspace& workspace, bool training,
                      const ConvViews& c) {
  switch (form) {
    case Form::fused_depthwise: return prepare_fused(threads, workspace, training, c);
    case Form::matrix_product: return prepare_matrix(threads, workspace, training, c);
    case Form::library_convolution: return prepare_library(threads, workspace, training, c);
    case Form::banded_depthwise:
    case Form::fused_pointwise:
    case Form::streamed_pointwise:
    case Form::narrow_pointwise:
    case Form::folded_pointwise:
    case Form::joined_pointwise:
    case Form::mixed_pointwise:
    case Form::fused_dense:
    case Form::fused_stem:
    case Form::loops: break;
  }
  fail(Failure::internal, "{}: the CPU has no such form", workspace.step());
}

}  // namespace

// On the CPU a convolution has one form, which prepares both directions.
StepExec prepare(const Threads& threads, const Program& program, int index, const Conv& conv) {
  const auto first = [&](Direction direction) {
    return candidates(program.graph, conv, direction, program.plan.options.forms()).front();
  };
  const Candidate forward = first(Direction::forward), backward = first(Direction::backward);
  const ConvViews c = views_of(program, index, conv);
  ConvWork work =
      prepare_form(forward.form, threads, Workspace(program, conv.name), program.training(), c);
  const std::string shape =
      fmt::format("{} to {} {}", text_of(c.in), c.out.channels, text_of(c.window));
  StepExec exec;
  exec.forward = one_launch(forward.name, shape, forward.cost, std::move(work.forward));
  if (program.training())
    exec.backward = one_launch(backward.name, shape, backward.cost, std::move(work.backward));
  if (program.recomputed(index)) {
    ConvViews again = c;
    again.out = program.output_again<float>(conv.out);
    work = prepare_form(forward.form, threads, Workspace(program, conv.name), false, again);
    exec.again = one_launch(forward.name, shape, forward.cost, std::move(work.forward));
  }
  return exec;
}

}  // namespace engine::cpu
