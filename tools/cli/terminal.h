// What the program knows of the terminal it writes to. Human text goes to stderr, data to stdout.
#pragma once

#include <cstdio>
#include <string>
#include <string_view>

namespace engine {

// At the start of the program: opens the standard streams that its caller has closed on /dev/null,
// so that no file gets their numbers and what is meant for a reader; and lets writing to a pipe
// that nobody reads, or beyond the largest file that `ulimit -f` allows, fail instead of ending the
// program.
void secure_standard_streams();

// Whether a line may be written over: a terminal, but not TERM=dumb.
bool can_rewrite(std::FILE* stream);

// Columns of a terminal; 80 if it does not say.
int terminal_width(std::FILE* stream);

enum class ColourMode { automatic, always, never };
void set_colour(ColourMode mode);  // for all that follows

// With ColourMode::automatic, CLICOLOR_FORCE says yes; else NO_COLOR, TERM=dumb or anything but a
// terminal says no.
bool use_colour(std::FILE* stream);

enum class Colour { red, yellow, bold };

// `text` in a colour if `stream` shows colours, else as it is.
std::string paint(std::string_view text, Colour colour, std::FILE* stream);

// A line of human text to stderr, unless another process speaks for this one.
void say(std::string_view line);
// From here on this process says nothing but why it fails.
void fall_silent();
bool is_silent();
void say_error(std::string_view line);
// Text to stderr. Where it cannot be written nothing happens: the work goes on unseen.
void write_to_stderr(std::string_view text);

// Makes sure that what was printed to stdout arrived, or calls fail_stdout().
void flush_stdout();
// Where a pipe's reader has gone, ends the program as SIGPIPE does; else, for instance when a disk
// is full, throws Error(internal).
[[noreturn]] void fail_stdout();

}  // namespace engine
