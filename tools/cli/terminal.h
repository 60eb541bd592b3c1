// What the program knows of the terminal it writes to. Human text goes to stderr, data to stdout.
#pragma once

#include <cstdio>
#include <string>
#include <string_view>

namespace engine {

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

// Makes sure that what was printed to stdout arrived; throws Error(internal), for instance when a
// disk is full.
void flush_stdout();

}  // namespace engine
