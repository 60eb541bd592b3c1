#include "tools/cli/options.h"

#include <doctest/doctest.h>

#include <algorithm>

#include "engine/error.h"
#include "tests/json.h"
#include "tools/cli/flag_text.h"
#include "tools/cli/yaml.h"

using namespace engine;

namespace {

enum class Speed { slow, fast };
constexpr Choice<Speed> kSpeeds[] = {{"slow", Speed::slow}, {"fast", Speed::fast}};

struct Places {
  std::filesystem::path file;
  std::optional<std::filesystem::path> folder;
  std::string weights, name;

  void visit(auto& v) {
    v("--file FILE", file, "");
    v("--folder DIR", folder, "");
    v("--weights FILE|NAME", weights, "");
    v("--name NAME", name, "");
  }
};

struct Options {
  bool deterministic = false, shuffle = true;
  int batch_size = 64;
  int64_t max_steps = -1;
  uint64_t seed = 1;
  float lr = 1e-3f;
  double decay = 0.9;
  std::string model = "efficientnet_b3";
  std::filesystem::path data;
  std::optional<int> crop;
  std::optional<float> smoothing;
  std::optional<std::string> resume;
  std::optional<std::filesystem::path> weights;
  Speed speed = Speed::slow;
  std::optional<Speed> limit;
  Speed pace = Speed::slow;
  std::string net = "a_net";
  std::vector<std::string> files;

  void visit(auto& v) {
    v.group("Data");
    v("--data DIR", data, "where the images are", kRequired);
    v("FILES", files, "images");
    v.group("Training");
    v("-b, --batch-size N", batch_size, "images per step", Within{1, 4096});
    v("--max-steps", max_steps, "stop early", Within{.least = -1});
    v("--seed", seed, "of all random numbers");
    v("--lr, --learning-rate", lr, "peak learning rate", Within{0, 10});
    v("--decay", decay, "of the average");
    v("--deterministic", deterministic, "equal bits in every run");
    v("--shuffle", shuffle, "a new order in every epoch");
    v("--model NAME", model, "what to train");
    v("--crop", crop, "pixels");
    v("--smoothing", smoothing, "of labels", Within{.most = 1});
    v("--resume", resume, "auto or a folder");
    v("--weights", weights, "to begin with");
    v("--speed", speed, "how fast", kSpeeds);
    v("--limit", limit, "how fast at most", kSpeeds);
    v("--pace NAME", pace, "of a walk", kSpeeds);
    v("--net NAME", net, "a network", Suggest{{"a_net", "efficientnet_b0"}});
  }
};

struct TwoFiles {
  std::string in, out;
  void visit(auto& v) {
    v("IN", in, "from", kRequired);
    v("OUT", out, "to", kRequired);
  }
};

struct LongHelp {
  bool flag = false;
  std::string help;
  void visit(auto& v) { v("--flag", flag, help); }
};

Options parsed(std::vector<std::string> arguments) {
  arguments.insert(arguments.begin(), {"--data", "images"});
  Options options;
  parse_flags(Flags(options), arguments);
  return options;
}

std::string message(const std::vector<std::string>& arguments) {
  try {
    parsed(arguments);
  } catch (const Error& error) {
    CHECK(error.kind == Failure::usage);
    CHECK(std::string(error.what()).find('\n') == std::string::npos);
    return error.what();
  }
  return "no error";
}

std::string help() {
  Options options;
  return help_text(Flags(options), {.verb = "train", .about = "train a model"});
}

bool contains(const std::string& text, std::string_view part) {
  return text.find(part) != std::string::npos;
}

}  // namespace

TEST_CASE("flags that are not given keep the defaults") {
  const Options o = parsed({});
  CHECK(o.data == "images");
  CHECK(o.batch_size == 64);
  CHECK(o.lr == 1e-3f);
  CHECK(o.shuffle);
  CHECK(!o.crop);
  CHECK(!o.limit);
  CHECK(o.files.empty());
}

TEST_CASE("a field of every type is set, with a space or an equals sign") {
  for (const bool equals : {false, true}) {
    std::vector<std::string> arguments;
    for (const auto& [flag, value] :
         std::vector<std::pair<std::string, std::string>>{{"--batch-size", "8"},
                                                          {"--max-steps", "-1"},
                                                          {"--seed", "18446744073709551615"},
                                                          {"--lr", "2.5e-2"},
                                                          {"--decay", "0.25"},
                                                          {"--model", "densenet121"},
                                                          {"--crop", "224"},
                                                          {"--smoothing", "0.1"},
                                                          {"--resume", "auto"},
                                                          {"--weights", "a b/c.pth"},
                                                          {"--speed", "fast"},
                                                          {"--limit", "slow"}}) {
      if (equals)
        arguments.push_back(flag + '=' + value);
      else
        arguments.insert(arguments.end(), {flag, value});
    }
    const Options o = parsed(arguments);
    CHECK(o.batch_size == 8);
    CHECK(o.max_steps == -1);
    CHECK(o.seed == 18446744073709551615u);
    CHECK(o.lr == 2.5e-2f);
    CHECK(o.decay == 0.25);
    CHECK(o.model == "densenet121");
    CHECK(o.crop == 224);
    CHECK(o.smoothing == 0.1f);
    CHECK(o.resume == "auto");
    CHECK(o.weights == "a b/c.pth");
    CHECK(o.speed == Speed::fast);
    CHECK(o.limit == Speed::slow);
  }
}

TEST_CASE("a bool needs no value") {
  CHECK(parsed({"--deterministic"}).deterministic);
  CHECK(parsed({"--deterministic=true"}).deterministic);
  CHECK(!parsed({"--shuffle=false"}).shuffle);
  CHECK(message({"--shuffle=no"}) == "--shuffle 'no': true or false");
  const Options o = parsed({"--deterministic", "a.jpg"});
  CHECK(o.deterministic);
  CHECK(o.files == std::vector<std::string>{"a.jpg"});
}

TEST_CASE("other names of a flag, and the last of several") {
  CHECK(parsed({"-b", "2"}).batch_size == 2);
  CHECK(parsed({"-b=2"}).batch_size == 2);
  CHECK(parsed({"--learning-rate", "2"}).lr == 2);
  CHECK(parsed({"-b", "2", "--batch-size", "3"}).batch_size == 3);
}

TEST_CASE("positional arguments stand anywhere, and after -- everything is one") {
  CHECK(parsed({"a", "-b", "2", "c"}).files == std::vector<std::string>{"a", "c"});
  CHECK(parsed({"--", "--seed", "-x"}).files == std::vector<std::string>{"--seed", "-x"});
  CHECK(parsed({"-"}).files == std::vector<std::string>{"-"});
}

TEST_CASE("the words of the flags that were given set them again") {
  const std::vector<std::string> given = {"a b",       "--shuffle=false", "--lr",    "0.5",
                                          "--resume=", "--weights=-w",    "--limit", "slow",
                                          "--data",    "images",          "--",      "-c"};
  Options options, again;
  const Flags flags(options);
  const std::set<std::string> keys = parse_given_flags(flags, given);
  CHECK(keys ==
        std::set<std::string>{"data", "lr", "shuffle", "resume", "weights", "limit", "files"});
  const std::vector<std::string> words = words_of(flags, keys);
  CHECK(parse_given_flags(Flags(again), words) == keys);
  CHECK(to_json(Flags(again)) == to_json(flags));
  CHECK(words_of(flags, {"lr"}) == std::vector<std::string>{"--lr", "0.5"});
}

TEST_CASE("single positional fields are filled in their order") {
  TwoFiles o;
  const Flags flags(o);
  parse_flags(flags, std::vector<std::string>{"a", "b"});
  CHECK(o.in == "a");
  CHECK(o.out == "b");
  CHECK_THROWS_WITH_AS(parse_flags(flags, std::vector<std::string>{"a"}), "OUT is missing: to",
                       Error);
  CHECK_THROWS_WITH_AS(parse_flags(flags, std::vector<std::string>{"a", "b", "c"}),
                       "unexpected argument 'c'", Error);
  CHECK(contains(help_text(flags, {.verb = "convert"}),
                 "usage: engine convert [--flag value]... IN OUT\n"));
}

TEST_CASE("other spellings of flags and known values, and what peers call them") {
  CHECK(parsed({"--batch_size", "2"}).batch_size == 2);
  CHECK(parsed({"--bs", "2"}).batch_size == 2);
  CHECK(parsed({"--lr0=2"}).lr == 2);
  CHECK(parsed({"--speed", "Fast"}).speed == Speed::fast);
  CHECK(parsed({"--net", "EfficientNet-B0"}).net == "efficientnet_b0");
  CHECK(parsed({"--net", "B-1"}).net == "B-1");
  CHECK(message({"--pretrained"}) == "unknown flag --pretrained; here it is --weights imagenet");
  CHECK(message({"--amp"}) == "unknown flag --amp");  // there is no --precision
  CHECK(message({"--imgsz", "2"}) == "unknown flag --imgsz");
}

TEST_CASE("an unknown flag is named, with the nearest known one") {
  CHECK(message({"--batchsize", "3"}) == "unknown flag --batchsize, did you mean --batch-size?");
  CHECK(message({"--batch=3"}) == "unknown flag --batch, did you mean --batch-size?");
  CHECK(message({"--deterministc"}) ==
        "unknown flag --deterministc, did you mean --deterministic?");
  CHECK(message({"--sed", "3"}) == "unknown flag --sed, did you mean --seed?");
  CHECK(message({"--frobnicate"}) == "unknown flag --frobnicate");
}

TEST_CASE("a bad value is reported with its flag and what is allowed") {
  CHECK(message({"-b", "many"}) == "--batch-size 'many': not a whole number");
  CHECK(message({"-b", "8.5"}) == "--batch-size '8.5': not a whole number");
  CHECK(message({"-b", ""}) == "--batch-size '': not a whole number");
  CHECK(message({"-b", "0"}) == "--batch-size '0': allowed is 1 to 4096");
  CHECK(message({"-b", "99999999999"}) == "--batch-size '99999999999': allowed is 1 to 4096");
  CHECK(message({"--max-steps", "-2"}) == "--max-steps '-2': allowed is at least -1");
  CHECK(message({"--crop", "99999999999"}) ==
        "--crop '99999999999': does not fit, at most 2147483647");
  CHECK(message({"--seed", "-1"}) == "--seed '-1': not a whole number from 0 on");
  CHECK(message({"--lr", "fast"}) == "--lr 'fast': not a number");
  CHECK(message({"--lr", "nan"}) == "--lr 'nan': allowed is 0 to 10");
  CHECK(message({"--lr", "11"}) == "--lr '11': allowed is 0 to 10");
  CHECK(message({"--smoothing", "inf"}) == "--smoothing 'inf': allowed is at most 1");
  CHECK(message({"--speed", "faster"}) == "--speed 'faster': one of slow, fast");
}

TEST_CASE("a flag without its value") {
  CHECK(message({"--lr"}) == "--lr needs a value: --lr X");
  CHECK(message({"--model", "--seed", "3"}) == "--model needs a value: --model NAME");
}

TEST_CASE("a required flag that is missing") {
  Options options;
  CHECK_THROWS_WITH_AS(parse_flags(Flags(options), std::vector<std::string>{"-b", "2"}),
                       "--data is missing: where the images are", Error);
}

TEST_CASE("the help shows groups, names, defaults and ranges") {
  const std::string text = help();
  CHECK(contains(text, "engine train: train a model\n"));
  CHECK(contains(text, "usage: engine train --data DIR [--flag value]... [FILES...]\n"));
  CHECK(contains(text, "\nData\n"));
  CHECK(contains(text, "\nTraining\n"));
  CHECK(contains(text, "  -b, --batch-size N"));
  CHECK(contains(text, "images per step (default 64; 1 to 4096)"));
  CHECK(contains(text, "peak learning rate (default 0.001; 0 to 10)"));
  CHECK(contains(text, "where the images are (required)"));
  CHECK(contains(text, "--speed slow|fast"));
  CHECK(contains(text, "how fast (default slow)"));
  CHECK(contains(text, "how fast at most\n"));
  CHECK(contains(text, "of a walk (slow, fast; default slow)"));
  CHECK(contains(text, "equal bits in every run\n"));
  CHECK(contains(text, "a new order in every epoch (default true)"));
  CHECK(contains(text, "what to train (default efficientnet_b3)"));
  size_t longest = 0, begin = 0;
  for (size_t end; (end = text.find('\n', begin)) != std::string::npos; begin = end + 1)
    longest = std::max(longest, end - begin);
  CHECK(longest <= 100);
}

TEST_CASE("a long help text is wrapped under itself") {
  LongHelp o;
  for (int i = 0; i < 40; ++i) o.help += "word ";
  const std::string text = help_text(Flags(o), {.verb = "x", .about = "y"});
  CHECK(contains(text, "\n" + std::string(32, ' ') + "word"));
  CHECK(!contains(text, " \n"));
}

TEST_CASE("help is asked for before anything is parsed") {
  CHECK(asks_for_help({.arguments = {"--nonsense", "--help"}}));
  CHECK(asks_for_help({.arguments = {"-h"}}));
  CHECK(!asks_for_help({.arguments = {"--", "--help"}}));
}

TEST_CASE("the log has every field, and its values parse back to the same options") {
  Options o = parsed({"a b", "c", "--lr", "0.1", "--seed", "18446744073709551615", "--limit",
                      "fast", "--crop", "3"});
  const auto json = parse_json<nlohmann::json>(to_json(Flags(o)));
  CHECK(json.size() == Flags(o).list().size());
  CHECK(json["data"] == "images");
  CHECK(json["files"] == nlohmann::json{"a b", "c"});
  CHECK(json["batch_size"] == 64);
  CHECK(json["seed"] == 18446744073709551615u);
  CHECK(json["lr"] == 0.1);
  CHECK(json["deterministic"] == false);
  CHECK(json["speed"] == "slow");
  CHECK(json["limit"] == "fast");
  CHECK(json["crop"] == 3);
  CHECK(json["weights"].is_null());

  std::vector<std::string> arguments;
  for (const auto& [key, value] : json.items()) {
    if (value.is_null() || key == "data") continue;
    std::string flag = "--" + key;
    std::replace(flag.begin(), flag.end(), '_', '-');
    if (value.is_array())
      for (const auto& file : value) arguments.push_back(file);
    else
      arguments.push_back(flag + '=' +
                          (value.is_string() ? value.get<std::string>() : print_json(value)));
  }
  Options again = parsed(arguments);
  CHECK(to_json(Flags(again)) == to_json(Flags(o)));
}

TEST_CASE("the nearest word, and none for a word unlike all") {
  const std::vector<std::string> verbs = {"train", "eval", "predict", "weights verify"};
  CHECK(nearest("trian", verbs) == "train");
  CHECK(nearest("predic", verbs) == "predict");
  CHECK(nearest("weights", verbs) == "weights verify");
  CHECK(!nearest("xyzzy", verbs));
  CHECK(!nearest("", verbs));
}

namespace {

void parse_with(Options& o, const std::vector<std::string>& arguments, const std::string& json) {
  parse_flags(Flags(o), arguments, Config{json, "args.json"});
}

}  // namespace

TEST_CASE("a config sets flags, and the command line wins") {
  Options o;
  parse_with(o, {"--lr=0.25", "c.png"}, R"({"data": "d", "batch_size": 8, "shuffle": false,
    "lr": 0.5, "smoothing": 0.1, "speed": "fast", "resume": "", "crop": null,
    "files": ["a.png", "b.png"]})");
  CHECK(o.data == "d");  // required, and given here
  CHECK(o.batch_size == 8);
  CHECK(!o.shuffle);
  CHECK(o.lr == 0.25f);
  CHECK(o.smoothing == 0.1f);
  CHECK(o.speed == Speed::fast);
  CHECK(o.files == std::vector<std::string>{"c.png"});
  CHECK(o.decay == 0.9);
  Options again;
  parse_with(again, {}, R"({"data": "d", "files": ["a.png", "b.png"]})");
  CHECK(again.files == std::vector<std::string>{"a.png", "b.png"});
}

TEST_CASE("what to_json writes is a config that gives the same flags") {
  Options first, second;
  parse_with(first,
             {"--data", "x", "--crop", "7", "--limit", "slow", "--seed", "18446744073709551615",
              "f", "--lr", "0.3"},
             "{}");
  parse_with(second, {}, to_json(Flags(first)));
  CHECK(to_json(Flags(first)) == to_json(Flags(second)));
  CHECK(second.seed == UINT64_MAX);
}

TEST_CASE("a bad config is refused with the file's name") {
  const std::pair<const char*, const char*> cases[] = {
      {"[1]", "args.json: no JSON object"},
      {"{", "args.json: no JSON object"},
      {R"({"data": "d", "bach": 1, "model": "m", "sped": 2})",
       "args.json: no such flags here: bach, sped"},
      {R"({"data": "d", "batch_size": 0})", "args.json: --batch-size '0': allowed is 1 to 4096"},
      {R"({"data": "d", "batch_size": 1.5})", "args.json: --batch-size '1.5': not a whole number"},
      {R"({"data": "d", "speed": {"a": 1}})", "args.json: --speed: one value is wanted"},
      {R"({"data": ""})", "--data is missing: where the images are"}};
  for (const auto& [json, message] : cases) {
    Options o;
    CHECK_THROWS_WITH_AS(parse_with(o, {}, json), message, Error);
  }
  Options o;
  const std::string deep = R"({"files":[)" + std::string(200'000, '[');
  CHECK_THROWS_WITH_AS(parse_with(o, {}, deep), "args.json: it nests deeper than lists of values",
                       Error);
}

TEST_CASE("--config is found among the arguments") {
  const auto read = [](std::vector<std::string> words) { return read_config(words); };
  CHECK(!read({"--lr", "1"}));
  CHECK(!read({"--", "--config", "x"}));
  const std::string file = ENGINE_SOURCE_DIR "/CMakePresets.json";
  CHECK(read({"--lr", "1", "--config", file})->json.starts_with("{"));
  CHECK(read({"--config=" + file})->from == "--config " + file);
  CHECK_THROWS_WITH_AS(read({"--config", "/nowhere"}),
                       "--config /nowhere: No such file or directory", Error);
}

TEST_CASE("an empty place is a mistake of the shell's, in a file it is none") {
  Places o;
  const Flags flags(o);
  for (const char* word : {"--file=", "--folder=", "--weights="})
    CHECK_THROWS_AS(parse_flags(flags, std::vector<std::string>{word}, {}), Error);
  parse_flags(flags, std::vector<std::string>{"--name="},
              Config{R"({"file": "", "folder": null, "weights": ""})", "f"});
  CHECK(o.file.empty());
}

TEST_CASE("a config names no further config, and YAML is one document") {
  Options o;
  GeneralOptions general;
  const Flags flags(o, general);
  for (const char* json : {R"({"config": "other.json"})", R"({"help": true})"})
    CHECK_THROWS_AS(parse_flags(flags, {}, Config{json, "f"}), Error);
  CHECK_THROWS_AS(json_from_yaml("lr: 1\n---\nlr: 2\n", "f"), Error);
  CHECK_THROWS_AS(json_from_yaml("---\n--- {lr: 2}\n", "f"), Error);
  CHECK(json_from_yaml("%YAML 1.2\n# a recipe\n---\nlr: ---1\n", "f") == R"({"lr":"---1"})");
}

TEST_CASE("a config may be YAML") {
  const auto json = [](const char* text) { return json_from_yaml(text, "f.yaml"); };
  Options o;
  parse_with(o, {},
             json("# images\ndata: 'a: b'\nbatch-size: 8\nlr: 1e-2\nshuffle: false\n"
                  "crop: ~\nmodel: \"\\u00e4\"\nfiles: [a.png, 2]\n"));
  CHECK(o.data == "a: b");
  CHECK(o.batch_size == 8);
  CHECK(o.lr == 1e-2f);
  CHECK(!o.shuffle);
  CHECK(!o.crop);
  CHECK(o.model == "ä");
  CHECK(o.files == std::vector<std::string>{"a.png", "2"});
  for (const auto& [text, why] : std::initializer_list<std::pair<std::string, std::string>>{
           {"[a]", "f.yaml: no mapping of flags to values"},
           {"a: {b: 1}", "f.yaml: a: a value or a list of values is wanted"},
           {"a: [[1]]", "f.yaml: a: a value or a list of values is wanted"},
           {"a: [1", "f.yaml: "},
           {"a: &x [*x]", "f.yaml: "},
           {"a: " + std::string(100'000, '['), "f.yaml: "}})
    CHECK_THROWS_WITH_AS(json(text.c_str()), doctest::Contains(why.c_str()), Error);
}

TEST_CASE("completion knows what values a flag takes") {
  Options o;
  const std::vector<FlagFacts> facts = facts_of(Flags(o));
  const auto of = [&](std::string_view name) {
    return *std::find_if(facts.begin(), facts.end(), [&](const FlagFacts& f) {
      return std::find(f.names.begin(), f.names.end(), name) != f.names.end();
    });
  };
  using Value = FlagFacts::Value;
  CHECK(of("--deterministic").value == Value::none);
  CHECK(of("--data").value == Value::path);
  CHECK(of("--weights").value == Value::path);
  CHECK(of("-b").value == Value::other);
  CHECK(of("--limit").choices == std::vector<std::string>{"slow", "fast"});
  CHECK(of("FILES").positional);
  CHECK(of("FILES").repeated);
}
