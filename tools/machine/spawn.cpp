#include "tools/machine/spawn.h"

#include <fmt/format.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <ctime>

#include "engine/error.h"
#include "engine/wire/socket.h"
#include "tools/cli/terminal.h"
#include "tools/machine/launcher.h"

namespace engine {

namespace {

constexpr int kPassedOn[] = {SIGTERM, SIGINT, SIGUSR1};
constexpr double kGrace = 20;  // seconds that the rest has to end after a failure
constexpr char kLoopback[] = "127.0.0.1";

sigset_t signals_to_wait_for() {
  sigset_t set;
  sigemptyset(&set);
  sigaddset(&set, SIGCHLD);
  for (int number : kPassedOn) sigaddset(&set, number);
  return set;
}

// What execve() needs, made before the fork.
struct Image {
  std::vector<std::string> texts;
  std::vector<char*> pointers() {
    std::vector<char*> all;
    for (std::string& text : texts) all.push_back(text.data());
    all.push_back(nullptr);
    return all;
  }
};

Image environment_of(Variables v, int rank, int count, int port) {
  const std::string size = std::to_string(count), number = std::to_string(rank);
  v["RANK"] = v["LOCAL_RANK"] = number;
  v["WORLD_SIZE"] = v["LOCAL_WORLD_SIZE"] = size;
  v["GROUP_WORLD_SIZE"] = std::to_string(1);
  v["MASTER_ADDR"] = kLoopback;
  v["MASTER_PORT"] = std::to_string(port);
  Image image;
  for (const auto& [name, value] : v) image.texts.push_back(name + "=" + value);
  return image;
}

// A process group of its own keeps a terminal's Ctrl-C from coming twice: directly and passed on.
pid_t start(const std::vector<std::string>& arguments, Image environment, const sigset_t& mask) {
  Image words{arguments};
  words.texts.insert(words.texts.begin(), "engine");
  const std::vector<char*> argv = words.pointers(), envp = environment.pointers();
  const pid_t parent = getpid(), child = fork();
  require(child >= 0, Failure::internal, "--launch process: fork: {}", std::strerror(errno));
  if (child > 0) return child;
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  if (getppid() != parent) _exit(1);  // it has ended already
  setpgid(0, 0);
  sigprocmask(SIG_SETMASK, &mask, nullptr);
  execve("/proc/self/exe", argv.data(), envp.data());
  _exit(1);
}

struct Child {
  pid_t pid = 0;  // 0: it has ended
  int rank = 0;
};

// What the children's ends say of the whole.
class Verdict {
 public:
  void add(int rank, int status) {
    if (WIFSIGNALED(status))
      say_error(fmt::format("process {} was ended by signal {} ({})", rank, WTERMSIG(status),
                            strsignal(WTERMSIG(status))));
    const int code = WIFSIGNALED(status) ? kEcho : WEXITSTATUS(status);
    if (code == 0) return;
    if (code_ == 0) failed_at_ = Clock::now();
    if (code_ == 0 || (code_ == kEcho && code != kEcho)) code_ = code;
  }
  int code() const { return code_; }
  bool out_of_patience() const {
    return code_ != 0 && code_ != static_cast<int>(Failure::preempted) &&
           seconds_since(failed_at_) > kGrace;
  }

 private:
  static constexpr int kEcho = static_cast<int>(Failure::collective);
  int code_ = 0;
  Moment failed_at_;
};

void pass_on(const std::vector<Child>& children, int signal) {
  for (const Child& child : children)
    if (child.pid != 0) kill(child.pid, signal);
}

void collect(std::vector<Child>& children, Verdict& verdict) {
  for (Child& child : children) {
    int status = 0;
    if (child.pid == 0 || waitpid(child.pid, &status, WNOHANG) != child.pid) continue;
    child.pid = 0;
    verdict.add(child.rank, status);
  }
}

// Until every child has ended.
int watch(std::vector<Child>& children, const sigset_t& signals) {
  Verdict verdict;
  const auto runs = [](const Child& child) { return child.pid != 0; };
  while (std::any_of(children.begin(), children.end(), runs)) {
    const timespec pause{1, 0};
    const int signal = sigtimedwait(&signals, nullptr, &pause);
    if (signal > 0 && signal != SIGCHLD) pass_on(children, signal);
    collect(children, verdict);
    if (verdict.out_of_patience()) pass_on(children, SIGKILL);
  }
  return verdict.code();
}

}  // namespace

int processes_to_start(const DeviceOptions& o) {
  const bool alone = read_place(environment_variables()).processes == 1;
  if (o.launch == RankLaunch::thread || !alone) return 1;
  return std::max(o.ranks, count_gpus(o));
}

int run_processes(int count, const std::vector<std::string>& arguments) {
  const sigset_t signals = signals_to_wait_for();
  sigset_t before;
  sigprocmask(SIG_BLOCK, &signals, &before);
  const Handle port = reserve_port(kLoopback);
  Variables shared = environment_variables();
  shared["TORCHELASTIC_RUN_ID"] = fmt::format("process {} at {}", getpid(), std::time(nullptr));
  shared.erase("TORCHELASTIC_USE_AGENT_STORE");
  std::vector<Child> children;
  try {
    for (int rank = 0; rank < count; ++rank)
      children.push_back(
          {start(arguments, environment_of(shared, rank, count, port_of(port)), before), rank});
  } catch (...) {
    pass_on(children, SIGKILL);
    watch(children, signals);
    sigprocmask(SIG_SETMASK, &before, nullptr);
    throw;
  }
  const int code = watch(children, signals);
  sigprocmask(SIG_SETMASK, &before, nullptr);
  return code;
}

}  // namespace engine
