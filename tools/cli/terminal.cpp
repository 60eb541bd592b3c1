#include "tools/cli/terminal.h"

#include <fcntl.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <cerrno>
#include <csignal>
#include <cstdlib>
#include <cstring>

#include "engine/error.h"

namespace engine {
namespace {

ColourMode colour_mode = ColourMode::automatic;
bool silent = false;

std::string_view environment(const char* name) {
  const char* value = std::getenv(name);
  return value ? value : "";
}

}  // namespace

void secure_standard_streams() {
  // A descriptor that is opened gets the lowest free number.
  for (int stream : {STDIN_FILENO, STDOUT_FILENO, STDERR_FILENO})
    if (fcntl(stream, F_GETFD) < 0 && open("/dev/null", O_RDWR) < 0) _exit(1);
  for (const int fatal : {SIGPIPE, SIGXFSZ}) std::signal(fatal, SIG_IGN);
}

bool can_rewrite(std::FILE* stream) {
  return isatty(fileno(stream)) == 1 && environment("TERM") != "dumb";
}

int terminal_width(std::FILE* stream) {
  winsize size{};
  return ioctl(fileno(stream), TIOCGWINSZ, &size) == 0 && size.ws_col > 0 ? size.ws_col : 80;
}

void set_colour(ColourMode mode) {
  colour_mode = mode;
}

bool use_colour(std::FILE* stream) {
  if (colour_mode != ColourMode::automatic) return colour_mode == ColourMode::always;
  const std::string_view force = environment("CLICOLOR_FORCE");
  if (!force.empty() && force != "0") return true;
  return environment("NO_COLOR").empty() && can_rewrite(stream);
}

std::string paint(std::string_view text, Colour colour, std::FILE* stream) {
  if (!use_colour(stream)) return std::string(text);
  const char* code = colour == Colour::red ? "31" : colour == Colour::yellow ? "33" : "1";
  return fmt::format("\x1b[{}m{}\x1b[0m", code, text);
}

void say(std::string_view line) {
  if (!silent) say_error(line);
}

void fall_silent() {
  silent = true;
}

bool is_silent() {
  return silent;
}

void say_error(std::string_view line) {
  write_to_stderr(fmt::format("{}\n", line));
}

void write_to_stderr(std::string_view text) {
  std::fwrite(text.data(), 1, text.size(), stderr);
  std::fflush(stderr);
}

void flush_stdout() {
  if (std::fflush(stdout) != 0 || std::ferror(stdout)) fail_stdout();
}

void fail_stdout() {
  if (errno == EPIPE) {
    std::signal(SIGPIPE, SIG_DFL);
    std::raise(SIGPIPE);
  }
  fail(Failure::internal, "cannot write to stdout: {}", std::strerror(errno));
}

}  // namespace engine
