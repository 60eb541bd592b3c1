// engine convert: any readable weight file to safetensors with torchvision's or timm's names.
#include <fmt/format.h>

#include "engine/error.h"
#include "io/weights/seal.h"
#include "io/weights/weight_names.h"
#include "io/weights/weights.h"
#include "tools/cli/terminal.h"
#include "tools/engine/verbs.h"
#include "tools/score/model_file.h"
#include "tools/score/published.h"

namespace engine {
namespace {

enum class Names { torchvision, timm };
constexpr Choice<Names> kNames[] = {{"torchvision", Names::torchvision}, {"timm", Names::timm}};

struct ConvertOptions : WeightsKeyOption {
  std::filesystem::path in, out;
  Names names = Names::torchvision;
  void visit(auto& v) {
    v("IN", in, "safetensors, .pth, a run, or a name of engine weights list", kRequired);
    v("OUT", out, "the safetensors file to write", kRequired);
    visit_weights_key(v);
    v("--names X", names, "whose names the tensors get: torchvision | timm", kNames);
  }
};

}  // namespace

int convert_weights(const Command& command) {
  const auto options = parse_options<ConvertOptions>(command);
  if (!options) return 0;
  TensorFile file = read_weights(
      find_weights(options->in, "").file,
      {.key = options->weights_key, .say = [](const std::string& line) { say(line); }});
  normalise_names(file, "");
  if (options->names == Names::timm) use_timm_names(file);
  write_sealed(options->out, file);
  say(fmt::format("{}: {} tensors, {} parameters", options->out.string(), file.tensors.size(),
                  count_parameters(file)));
  return 0;
}

}  // namespace engine
