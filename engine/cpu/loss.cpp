// Cross entropy of classes or of labels: the loss, and the gradient of the logits.
#include <algorithm>
#include <cmath>

#include "engine/cost.h"
#include "engine/cpu/prepare.h"

namespace engine::cpu {

namespace {

// These add the loss of one image to the result. dlogits is null where it is not wanted.
void cross_entropy(StepResult& result, float* dlogits, const float* logits, int classes,
                   const TargetRow& target, double divisor, double scale) {
  const double top = *std::max_element(logits, logits + classes);
  double sum = 0;
  for (int c = 0; c < classes; ++c) sum += std::exp(logits[c] - top);
  const int rank = rank_of(target.label, logits, classes);
  double total = 0;
  for (int c = 0; c < classes; ++c) {
    const double q = target.at(c);
    if (q == 0) continue;
    total += q;
    result.loss -= q * (logits[c] - top - std::log(sum)) / divisor;
  }
  result.correct1 += rank < 1;
  result.correct5 += rank < 5;
  if (!dlogits) return;
  for (int c = 0; c < classes; ++c)
    dlogits[c] = static_cast<float>((total * std::exp(logits[c] - top) / sum - target.at(c)) *
                                    scale / divisor);
}

void binary_cross_entropy(StepResult& result, float* dlogits, const float* logits,
                          const TargetView& targets, int n, double scale) {
  const double divisor = targets.params->divisor;
  bool wrong = false;
  for (int c = 0; c < targets.classes; ++c) {
    const double z = logits[c];
    const LabelTarget target = targets.label(n, c);
    result.loss += label_loss(z, target) / divisor;
    wrong = wrong || is_wrong(z, targets.presence_of(n, c));
    if (dlogits) dlogits[c] = static_cast<float>(label_slope(z, target) * scale / divisor);
  }
  result.correct1 += !wrong;
}

}  // namespace

StepExec prepare(const Threads&, const Program& program, int index, const Loss& loss) {
  const auto logits = program.operand<float>(loss.in);
  const auto sink =
      program.training() ? program.sink<float>(index, 0, loss.in) : GradientSink<float>{};
  const TargetView targets = program.targets();
  const auto forward = [=, m = program.arenas] {
    StepResult& result = m.results[m.params->result];
    result.loss = 0;
    result.correct1 = result.correct5 = 0;
    for (int n = 0; n < logits.batch; ++n) {
      float* dlogits = sink.grad ? sink.grad + int64_t{n} * sink.pitch : nullptr;
      const float* row = logits.x + int64_t{n} * logits.pitch;
      if (targets.presence)
        binary_cross_entropy(result, dlogits, row, targets, n, m.scale->scale);
      else
        cross_entropy(result, dlogits, row, logits.channels, targets.row(n), m.params->divisor,
                      m.scale->scale);
    }
  };
  return loss_exec(logits, targets, forward);
}

}  // namespace engine::cpu
