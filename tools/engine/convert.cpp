// engine convert: any readable weight file to safetensors with torchvision's names.
#include <fmt/format.h>

#include "engine/error.h"
#include "io/safetensors.h"
#include "io/weight_names.h"
#include "io/weights.h"
#include "tools/engine/terminal.h"
#include "tools/engine/verbs.h"

namespace engine {
namespace {

struct ConvertOptions {
  std::filesystem::path in, out;
  void visit(auto& v) {
    v("IN", in, "safetensors, torch zip archive or older torch pickle", kRequired);
    v("OUT", out, "the safetensors file to write", kRequired);
  }
};

}  // namespace

int convert_weights(const Command& command) {
  const auto options = parse_options<ConvertOptions>(command);
  if (!options) return 0;
  TensorFile file = read_weights(options->in);
  // Each family's rules leave the names of the other as they are.
  for (const char* family : {"densenet", "efficientnet"}) normalise_names(file, family);
  write_safetensors(options->out, file);
  say(fmt::format("{}: {} tensors, {} parameters", options->out.string(), file.tensors.size(),
                  count_parameters(file)));
  return 0;
}

}  // namespace engine
