// Who this process is among those that a launcher started, from the variables that launchers set.
#pragma once

#include <map>
#include <string>
#include <string_view>

namespace engine {

using Variables = std::map<std::string, std::string, std::less<>>;
Variables environment_variables();

enum class Launcher { none, torchrun, openmpi, pmi, slurm };
std::string_view name_of(Launcher launcher);

// Where this process stands among all.
struct Place {
  Launcher launcher = Launcher::none;
  int process = 0, processes = 1;
  int local_process = 0, local_processes = 1;  // among those on this host
  bool knows_hosts = false;  // the launcher tells these two; else they are guessed
  int nodes = 1;
  std::string address = "127.0.0.1";  // of process 0's host; empty: the launcher does not tell
  int port = 29500;
  std::string run;   // the launcher's own name of the run, if it has one
  bool mpi = false;  // started so that MPI_Init finds the other processes
};

// The first of these that is there counts: RANK and WORLD_SIZE (torchrun), OMPI_COMM_WORLD_RANK
// (Open MPI), PMI_RANK (MPICH, Intel MPI, Slurm's PMI-2), SLURM_PROCID. Slurm's are only heard in a
// step of srun's: not in a batch script, not in a shell that has a terminal of its own, and in a
// job named bash or interactive only by one of several tasks.
//
// Throws Error(usage), which names both variables, where values contradict each other: a rank that
// is not below the number of processes, and two launchers that describe the same processes in
// different ways. One launcher may start another; they describe the same processes unless torchrun
// or Slurm says so, or the outer one has started a single process.
Place read_place(const Variables& variables);

// The first host of Slurm's list: "node[007-010,12],other" begins with node007. Throws Error(usage)
// for what is no list.
std::string first_host(std::string_view list);

// Tasks of a node in Slurm's list: "4(x2),3" is 4, 4, 3. Throws Error(usage) where it is none.
int tasks_of_node(std::string_view list, int node);

}  // namespace engine
