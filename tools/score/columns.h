// Columns of a file of labels, for tables of how images of one kind fare: by sex, by age.
#pragma once

#include <span>
#include <string>
#include <vector>

#include "io/data/dataset.h"
#include "tools/data/image_sets.h"

namespace engine {

struct Column {
  std::string name;
  std::vector<std::string> values;  // of each sample of a data set; empty: the file says nothing
  std::vector<std::string> order;   // the different values, as they are shown; the empty one last
};

// The columns of --labels that `names` lists with commas between, for the samples of a data set.
// Values that are all numbers stand in their order, and where there are more than 12 different
// ones, in four intervals that quartiles of the samples bound: "[5, 40)", …, "[70, 85]".
// Error(usage) names --by where there is no --labels, no such column, or a column of other texts
// has more than 50 different ones.
std::vector<Column> read_columns(const ImageSetOptions& options, const std::string& names,
                                 const Dataset& data);

// Puts the values of a column into order and, perhaps, into intervals, as read_columns() does.
void arrange(Column& column);

}  // namespace engine
