#include "io/weights/faults.h"

#include <fmt/format.h>

namespace engine {
namespace {

// -1: none is.
int64_t first_below_zero(const Tensor& tensor) {
  for (int64_t i = 0; i < tensor.size(); ++i)
    if (value_at(tensor, i) < 0) return i;
  return -1;
}

}  // namespace

std::optional<std::string> fault_in(const std::map<std::string, Tensor>& tensors) {
  for (const auto& [name, tensor] : tensors) {
    int64_t at = first_not_finite(tensor);
    if (at < 0 && name.ends_with("running_var")) at = first_below_zero(tensor);
    if (at >= 0) return fmt::format("{} holds {}", name, value_at(tensor, at));
  }
  return std::nullopt;
}

}  // namespace engine
