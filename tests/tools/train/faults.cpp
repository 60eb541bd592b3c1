#include "tests/tools/train/faults.h"

#include <dlfcn.h>
#include <fcntl.h>
#include <pthread.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <csignal>
#include <cstdarg>
#include <cstdio>
#include <cstdlib>
#include <map>
#include <mutex>
#include <sstream>

namespace engine::test {
namespace {

struct State {
  std::mutex mutex;
  Fault fault;
  std::vector<std::string> calls;
  std::map<int, std::string> opened;  // paths by descriptor
};

State& state() {
  static auto* const only = new State;  // there are calls before and after main()
  return *only;
}

enum class Verdict { pass, shorten, fail };  // fail: errno is set

Verdict judge(const char* call, const std::string& path) {
  State& s = state();
  const std::lock_guard lock(s.mutex);
  if (s.fault.path.empty() || path.find(s.fault.path) == std::string::npos) return Verdict::pass;
  const int at = static_cast<int>(s.calls.size());
  s.calls.push_back(std::string(call) + ' ' + path.substr(path.rfind('/') + 1));
  if (at != s.fault.at && !(at > s.fault.at && s.fault.kind == FaultKind::lasting))
    return Verdict::pass;
  switch (s.fault.kind) {
    case FaultKind::none: return Verdict::pass;
    case FaultKind::short_write: return Verdict::shorten;
    case FaultKind::kill: kill(getpid(), SIGKILL); return Verdict::fail;
    case FaultKind::once:
    case FaultKind::lasting: errno = s.fault.error; return Verdict::fail;
  }
  return Verdict::pass;
}

Verdict judge(const char* call, int file) {
  State& s = state();
  std::string path;
  {
    const std::lock_guard lock(s.mutex);
    if (const auto at = s.opened.find(file); at != s.opened.end()) path = at->second;
  }
  return path.empty() ? Verdict::pass : judge(call, path);
}

// The C library's own functions.
template <class Function>
Function* next(const char* name) {
  return reinterpret_cast<Function*>(dlsym(RTLD_NEXT, name));
}

[[gnu::constructor]] void arm_from_environment() {
  const char* text = std::getenv("ENGINE_FAULT");
  if (!text) return;
  Fault fault;
  int kind = 0;
  std::istringstream(text) >> kind >> fault.error >> fault.at >> fault.path;
  fault.kind = static_cast<FaultKind>(kind);
  arm(fault);
}

}  // namespace

void arm(const Fault& fault) {
  State& s = state();
  const std::lock_guard lock(s.mutex);
  s.fault = fault;
  s.calls.clear();
}

std::vector<std::string> calls_seen() {
  const std::lock_guard lock(state().mutex);
  return state().calls;
}

}  // namespace engine::test

using namespace engine::test;

extern "C" {

int open(const char* path, int flags, ...) {
  mode_t mode = 0;
  if (flags & (O_CREAT | O_TMPFILE)) {
    va_list more;
    va_start(more, flags);
    mode = va_arg(more, mode_t);
    va_end(more);
  }
  if (judge("open", std::string(path)) == Verdict::fail) return -1;
  const int file = next<int(const char*, int, ...)>("open")(path, flags, mode);
  const std::lock_guard lock(state().mutex);
  if (file >= 0) state().opened[file] = path;
  return file;
}

int close(int file) {
  const Verdict verdict = judge("close", file);
  const int error = errno;
  {
    const std::lock_guard lock(state().mutex);
    state().opened.erase(file);
  }
  const int result = next<int(int)>("close")(file);
  if (verdict != Verdict::fail) return result;
  errno = error;
  return -1;
}

ssize_t write(int file, const void* bytes, size_t count) {
  const Verdict verdict = judge("write", file);
  if (verdict == Verdict::fail) return -1;
  return next<ssize_t(int, const void*, size_t)>("write")(
      file, bytes, verdict == Verdict::shorten ? (count + 1) / 2 : count);
}

ssize_t pwrite(int file, const void* bytes, size_t count, off_t at) {
  const Verdict verdict = judge("pwrite", file);
  if (verdict == Verdict::fail) return -1;
  return next<ssize_t(int, const void*, size_t, off_t)>("pwrite")(
      file, bytes, verdict == Verdict::shorten ? (count + 1) / 2 : count, at);
}

int fsync(int file) {
  return judge("fsync", file) == Verdict::fail ? -1 : next<int(int)>("fsync")(file);
}

int rename(const char* from, const char* to) noexcept {
  if (judge("rename", std::string(to)) == Verdict::fail) return -1;
  return next<int(const char*, const char*)>("rename")(from, to);
}

int unlink(const char* path) noexcept {
  return judge("unlink", std::string(path)) == Verdict::fail
             ? -1
             : next<int(const char*)>("unlink")(path);
}

int remove(const char* path) noexcept {
  return judge("remove", std::string(path)) == Verdict::fail
             ? -1
             : next<int(const char*)>("remove")(path);
}

int mkdir(const char* path, mode_t mode) noexcept {
  return judge("mkdir", std::string(path)) == Verdict::fail
             ? -1
             : next<int(const char*, mode_t)>("mkdir")(path, mode);
}

int pthread_create(pthread_t* thread, const pthread_attr_t* attributes, void* (*work)(void*),
                   void* argument) noexcept {
  if (judge("pthread_create", std::string(kThreads)) == Verdict::fail) return errno;
  return next<int(pthread_t*, const pthread_attr_t*, void* (*)(void*), void*)>("pthread_create")(
      thread, attributes, work, argument);
}

}  // extern "C"
