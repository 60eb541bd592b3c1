#include "tools/machine/launcher.h"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <charconv>
#include <climits>
#include <cstdint>
#include <optional>
#include <vector>

#include "engine/error.h"

namespace engine {

namespace {

constexpr int kMostProcesses = 1 << 20;

// The value of a variable, and the name under which it stands.
struct Value {
  std::string name;
  int number = 0;
};

std::optional<std::string> text_of(const Variables& v, std::string_view name) {
  const auto at = v.find(name);
  if (at == v.end() || at->second.empty()) return std::nullopt;
  return at->second;
}

int parse(std::string_view name, std::string_view text, int least, int most) {
  int value = -1;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  require(
      error == std::errc() && end == text.data() + text.size() && value >= least && value <= most,
      Failure::usage, "{}={}: it is a number from {} to {}", name, text, least, most);
  return value;
}

// The first of these variables that is set.
std::optional<Value> number_of(const Variables& v, std::initializer_list<const char*> names,
                               int least = 0, int most = kMostProcesses) {
  for (const char* name : names)
    if (const auto text = text_of(v, name)) return Value{name, parse(name, *text, least, most)};
  return std::nullopt;
}

// What one launcher says; a local value may be missing.
struct Said {
  Launcher launcher = Launcher::none;
  Value rank, size;
  std::optional<Value> local_rank, local_size;
};

void check_below(const Value& rank, const Value& size) {
  require(rank.number < size.number, Failure::usage, "{}={} contradicts {}={}", rank.name,
          rank.number, size.name, size.number);
}

Said check(Said said) {
  check_below(said.rank, said.size);
  if (said.local_size) {
    require(said.local_size->number <= said.size.number, Failure::usage, "{}={} contradicts {}={}",
            said.local_size->name, said.local_size->number, said.size.name, said.size.number);
    if (said.local_rank) check_below(*said.local_rank, *said.local_size);
  }
  return said;
}

std::optional<Said> read(const Variables& v, Launcher launcher, const char* rank, const char* size,
                         std::initializer_list<const char*> local_rank,
                         std::initializer_list<const char*> local_size) {
  const auto r = number_of(v, {rank}), s = number_of(v, {size}, 1);
  if (!r && !s) return std::nullopt;
  require(r && s, Failure::usage, "{} is set, but {} is not", r ? rank : size, r ? size : rank);
  return check({launcher, *r, *s, number_of(v, local_rank), number_of(v, local_size, 1)});
}

// ---------------------------------------------------------------- Slurm

// Steps of srun's have small numbers; those of batch scripts and of interactive shells the last few
// that there are.
bool in_a_step(const Variables& v) {
  const auto step = text_of(v, "SLURM_STEP_ID");
  if (!step || !text_of(v, "SLURM_PROCID") || text_of(v, "SLURM_PTY_PORT")) return false;
  uint32_t number = 0;
  const auto [end, error] = std::from_chars(step->data(), step->data() + step->size(), number);
  constexpr uint32_t kFirstSpecial = 0xfffffff0;
  return error == std::errc() && end == step->data() + step->size() && number < kFirstSpecial;
}

std::optional<Said> read_slurm(const Variables& v) {
  if (!in_a_step(v)) return std::nullopt;
  const Value rank = *number_of(v, {"SLURM_PROCID"});
  const auto size = number_of(v, {"SLURM_STEP_NUM_TASKS", "SLURM_NTASKS", "SLURM_NPROCS"}, 1);
  require(size.has_value(), Failure::usage, "SLURM_PROCID is set, but SLURM_NTASKS is not");
  const std::string job = text_of(v, "SLURM_JOB_NAME").value_or("");
  if ((job == "bash" || job == "interactive") && size->number == 1) return std::nullopt;
  Said said{Launcher::slurm, rank, *size, number_of(v, {"SLURM_LOCALID"}), std::nullopt};
  const int node = number_of(v, {"SLURM_NODEID"}).value_or(Value{}).number;
  for (const char* name : {"SLURM_STEP_TASKS_PER_NODE", "SLURM_TASKS_PER_NODE"})
    if (const auto list = text_of(v, name); list && !said.local_size)
      said.local_size = Value{name, tasks_of_node(*list, node)};
  return check(said);
}

// ---------------------------------------------------------------- several launchers

// Two that describe the same processes must do it alike.
void check_alike(const Said& a, const Said& b) {
  const auto compare = [](const Value& x, const Value& y) {
    require(x.number == y.number, Failure::usage, "{}={} contradicts {}={}", x.name, x.number,
            y.name, y.number);
  };
  compare(a.size, b.size);
  compare(a.rank, b.rank);
}

void check_contradictions(const Variables& v, const std::vector<Said>& found) {
  const Said& first = found.front();
  const bool nests = first.launcher == Launcher::torchrun && text_of(v, "TORCHELASTIC_RUN_ID");
  for (size_t i = 1; i < found.size() && !nests; ++i) {
    const Said& other = found[i];
    if (other.size.number == 1) continue;
    // mpirun's own helpers are steps of Slurm's, and what they start has their variables.
    const bool comparable = other.launcher != Launcher::slurm ||
                            (found.size() == 2 && first.launcher == Launcher::torchrun &&
                             other.size.number == first.size.number);
    if (comparable) check_alike(first, other);
  }
}

// What the innermost launcher does not tell of this host, another that describes the same processes
// may tell.
Said complete(const std::vector<Said>& found) {
  Said said = found.front();
  for (const Said& other : found) {
    if (other.size.number != said.size.number || other.rank.number != said.rank.number) continue;
    if (!said.local_rank) said.local_rank = other.local_rank;
    if (!said.local_size) said.local_size = other.local_size;
  }
  return check(said);
}

std::optional<int> count_nodes(const Variables& v, const Said& said) {
  const char* name = said.launcher == Launcher::torchrun ? "GROUP_WORLD_SIZE"
                     : said.launcher == Launcher::slurm  ? "SLURM_STEP_NUM_NODES"
                                                         : nullptr;
  if (!name || !text_of(v, name)) return std::nullopt;
  return parse(name, *text_of(v, name), 1, kMostProcesses);
}

bool is_loopback(std::string_view address) {
  return address == "localhost" || address == "::1" || address.starts_with("127.");
}

void locate(const Variables& v, const Said& said, Place& place) {
  const auto address = text_of(v, "MASTER_ADDR");
  // Without local numbers: all on this host if process 0 listens to no other, else one on each.
  const bool here = !address || is_loopback(*address);
  place.knows_hosts = said.local_rank.has_value();
  place.local_processes = said.local_size ? said.local_size->number : here ? place.processes : 1;
  place.local_process = said.local_rank                            ? said.local_rank->number
                        : place.local_processes == place.processes ? place.process
                                                                   : 0;
  require(place.local_process < place.local_processes, Failure::usage,
          "{}={}: of how many on this host is not told",
          said.local_rank ? said.local_rank->name : "", place.local_process);
  place.nodes = count_nodes(v, said).value_or((place.processes + place.local_processes - 1) /
                                              place.local_processes);
  if (address) {
    place.address = *address;
  } else if (place.nodes > 1) {
    place.address.clear();
    for (const char* name : {"SLURM_STEP_NODELIST", "SLURM_JOB_NODELIST", "SLURM_NODELIST"})
      if (const auto list = text_of(v, name); list && place.address.empty())
        place.address = first_host(*list);
  }
}

// torchrun itself listens at MASTER_PORT where it says so.
int choose_port(const Variables& v, const Place& place) {
  const auto given = text_of(v, "MASTER_PORT");
  if (given) {
    const int port = parse("MASTER_PORT", *given, 1, 65535);
    const bool taken = text_of(v, "TORCHELASTIC_USE_AGENT_STORE") == "True";
    return taken ? port % 65535 + 1 : port;
  }
  if (place.launcher != Launcher::slurm) return 29500;
  // Below the ports that systems hand out, and another one for each step of a job.
  const auto number = [&](std::initializer_list<const char*> names) -> int64_t {
    return number_of(v, names, 0, INT_MAX).value_or(Value{}).number;
  };
  const int64_t job = number({"SLURM_JOB_ID", "SLURM_JOBID"}), step = number({"SLURM_STEP_ID"});
  return 12000 + static_cast<int>((7 * job + step) % 20000);
}

std::string name_run(const Variables& v) {
  for (const char* name : {"TORCHELASTIC_RUN_ID", "PMIX_NAMESPACE", "OMPI_MCA_ess_base_jobid"})
    if (const auto text = text_of(v, name)) return *text;
  const auto job = text_of(v, "SLURM_JOB_ID"), step = text_of(v, "SLURM_STEP_ID");
  return job && step ? *job + "." + *step : "";
}

}  // namespace

Variables environment_variables() {
  Variables variables;
  for (char** entry = environ; *entry; ++entry) {
    const std::string_view text = *entry;
    const size_t equals = std::min(text.find('='), text.size());
    if (equals < text.size()) variables.emplace(text.substr(0, equals), text.substr(equals + 1));
  }
  return variables;
}

std::string_view name_of(Launcher launcher) {
  switch (launcher) {
    case Launcher::torchrun: return "torchrun";
    case Launcher::openmpi: return "Open MPI";
    case Launcher::pmi: return "PMI";
    case Launcher::slurm: return "Slurm";
    case Launcher::none: break;
  }
  return "none";
}

Place read_place(const Variables& v) {
  std::vector<Said> found;
  const auto add = [&](std::optional<Said> said) {
    if (said) found.push_back(std::move(*said));
  };
  add(read(v, Launcher::torchrun, "RANK", "WORLD_SIZE", {"LOCAL_RANK"}, {"LOCAL_WORLD_SIZE"}));
  add(read(v, Launcher::openmpi, "OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE",
           {"OMPI_COMM_WORLD_LOCAL_RANK"}, {"OMPI_COMM_WORLD_LOCAL_SIZE"}));
  add(read(v, Launcher::pmi, "PMI_RANK", "PMI_SIZE", {"MPI_LOCALRANKID", "PMI_LOCAL_RANK"},
           {"MPI_LOCALNRANKS", "PMI_LOCAL_SIZE"}));
  add(read_slurm(v));
  if (found.empty()) return {};
  check_contradictions(v, found);
  const Said said = complete(found);
  Place place{.launcher = said.launcher,
              .process = said.rank.number,
              .processes = said.size.number,
              .run = name_run(v)};
  locate(v, said, place);
  place.port = choose_port(v, place);
  // Slurm without PMIx starts processes that Open MPI refuses to begin in.
  place.mpi = said.launcher != Launcher::torchrun &&
              (said.launcher == Launcher::openmpi || text_of(v, "PMIX_RANK") ||
               (said.launcher == Launcher::pmi && !text_of(v, "SLURM_STEP_ID")));
  return place;
}

// ---------------------------------------------------------------- Slurm's lists

// A name, then perhaps ranges in brackets, of which the first begins: "rack1-n[3,5-7]".
std::string first_host(std::string_view list) {
  const auto wrong = [&] { fail(Failure::usage, "'{}' is no list of Slurm's nodes", list); };
  std::string host;
  for (size_t at = 0; at < list.size() && list[at] != ',';) {
    if (list[at] != '[') {
      host += list[at++];
      continue;
    }
    const size_t end = list.find(']', at);
    if (end == std::string_view::npos) wrong();
    const std::string_view range = list.substr(at + 1, end - at - 1);
    const std::string_view first = range.substr(0, range.find_first_of(",-"));
    const bool digits =
        std::all_of(first.begin(), first.end(), [](char c) { return c >= '0' && c <= '9'; });
    if (first.empty() || !digits) wrong();
    host += first;
    at = end + 1;
  }
  if (host.empty() || host.find(']') != std::string::npos) wrong();
  return host;
}

int tasks_of_node(std::string_view list, int node) {
  const std::string whole(list);
  for (int at = 0; !list.empty();) {
    const size_t comma = std::min(list.find(','), list.size());
    const std::string_view part = list.substr(0, comma);
    const size_t open = part.find("(x");
    const int tasks = parse("SLURM_TASKS_PER_NODE", part.substr(0, open), 1, kMostProcesses);
    int times = 1;
    if (open != std::string_view::npos) {
      require(part.ends_with(')'), Failure::usage, "'{}' is no list of Slurm's tasks", whole);
      times = parse("SLURM_TASKS_PER_NODE", part.substr(open + 2, part.size() - open - 3), 1,
                    kMostProcesses);
    }
    if (node < at + times) return tasks;
    at += times;
    list.remove_prefix(std::min(comma + 1, list.size()));
  }
  fail(Failure::usage, "'{}': Slurm tells no tasks of node {}", whole, node);
}

}  // namespace engine
