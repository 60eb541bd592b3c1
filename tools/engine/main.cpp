// The command line: finds the verb, catches what it throws. Exit codes are those of engine/error.h.
#include <fmt/format.h>

#include <algorithm>
#include <exception>
#include <filesystem>
#include <new>
#include <system_error>
#include <utility>

#include "engine/error.h"
#include "tools/cli/man_page.h"
#include "tools/cli/terminal.h"
#include "tools/engine/verbs.h"
#include "tools/machine/environment.h"

namespace engine {
namespace {

struct Verb {
  std::string_view name, about;  // a name may be two words: "weights verify"
  int (*run)(const Command&);
};

constexpr Verb kVerbs[] = {
    {"train", "a data set and a model in, a run directory out", train},
    {"finetune", "train with a recipe chosen by the images and the device", finetune},
    {"eval", "what a weight file gets right on a data set, with intervals", eval},
    {"folds", "the runs of a cross-validation as one evaluation", folds},
    {"audit", "which labels are doubtful, and which images nearly the same", audit},
    {"predict", "the class of each image", predict},
    {"report", "one page with all there is to see of a run, findings first", report},
    {"summary", "layers, parameters and memory plan of a model", summary},
    {"models", "parameters, image sizes, published weights and accuracy", list_models},
    {"export", "a weight file as an ONNX model", export_model},
    {"parity", "training steps against what PyTorch recorded", parity},
    {"profile", "where the time of a training step goes, and what bounds it", profile},
    {"check-data", "what is in an image set and what is wrong with it", check_data},
    {"convert", "weight files to safetensors, by torchvision's or timm's names", convert_weights},
    {"slurm", "the script of a job on machines of a Slurm cluster", slurm},
    {"draw", "an image set to try training with", draw},
    {"completion", "completion of this command line, for bash, zsh or fish", completion},
    {"doctor", "what this machine lacks or limits", doctor},
    {"version", "the build, its libraries and this machine", version},
    {"show-batch", "a picture of a training batch as the network gets it", show_batch},
    {"scale", "a study of data parallelism: ranks, batches, precisions", scale},
    {"bench data", "images per second from files to batches, and the model's need", bench_data},
    {"bench step", "time and memory of whole training steps", bench_step},
    {"bench inference", "latency and memory of a model by batch size and precision",
     bench_inference},
    {"bench kernels", "time of every kernel and library call of a model", bench_kernels},
    {"weights list", "the published weight files, and which of them are here", list_weights},
    {"weights fetch", "published weight files from their servers, verified and kept",
     fetch_weights},
    {"weights verify", "weight files against the list of published ones", verify_weights},
};

constexpr ExitCode kExitCodes[] = {
    {0, "Done."},
    {1, "An error inside the program."},
    {2, "Usage: an unknown flag, a value out of range, flags that contradict each other."},
    {3, "Data: a data set or an image that is missing or cannot be read."},
    {4, "Weights: a weight file or a checkpoint that is not valid, or of another model."},
    {5, "The training diverged: a result is not finite."},
    {6, "Memory: it does not fit."},
    {7, "Another process or rank was lost, or did not answer in time."},
    {8, "A check failed."},
    {9, "A file did not come from its server."},
    {75, "Stopped by a signal, with a checkpoint saved."}};

// Help on the verbs whose names begin with `prefix`.
std::string overview(std::string_view prefix) {
  size_t longest = 0;
  for (const Verb& verb : kVerbs) longest = std::max(longest, verb.name.size());
  std::string text = "usage: engine VERB [--flag value]...\n\n";
  for (const Verb& verb : kVerbs)
    if (verb.name.starts_with(prefix))
      text += fmt::format("  {:<{}}  {}\n", verb.name, longest, verb.about);
  return text + "\nengine help VERB shows the flags of a verb.\n";
}

bool is_help(std::string_view word) {
  return word == "--help" || word == "-h" || word == "help";
}

const Verb* find_verb(std::string_view name) {
  const auto at = std::find_if(std::begin(kVerbs), std::end(kVerbs),
                               [&](const Verb& v) { return v.name == name; });
  return at == std::end(kVerbs) ? nullptr : at;
}

// What others call a verb of ours.
constexpr std::pair<std::string_view, std::string_view> kPeerVerbs[] = {
    {"fit", "train"},
    {"fine_tune", "finetune"},
    {"resume", "train --resume RUN"},
    {"val", "eval"},
    {"validate", "eval"},
    {"test", "eval"},
    {"inference", "predict"},
    {"infer", "predict"},
    {"classify", "predict"},
    {"benchmark", "bench step"}};

[[noreturn]] void unknown_verb(const std::string& name) {
  for (const auto& [theirs, ours] : kPeerVerbs)
    if (name == theirs) fail(Failure::usage, "unknown verb '{}'; here it is {}", name, ours);
  std::vector<std::string> names;
  for (const Verb& verb : kVerbs) names.emplace_back(verb.name);
  const auto near = nearest(name, names);
  fail(Failure::usage, "unknown verb '{}'{}", name,
       near ? fmt::format(", did you mean {}?", *near) : "; engine --help lists them");
}

// `verb_name` is set as soon as it is known, for messages.
int run(const std::vector<std::string>& words, std::string& verb_name) {
  if (words.empty()) fail(Failure::usage, "no verb; engine --help lists them");
  if (is_help(words[0]) && words.size() > 1 && !words[1].starts_with('-')) {  // "help train"
    std::vector<std::string> asked(words.begin() + 1, words.end());
    asked.push_back("--help");
    return run(asked, verb_name);
  }
  if (is_help(words[0]) && words.size() > 1 && words[1] == "--man")
    return print_to_stdout(man_page(kBuild.version, all_verbs(), kExitCodes)), 0;
  if (is_help(words[0])) return print_to_stdout(overview("")), 0;
  const std::string one = words[0] == "--version" ? "version" : words[0];
  const std::string two = words.size() > 1 ? one + ' ' + words[1] : one;
  const Verb* verb = find_verb(two);
  if (!verb) verb = find_verb(one);
  if (!verb) {
    const bool is_group = std::any_of(std::begin(kVerbs), std::end(kVerbs),
                                      [&](const Verb& v) { return v.name.starts_with(one + ' '); });
    if (is_group && words.size() > 1 && is_help(words[1]))
      return print_to_stdout(overview(one + ' ')), 0;
    require(!is_group || words.size() > 1, Failure::usage,
            "{0} is several verbs; engine {0} --help lists them", one);
    unknown_verb(is_group ? two : one);
  }
  verb_name = verb->name;
  const auto rest = words.begin() + (verb->name == one ? 1 : 2);
  return verb->run({verb_name, std::string(verb->about), {rest, words.end()}});
}

// ---- what is thrown by others than us

std::string describe(const std::filesystem::filesystem_error& error) {
  return fmt::format("{}: {}", error.path1().string(), error.code().message());
}

bool lacks_threads(const std::system_error& error) {
  return error.code() == std::errc::resource_unavailable_try_again;
}

constexpr char kNoThread[] =
    "cannot start another thread: engine doctor shows the limits; --threads and --workers ask for "
    "fewer";

}  // namespace

std::vector<VerbFacts> all_verbs() {
  std::vector<VerbFacts> verbs;
  for (const Verb& verb : kVerbs) {
    VerbFacts facts{std::string(verb.name), std::string(verb.about), {}};
    verb.run({facts.name, facts.about, {}, &facts.flags});
    verbs.push_back(std::move(facts));
  }
  return verbs;
}

}  // namespace engine

int main(int argc, char** argv) {
  using namespace engine;
  secure_standard_streams();
  std::string verb;
  const auto report = [&](Failure kind, std::string_view message) {
    const std::string who = verb.empty() ? "engine:" : "engine " + verb + ":";
    say_error(fmt::format("{} {}", paint(who, Colour::red, stderr), message));
    return static_cast<int>(kind);
  };
  try {
    const int code = run({argv + 1, argv + argc}, verb);
    flush_stdout();
    return code;
  } catch (const Error& error) {
    return report(error.kind, error.what());
  } catch (const std::bad_alloc&) {
    return report(Failure::memory, "out of memory");
  } catch (const std::filesystem::filesystem_error& error) {
    return report(Failure::data, describe(error));
  } catch (const std::system_error& error) {
    return lacks_threads(error) ? report(Failure::memory, kNoThread)
                                : report(Failure::internal, error.what());
  } catch (const std::exception& error) {
    return report(Failure::internal, error.what());
  }
}
