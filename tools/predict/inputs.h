// Which images a command line means: files, folders, patterns, and lists on standard input.
#pragma once

#include <iosfwd>
#include <string>
#include <string_view>
#include <vector>

#include "io/data/dataset.h"

namespace engine {

struct Inputs {
  Dataset data;                        // in the order of the arguments; no labels
  std::vector<FileCount> files;        // of the folders that hold files beside their images
  std::vector<std::string> unmatched;  // patterns that no file matches
};

// An argument is a file, a folder, whose images are taken as list_images() does, a pattern of
// glob(7), if no file has that name, or "-". Files need not exist: who reads them names those that
// do not. "-" takes paths of files and folders from `list`, split_paths() of it, and may stand
// there once. Error(data) if there is nothing to read at all.
Inputs find_inputs(const std::vector<std::string>& arguments, std::istream& list);

// A list with NUL bytes has one behind each path, as `find -print0` writes it; else each line is a
// path, and a carriage return at its end is none of it. Empty ones are left out.
std::vector<std::string> split_paths(std::string_view list);

}  // namespace engine
