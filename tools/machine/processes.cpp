#include "tools/machine/processes.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <future>
#include <nlohmann/json.hpp>

#include "engine/error.h"
#include "engine/mpi_module.h"
#include "engine/wire/rendezvous.h"
#include "io/files/json.h"
#include "tools/cli/terminal.h"
#include "tools/machine/cores.h"
#include "tools/machine/environment.h"

namespace engine {

namespace {

using Json = nlohmann::ordered_json;

// Where MPI has found all processes, process 0 tells the others through it where it listens.
bool meet_through_mpi(const Place& place, Rendezvous& r, Handle& listener, std::string& why) {
  const std::optional<MpiPlace> found = begin_mpi(why);
  if (!found) return false;
  if (found->processes != place.processes || found->process != place.process) {
    why = fmt::format("it sees process {} of {}, {} says {} of {}", found->process,
                      found->processes, name_of(place.launcher), place.process, place.processes);
    return false;
  }
  if (r.address.empty()) r.address = this_host_name();
  if (place.process == 0) {
    listener = listen_at(r.address, 0, !r.one_host);
    r.port = port_of(listener);
  }
  std::array<char, 256> address{};
  r.address.copy(address.data(), address.size() - 1);
  const WireWatch watch{.timeout = r.timeout};
  mpi_broadcast(std::as_writable_bytes(std::span(address)), watch);
  mpi_broadcast(std::as_writable_bytes(std::span(&r.port, 1)), watch);
  r.address = address.data();
  return true;
}

// Seconds that the wire waits. A verdict of the watchdog, which knows more, comes before.
double patience_of_wire(const DeviceOptions& o) {
  return 5 + 1.5 * o.collective_timeout;
}

Connection connect(const Place& place, const DeviceOptions& o, const std::function<bool()>& stop) {
  Rendezvous r{.process = place.process,
               .processes = place.processes,
               .address = place.address,
               .port = place.port,
               .one_host = place.nodes == 1,
               .run = fmt::format("engine {} {} {}", kBuild.version, kBuild.git, place.run),
               .timeout = patience_of_wire(o),
               .stop = stop,
               .tell = say_error};
  Handle listener;
  std::string why = "it was not started so";
  const bool mpi = place.mpi && meet_through_mpi(place, r, listener, why);
  require(!r.address.empty(), Failure::usage,
          "{} started processes on {} hosts and does not tell where process 0 is: set MASTER_ADDR "
          "to its host (MPI is not used: {})",
          name_of(place.launcher), place.nodes, why);
  Connection connection = connect_processes(r, std::move(listener));
  if (mpi) {
    const auto lifeline = connection.lifeline;
    connection.wire = make_mpi_wire(
        {.timeout = r.timeout,
         .trouble = [lifeline] { return lifeline->trouble(); },
         .abort = [lifeline](const std::string& reason) { lifeline->abort(reason); }});
  }
  return connection;
}

// The flag's name of what a kind runs on.
std::string_view device_of(BackendKind kind) {
  const Device device = kind == BackendKind::cuda  ? Device::cuda
                        : kind == BackendKind::cpu ? Device::cpu
                                                   : Device::reference;
  return std::ranges::find(kDevices, device, &Choice<Device>::value)->name;
}

// What the processes must have in common, for people.
std::string kind_of(const Ranks& ranks) {
  return fmt::format("{} rank{} on {} in {}", ranks.count(), ranks.count() > 1 ? "s" : "",
                     device_of(ranks.kind), name_of(ranks.precision));
}

// Compares all processes, and divides the cores among those of this host.
CoreShare agree(const Ranks& ranks, const DeviceOptions& o) {
  const std::vector<int> allowed = allowed_cores();
  const Json own = {{"host", this_host().name}, {"cores", allowed}, {"ranks", kind_of(ranks)}};
  std::vector<std::vector<int>> neighbours;
  int mine = 0, process = 0;
  std::string first;
  for (const std::string& text : from_every_process(ranks, print_json(own))) {
    const Json facts = parse_json<Json>(text);
    const std::string kind = facts.at("ranks"), host = facts.at("host");
    if (process == 0) first = kind;
    require(kind == first, Failure::usage,
            "process {} on {} has {}, process 0 {}: all must have the same", process, host, kind,
            first);
    if (process == ranks.wire->process()) mine = static_cast<int>(neighbours.size());
    if (host == own.at("host")) neighbours.push_back(facts.at("cores").get<std::vector<int>>());
    ++process;
  }
  const int divided = o.launch == RankLaunch::process ? static_cast<int>(neighbours.size()) : 1;
  const int cores = share_of_cores(neighbours, mine);
  const auto last = neighbours.begin() + mine;
  return {.threads = o.threads > 0 ? std::max(1, o.threads / divided) : cores,
          .cores = cores,
          .processes = divided,
          .allowed = allowed,
          .sharing = static_cast<int>(std::ranges::count(neighbours, allowed)),
          .before = static_cast<int>(std::count(neighbours.begin(), last, allowed))};
}

// Ranks with their threads, and with the other processes where there are any.
Ranks completed(Ranks ranks, const DeviceOptions& o) {
  CoreShare share = all_cores(o);
  try {
    if (ranks.wire) share = agree(ranks, o);
  } catch (const Error& error) {
    tell_others(ranks, error);
    throw;
  }
  complete_ranks(ranks, o, share);
  check_threads(ranks);
  return ranks;
}

}  // namespace

CoreShare all_cores(const DeviceOptions& o) {
  const int cores = available_cores();
  return {.threads = o.threads > 0 ? o.threads : cores, .cores = cores, .allowed = allowed_cores()};
}

Ranks join_ranks(const DeviceOptions& o, const std::function<bool()>& stop) {
  const Place place = read_place(environment_variables());
  Ranks ranks = plan_ranks(o, place);
  if (place.processes > 1) {
    const Connection connection = connect(place, o, stop);
    ranks.wire = connection.wire;
    ranks.lifeline = connection.lifeline;
  }
  return completed(std::move(ranks), o);
}

Ranks ranks_among(const Ranks& joined, const DeviceOptions& o) {
  if (!joined.wire) return lone_ranks(o);
  Ranks ranks = plan_ranks(o, read_place(environment_variables()));
  ranks.wire = joined.wire;
  ranks.lifeline = joined.lifeline;
  return completed(std::move(ranks), o);
}

Ranks lone_ranks(const DeviceOptions& o) {
  return completed(plan_ranks(o, {}), o);
}

void tell_others(const Ranks& ranks, const std::exception& why) {
  const auto* ours = dynamic_cast<const Error*>(&why);
  if (ranks.wire && (!ours || ours->kind != Failure::preempted)) ranks.wire->abort(why.what());
}

std::string from_process_0(const Ranks& ranks, const std::string& text) {
  return ranks.wire ? from_every_process(ranks, ranks.leads() ? text : "").front() : text;
}

std::vector<std::string> from_every_process(const Ranks& ranks, const std::string& text) {
  if (!ranks.wire) return {text};
  std::vector<std::string> texts;
  for (const auto& bytes : ranks.wire->gather(std::as_bytes(std::span(text))))
    texts.emplace_back(reinterpret_cast<const char*>(bytes.data()), bytes.size());
  return texts;
}

// The others hear every second that process 0 is still at work, so that none takes it for lost.
std::string made_by_process_0(const Ranks& ranks, const std::function<std::string()>& work) {
  if (!ranks.wire) return work();
  constexpr char kWorking = '-', kDone = '+';  // a message's first character
  if (!ranks.leads()) {
    std::string heard;
    while (!heard.starts_with(kDone)) heard = from_process_0(ranks, "");
    return heard.substr(1);
  }
  std::future<std::string> made = std::async(std::launch::async, work);
  while (made.wait_for(std::chrono::seconds(1)) != std::future_status::ready)
    from_process_0(ranks, {kWorking});
  const std::string text = made.get();
  from_process_0(ranks, kDone + text);
  return text;
}

}  // namespace engine
