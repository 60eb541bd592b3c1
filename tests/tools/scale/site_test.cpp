// On how many hosts the processes of a study are, and what they have there.
#include "tools/scale/site.h"

#include "tests/support.h"
#include "tools/machine/launcher.h"

using namespace engine;
using namespace engine::test;

namespace {

// As a process with these variables describes itself.
Standing standing(const Variables& variables, const std::string& host) {
  const Place place = read_place(variables);
  return {.host = host,
          .local_process = place.local_process,
          .knows_hosts = place.knows_hosts,
          .devices = {"a device"},
          .cores = {0, 1},
          .free_bytes = 100};
}

// A process for each of these places among those of its host; `rank` and the others are the names
// of a launcher's variables.
std::vector<Standing> processes(const std::vector<int>& local, const char* rank, const char* size,
                                const char* local_rank, const Variables& more) {
  std::vector<Standing> all;
  for (size_t i = 0; i < local.size(); ++i) {
    Variables v = more;
    v[rank] = std::to_string(i);
    v[size] = std::to_string(local.size());
    v[local_rank] = std::to_string(local[i]);
    all.push_back(standing(v, "alike"));
  }
  return all;
}

}  // namespace

TEST_CASE("every launcher tells on how many hosts its processes are") {
  const auto torchrun = [](const std::vector<int>& local, const char* local_size) {
    return count_hosts(processes(local, "RANK", "WORLD_SIZE", "LOCAL_RANK",
                                 {{"MASTER_ADDR", "node"}, {"LOCAL_WORLD_SIZE", local_size}}));
  };
  CHECK(torchrun({0, 1, 2, 3}, "4") == 1);
  CHECK(torchrun({0, 1, 0, 1}, "2") == 2);
  CHECK(torchrun({0, 0, 0}, "1") == 3);
  CHECK(count_hosts(processes({0, 1, 0, 1}, "OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE",
                              "OMPI_COMM_WORLD_LOCAL_RANK",
                              {{"OMPI_COMM_WORLD_LOCAL_SIZE", "2"}})) == 2);
  CHECK(count_hosts(processes({0, 1, 2}, "OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE",
                              "OMPI_COMM_WORLD_LOCAL_RANK",
                              {{"OMPI_COMM_WORLD_LOCAL_SIZE", "3"}})) == 1);
}

TEST_CASE("hosts of Slurm's may have different numbers of tasks") {
  std::vector<Standing> all;
  const int nodes[] = {0, 0, 1, 1, 2}, local[] = {0, 1, 0, 1, 0};
  for (int task = 0; task < 5; ++task)
    all.push_back(standing({{"SLURM_JOB_ID", "1"},
                            {"SLURM_STEP_ID", "0"},
                            {"SLURM_PROCID", std::to_string(task)},
                            {"SLURM_NTASKS", "5"},
                            {"SLURM_LOCALID", std::to_string(local[task])},
                            {"SLURM_NODEID", std::to_string(nodes[task])},
                            {"SLURM_STEP_TASKS_PER_NODE", "2(x2),1"},
                            {"SLURM_STEP_NODELIST", "n[1-3]"}},
                           "n" + std::to_string(nodes[task] + 1)));
  CHECK(count_hosts(all) == 3);
  CHECK(host_names(all) == "n1, n2, n3");
}

TEST_CASE("where the launcher does not tell, hosts are counted by name") {
  std::vector<Standing> all;
  for (const char* host : {"a", "b", "a", "b"})
    all.push_back(standing(
        {{"RANK", std::to_string(all.size())}, {"WORLD_SIZE", "4"}, {"MASTER_ADDR", "10.0.0.1"}},
        host));
  CHECK(count_hosts(all) == 2);
  CHECK(host_names(all) == "a, b");
}

TEST_CASE("processes of a host share its cores and its memory") {
  std::vector<Standing> all(3, {.host = "a", .cores = {0, 1, 2, 3}, .free_bytes = 120});
  all[2].host = "b";
  all[2].devices = {"new"};
  all[0].devices = all[1].devices = {"old", "new"};
  CHECK(cores_of(all, 0) == 2);
  CHECK(cores_of(all, 2) == 4);
  CHECK(least_free_bytes(all, BackendKind::cpu) == 60);
  CHECK(least_free_bytes(all, BackendKind::cuda) == 120);
  CHECK(least_free_bytes(std::span(all).last(1), BackendKind::cpu) == 120);
  all[1].free_bytes = 80;
  CHECK(least_free_bytes(all, BackendKind::cpu) == 40);
  CHECK(device_names(all) == "old, new");
}
