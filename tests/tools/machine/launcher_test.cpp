// Who a process is, by the variables of each launcher.
#include "tools/machine/launcher.h"

#include <doctest/doctest.h>

#include "tests/support.h"

using namespace engine;
using namespace engine::test;

namespace {

// `more` replaces what stands in `some`; an empty value removes it.
Variables with(Variables some, const Variables& more) {
  for (const auto& [name, value] : more) {
    some[name] = value;
    if (value.empty()) some.erase(name);
  }
  return some;
}

std::string refusal(const Variables& variables) {
  return message_of([&] { read_place(variables); }, Failure::usage);
}

const Variables kTorchrun = {
    {"RANK", "5"},        {"WORLD_SIZE", "8"},          {"LOCAL_RANK", "1"},
    {"GROUP_RANK", "1"},  {"GROUP_WORLD_SIZE", "2"},    {"LOCAL_WORLD_SIZE", "4"},
    {"ROLE_RANK", "5"},   {"MASTER_ADDR", "node-a"},    {"MASTER_PORT", "1234"},
    {"OTHER", "nothing"}, {"TORCHELASTIC_RUN_ID", "x"}, {"TORCHELASTIC_RESTART_COUNT", "0"}};
const Variables kOpenMpi = {{"OMPI_COMM_WORLD_RANK", "3"},
                            {"OMPI_COMM_WORLD_SIZE", "4"},
                            {"OMPI_COMM_WORLD_LOCAL_RANK", "1"},
                            {"OMPI_COMM_WORLD_LOCAL_SIZE", "2"},
                            {"PMIX_RANK", "3"},
                            {"PMIX_NAMESPACE", "881786881"}};
// A task of `srun` on two nodes, as Slurm 22.05 sets them.
const Variables kSlurm = {{"SLURM_JOB_ID", "12345678"},
                          {"SLURM_STEP_ID", "0"},
                          {"SLURM_JOB_NAME", "train"},
                          {"SLURM_PROCID", "4"},
                          {"SLURM_NTASKS", "5"},
                          {"SLURM_STEP_NUM_TASKS", "5"},
                          {"SLURM_LOCALID", "0"},
                          {"SLURM_NODEID", "2"},
                          {"SLURM_STEP_NUM_NODES", "3"},
                          {"SLURM_STEP_TASKS_PER_NODE", "2(x2),1"},
                          {"SLURM_STEP_NODELIST", "gpu[07-09]"},
                          {"SLURM_JOB_NODELIST", "gpu[01-20]"}};

}  // namespace

TEST_CASE("without a launcher a process is alone") {
  for (const Variables& v : {Variables{}, Variables{{"MASTER_ADDR", "x"}, {"PATH", "/bin"}},
                             Variables{{"RANK", ""}, {"WORLD_SIZE", ""}}}) {
    const Place place = read_place(v);
    CHECK(place.launcher == Launcher::none);
    CHECK(place.process == 0);
    CHECK(place.processes == 1);
    CHECK(place.local_processes == 1);
    CHECK_FALSE(place.mpi);
  }
}

TEST_CASE("torchrun's variables") {
  const Place place = read_place(kTorchrun);
  CHECK(place.launcher == Launcher::torchrun);
  CHECK(place.process == 5);
  CHECK(place.processes == 8);
  CHECK(place.local_process == 1);
  CHECK(place.local_processes == 4);
  CHECK(place.nodes == 2);
  CHECK(place.address == "node-a");
  CHECK(place.port == 1234);
  CHECK(place.run == "x");
  CHECK_FALSE(place.mpi);
  // Its agent listens at MASTER_PORT itself.
  CHECK(read_place(with(kTorchrun, {{"TORCHELASTIC_USE_AGENT_STORE", "True"}})).port == 1235);
  CHECK(read_place(with(kTorchrun, {{"TORCHELASTIC_USE_AGENT_STORE", "False"}})).port == 1234);
}

TEST_CASE("RANK and WORLD_SIZE by hand") {
  const Place here = read_place({{"RANK", "2"}, {"WORLD_SIZE", "3"}});
  CHECK(here.local_process == 2);
  CHECK(here.local_processes == 3);
  CHECK(here.nodes == 1);
  CHECK(here.address == "127.0.0.1");
  CHECK(here.port == 29500);
  const Place loopback =
      read_place({{"RANK", "2"}, {"WORLD_SIZE", "3"}, {"MASTER_ADDR", "localhost"}});
  CHECK(loopback.local_processes == 3);
  const Place spread =
      read_place({{"RANK", "2"}, {"WORLD_SIZE", "3"}, {"MASTER_ADDR", "10.0.0.1"}});
  CHECK(spread.local_process == 0);
  CHECK(spread.local_processes == 1);
  CHECK(spread.nodes == 3);
  CHECK(spread.address == "10.0.0.1");
}

TEST_CASE("Open MPI's variables") {
  const Place place = read_place(kOpenMpi);
  CHECK(place.launcher == Launcher::openmpi);
  CHECK(place.process == 3);
  CHECK(place.processes == 4);
  CHECK(place.local_process == 1);
  CHECK(place.local_processes == 2);
  CHECK(place.nodes == 2);
  CHECK(place.address == "");  // which host process 0 is on is not told
  CHECK(place.run == "881786881");
  CHECK(place.mpi);
  CHECK(read_place(with(kOpenMpi, {{"MASTER_ADDR", "head"}})).address == "head");
  CHECK(read_place(with(kOpenMpi, {{"OMPI_COMM_WORLD_LOCAL_SIZE", "4"}})).address == "127.0.0.1");
  // Within a job of Slurm's its first host is process 0's.
  CHECK(read_place(with(kOpenMpi, {{"SLURM_JOB_NODELIST", "n[3-4]"}})).address == "n3");
}

TEST_CASE("PMI's variables") {
  const Variables intel = {
      {"PMI_RANK", "2"}, {"PMI_SIZE", "4"}, {"MPI_LOCALRANKID", "0"}, {"MPI_LOCALNRANKS", "2"}};
  const Place place = read_place(intel);
  CHECK(place.launcher == Launcher::pmi);
  CHECK(place.process == 2);
  CHECK(place.processes == 4);
  CHECK(place.local_process == 0);
  CHECK(place.local_processes == 2);
  CHECK(place.mpi);
  // Slurm's PMI-2 tells of the host by Slurm's own variables.
  const Place slurm = read_place(with(kSlurm, {{"PMI_RANK", "4"}, {"PMI_SIZE", "5"}}));
  CHECK(slurm.launcher == Launcher::pmi);
  CHECK(slurm.local_process == 0);
  CHECK(slurm.local_processes == 1);
  CHECK(slurm.address == "gpu07");
  CHECK_FALSE(slurm.mpi);
}

TEST_CASE("a task of srun's") {
  const Place place = read_place(kSlurm);
  CHECK(place.launcher == Launcher::slurm);
  CHECK(place.process == 4);
  CHECK(place.processes == 5);
  CHECK(place.local_process == 0);
  CHECK(place.local_processes == 1);
  CHECK(place.nodes == 3);
  CHECK(place.address == "gpu07");
  CHECK(place.run == "12345678.0");
  CHECK_FALSE(place.mpi);
  CHECK(read_place(with(kSlurm, {{"PMIX_RANK", "4"}})).mpi);
  CHECK(read_place(
            with(kSlurm, {{"SLURM_NODEID", "1"}, {"SLURM_PROCID", "3"}, {"SLURM_LOCALID", "1"}}))
            .local_processes == 2);
  CHECK(read_place(with(kSlurm, {{"MASTER_ADDR", "a"}, {"MASTER_PORT", "77"}})).port == 77);
  // Jobs and their steps meet at ports of their own, below those that systems hand out.
  const int port = place.port;
  CHECK(port >= 1024);
  CHECK(port < 32768);
  CHECK(read_place(with(kSlurm, {{"SLURM_STEP_ID", "1"}})).port != port);
  CHECK(read_place(with(kSlurm, {{"SLURM_JOB_ID", "12345679"}})).port != port);
}

TEST_CASE("Slurm's variables are not heard where srun has not started the process") {
  const auto alone = [](const Variables& more) {
    return read_place(with(kSlurm, more)).launcher == Launcher::none;
  };
  CHECK(alone({{"SLURM_STEP_ID", ""}}));            // a batch script, a shell of salloc's
  CHECK(alone({{"SLURM_STEP_ID", "4294967291"}}));  // the batch step
  CHECK(alone({{"SLURM_STEP_ID", "4294967290"}}));  // the interactive step
  CHECK(alone({{"SLURM_STEP_ID", "batch"}}));
  CHECK(alone({{"SLURM_PROCID", ""}}));
  CHECK(alone({{"SLURM_PTY_PORT", "40001"}}));  // srun --pty bash, of several tasks, too
  const Variables one = {{"SLURM_STEP_NUM_TASKS", "1"},
                         {"SLURM_NTASKS", "1"},
                         {"SLURM_PROCID", "0"},
                         {"SLURM_STEP_TASKS_PER_NODE", "1"},
                         {"SLURM_NODEID", "0"}};
  CHECK(alone(with(one, {{"SLURM_JOB_NAME", "bash"}})));
  CHECK(alone(with(one, {{"SLURM_JOB_NAME", "interactive"}})));
  CHECK_FALSE(alone(one));
  // srun within a shell of salloc's, whose job is named so by default.
  CHECK_FALSE(alone({{"SLURM_JOB_NAME", "interactive"}}));
}

TEST_CASE("the innermost launcher counts, as far as launchers do not contradict each other") {
  // torchrun started by mpirun or srun, once per host.
  Variables nested = with(kTorchrun, kSlurm);
  CHECK(read_place(nested).launcher == Launcher::torchrun);
  CHECK(read_place(nested).process == 5);
  CHECK(read_place(with(kTorchrun, kOpenMpi)).process == 5);
  // mpirun in a job of Slurm's: its helpers are tasks of srun's.
  CHECK(read_place(with(kOpenMpi, kSlurm)).launcher == Launcher::openmpi);
  // By hand, from one process of an outer launcher.
  const Variables hand = {{"RANK", "1"}, {"WORLD_SIZE", "2"}};
  CHECK(read_place(with(with(kOpenMpi, {{"OMPI_COMM_WORLD_RANK", "0"},
                                        {"OMPI_COMM_WORLD_SIZE", "1"},
                                        {"OMPI_COMM_WORLD_LOCAL_RANK", "0"},
                                        {"OMPI_COMM_WORLD_LOCAL_SIZE", "1"}}),
                        hand))
            .process == 1);
  // By hand, alike, and each says what the other does not.
  const Place alike =
      read_place(with(kOpenMpi, {{"RANK", "3"}, {"WORLD_SIZE", "4"}, {"MASTER_ADDR", "head"}}));
  CHECK(alike.launcher == Launcher::torchrun);
  CHECK(alike.local_process == 1);
  CHECK(alike.local_processes == 2);
}

TEST_CASE("contradictions name both variables") {
  const auto names = [](const std::string& message, const char* a, const char* b) {
    return mentions(message, a) && mentions(message, b) && mentions(message, "contradicts");
  };
  CHECK(names(refusal(with(kTorchrun, {{"RANK", "8"}})), "RANK=8", "WORLD_SIZE=8"));
  CHECK(
      names(refusal(with(kTorchrun, {{"LOCAL_RANK", "4"}})), "LOCAL_RANK=4", "LOCAL_WORLD_SIZE=4"));
  CHECK(names(refusal(with(kTorchrun, {{"LOCAL_WORLD_SIZE", "9"}})), "LOCAL_WORLD_SIZE=9",
              "WORLD_SIZE=8"));
  CHECK(names(refusal(with(kOpenMpi, {{"RANK", "2"}, {"WORLD_SIZE", "4"}})), "RANK=2",
              "OMPI_COMM_WORLD_RANK=3"));
  CHECK(names(refusal(with(kOpenMpi, {{"RANK", "3"}, {"WORLD_SIZE", "8"}})), "WORLD_SIZE=8",
              "OMPI_COMM_WORLD_SIZE=4"));
  CHECK(names(refusal(with(kOpenMpi, {{"PMI_RANK", "0"}, {"PMI_SIZE", "4"}})),
              "OMPI_COMM_WORLD_RANK=3", "PMI_RANK=0"));
  CHECK(names(refusal(with(kSlurm, {{"RANK", "0"}, {"WORLD_SIZE", "5"}})), "RANK=0",
              "SLURM_PROCID=4"));
  CHECK(names(refusal(with(kSlurm, {{"SLURM_PROCID", "5"}})), "SLURM_PROCID=5",
              "SLURM_STEP_NUM_TASKS=5"));
}

TEST_CASE("halves and nonsense are refused, with the variable's name") {
  CHECK(mentions(refusal({{"RANK", "0"}}), "RANK is set, but WORLD_SIZE is not"));
  CHECK(mentions(refusal({{"WORLD_SIZE", "2"}}), "WORLD_SIZE is set, but RANK is not"));
  CHECK(mentions(refusal(with(kOpenMpi, {{"OMPI_COMM_WORLD_SIZE", ""}})), "OMPI_COMM_WORLD_SIZE"));
  for (const char* wrong : {"one", "-1", "1.5", "2 ", "99999999999999999999"}) {
    CAPTURE(wrong);
    CHECK(mentions(refusal(with(kTorchrun, {{"RANK", wrong}})), "RANK="));
  }
  CHECK(mentions(refusal(with(kTorchrun, {{"WORLD_SIZE", "0"}})), "WORLD_SIZE=0"));
  for (const char* wrong : {"0", "65536", "http"})
    CHECK(mentions(refusal(with(kTorchrun, {{"MASTER_PORT", wrong}})), "MASTER_PORT="));
  CHECK(mentions(
      refusal({{"RANK", "1"}, {"WORLD_SIZE", "4"}, {"LOCAL_RANK", "1"}, {"MASTER_ADDR", "head"}}),
      "LOCAL_RANK=1"));
}

TEST_CASE("the first host of Slurm's lists") {
  CHECK(first_host("one") == "one");
  CHECK(first_host("one,two") == "one");
  CHECK(first_host("node[3-5]") == "node3");
  CHECK(first_host("node[007-010,12],other") == "node007");
  CHECK(first_host("node[12,007-010]") == "node12");
  CHECK(first_host("rack1-n[08]") == "rack1-n08");
  CHECK(first_host("r[1-2]n[05-06].local") == "r1n05.local");
  for (const char* wrong : {"", ",a", "n[3-5", "n3-5]", "n[]", "n[a-b]"}) {
    CAPTURE(wrong);
    CHECK(mentions(message_of([&] { first_host(wrong); }, Failure::usage), "no list"));
  }
}

TEST_CASE("the tasks of a node in Slurm's lists") {
  const std::vector<int> expected = {4, 4, 3, 1, 1, 1};
  for (int node = 0; node < 6; ++node)
    CHECK(tasks_of_node("4(x2),3,1(x3)", node) == expected[node]);
  CHECK(tasks_of_node("2", 0) == 2);
  for (const char* wrong : {"4(x2),3", "", "a", "4(x2", "4(xb)", "0(x9)"}) {
    CAPTURE(wrong);
    message_of([&] { tasks_of_node(wrong, 3); }, Failure::usage);
  }
}
