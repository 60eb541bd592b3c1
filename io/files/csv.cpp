#include "io/files/csv.h"

#include <algorithm>

#include "engine/error.h"
#include "io/files/bytes.h"

namespace engine {
namespace {

class CsvReader {
 public:
  CsvReader(std::string_view text, std::string_view name) : text_(text), name_(name) {
    if (text_.starts_with("\xEF\xBB\xBF")) text_.remove_prefix(3);
  }

  bool done() const { return text_.empty(); }

  CsvRow row() {
    CsvRow row{.line = line_};
    do row.fields.push_back(field());
    while (take_if(','));
    const bool ended = take_if('\n') || done();
    require(ended, "text behind a closing quote");
    return row;
  }

 private:
  void require(bool condition, const char* what) const {
    engine::require(condition, Failure::data, "{}, line {}: {}", name_, line_, what);
  }

  // Takes the next character if it is the wanted one; '\n' stands for both kinds of line end.
  bool take_if(char wanted) {
    if (done()) return false;
    const bool windows = wanted == '\n' && text_.starts_with("\r\n");
    if (!windows && text_.front() != wanted) return false;
    text_.remove_prefix(windows ? 2 : 1);
    if (wanted == '\n') ++line_;
    return true;
  }

  char take_byte() {
    const char taken = text_.front();
    text_.remove_prefix(1);
    if (taken == '\n') ++line_;
    return taken;
  }

  std::string field() {
    std::string value;
    if (!take_if('"')) {
      while (!done() && text_.front() != ',' && text_.front() != '\n' &&
             !text_.starts_with("\r\n")) {
        require(text_.front() != '"', "a quote inside a field that does not begin with one");
        value += take_byte();
      }
      return value;
    }
    const int began = line_;
    for (;;) {
      engine::require(!done(), Failure::data, "{}, line {}: a quote is never closed", name_, began);
      if (!take_if('"'))
        value += take_byte();
      else if (take_if('"'))
        value += '"';  // a doubled quote stands for one
      else
        return value;
    }
  }

  std::string_view text_, name_;
  int line_ = 1;
};

}  // namespace

int Csv::column(std::string_view name) const {
  const auto found = std::ranges::find(header, name);
  return found == header.end() ? -1 : static_cast<int>(found - header.begin());
}

Csv parse_csv(std::string_view text, std::string_view name) {
  CsvReader reader(text, name);
  require(!reader.done(), Failure::data, "{}: the file is empty", name);
  Csv csv{.header = reader.row().fields};
  while (!reader.done()) {
    CsvRow row = reader.row();
    if (row.fields.size() == 1 && row.fields[0].empty()) continue;
    require(row.fields.size() == csv.header.size(), Failure::data,
            "{}, line {}: {} fields, the header has {}", name, row.line, row.fields.size(),
            csv.header.size());
    csv.rows.push_back(std::move(row));
  }
  return csv;
}

Csv read_csv(const std::filesystem::path& file) {
  return parse_csv(as_text(read_file(file)), file.string());
}

std::string csv_field(std::string_view text) {
  if (text.find_first_of(",\"\r\n") == std::string_view::npos) return std::string(text);
  std::string quoted = "\"";
  for (const char c : text) quoted += c == '"' ? std::string("\"\"") : std::string(1, c);
  return quoted + '"';
}

}  // namespace engine
