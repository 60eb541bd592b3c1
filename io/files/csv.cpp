#include "io/files/csv.h"

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <fstream>
#include <optional>

#include "engine/error.h"

namespace engine {
namespace {

constexpr size_t kMostRow = size_t{1} << 20;  // bytes
constexpr size_t kMostColumns = 10'000;

class CsvReader {
 public:
  // `line` is where the text begins in its file.
  CsvReader(std::string_view text, std::string_view name, int line = 1)
      : text_(text), name_(name), line_(line) {
    if (line == 1 && text_.starts_with("\xEF\xBB\xBF")) text_.remove_prefix(3);
  }

  bool done() const { return text_.empty(); }
  int line() const { return line_; }

  CsvRow row() {
    CsvRow row{.line = line_};
    do {
      require(row.fields.size() < kMostColumns, "more than 10,000 columns");
      row.fields.push_back(field());
    } while (take_if(','));
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
    require(taken != 0, "a NUL byte; of text, only UTF-8 is read, not UTF-16");
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
        require(text_.front() != '\r', "a carriage return without a line feed, which ends no line");
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

// The rows of a file as text, with no more of it in memory than one of them.
class RowSource {
 public:
  RowSource(const std::filesystem::path& path, std::string name) : name_(std::move(name)) {
    std::error_code problem;
    const bool regular = std::filesystem::is_regular_file(path, problem);
    require(!problem, Failure::data, "{}: {}", name_, problem.message());
    require(regular, Failure::data, "{}: not a file", name_);
    file_.open(path, std::ios::binary);
    require(file_.is_open(), Failure::data, "{}: {}", name_, std::strerror(errno));
  }

  // The row that begins in that line, with its line end; empty at the end of the file.
  std::string_view next(int line) {
    begin_ = end_;
    bool quoted = false;
    for (bool ended = false; !ended; ++end_) {
      if (end_ == text_.size() && !read_on()) break;
      require(end_ - begin_ < kMostRow, Failure::data, "{}, line {}: a row of more than {} bytes{}",
              name_, line, kMostRow, quoted ? "; a quote in it is not closed" : "");
      if (text_[end_] == '"') quoted = !quoted;
      ended = text_[end_] == '\n' && !quoted;
    }
    return std::string_view(text_).substr(begin_, end_ - begin_);
  }

 private:
  // False at the end of the file. The rows before this one are dropped.
  bool read_on() {
    constexpr size_t kPiece = 1 << 16;
    text_.erase(0, begin_);
    end_ -= begin_;
    begin_ = 0;
    text_.resize(end_ + kPiece);
    file_.read(text_.data() + end_, kPiece);
    require(!file_.bad(), Failure::data, "{}: cannot be read to its end", name_);
    text_.resize(end_ + static_cast<size_t>(file_.gcount()));
    return text_.size() > end_;
  }

  std::string name_, text_;
  std::ifstream file_;
  size_t begin_ = 0, end_ = 0;  // of the row that was given out last, in text_
};

// Puts rows together; the first one is the header.
class CsvBuilder {
 public:
  CsvBuilder(std::string_view name, const KeepColumn& keep) : name_(name), keep_(keep) {}

  void add(CsvRow row) {
    if (!columns_) return set_header(std::move(row.fields));
    if (row.fields.size() == 1 && row.fields[0].empty()) return;
    require(row.fields.size() == *columns_, Failure::data,
            "{}, line {}: {} fields, the header has {}", name_, row.line, row.fields.size(),
            *columns_);
    if (kept_.size() < *columns_) {
      std::vector<std::string> fields;
      for (const size_t column : kept_) fields.push_back(std::move(row.fields[column]));
      row.fields = std::move(fields);
    }
    csv_.rows.push_back(std::move(row));
  }

  Csv finish() {
    require(columns_.has_value(), Failure::data, "{}: the file is empty", name_);
    csv_.name = name_;
    return std::move(csv_);
  }

 private:
  void set_header(std::vector<std::string> names) {
    columns_ = names.size();
    for (size_t i = 0; i < names.size(); ++i) {
      const bool kept = !keep_ || keep_(names[i]);
      if (kept) kept_.push_back(i);
      (kept ? csv_.header : csv_.passed_over).push_back(std::move(names[i]));
    }
  }

  std::string_view name_;
  const KeepColumn& keep_;
  std::optional<size_t> columns_;
  std::vector<size_t> kept_;
  Csv csv_;
};

}  // namespace

int Csv::column(std::string_view name) const {
  const auto found = std::ranges::find(header, name);
  require(std::ranges::count(header, name) < 2, Failure::data, "{}: two columns are called {}",
          this->name, name);
  return found == header.end() ? -1 : static_cast<int>(found - header.begin());
}

Csv parse_csv(std::string_view text, std::string_view name) {
  const KeepColumn all;
  CsvBuilder builder(name, all);
  CsvReader reader(text, name);
  while (!reader.done()) builder.add(reader.row());
  return builder.finish();
}

Csv read_csv(const std::filesystem::path& file, const KeepColumn& keep) {
  const std::string name = file.string();
  RowSource source(file, name);
  CsvBuilder builder(name, keep);
  int line = 1;
  for (std::string_view text = source.next(line); !text.empty(); text = source.next(line)) {
    CsvReader reader(text, name, line);
    if (reader.done()) break;  // nothing but a byte order mark
    builder.add(reader.row());
    line = reader.line();
  }
  return builder.finish();
}

std::string csv_field(std::string_view text) {
  if (text.find_first_of(",\"\r\n") == std::string_view::npos) return std::string(text);
  std::string quoted = "\"";
  for (const char c : text) quoted += c == '"' ? std::string("\"\"") : std::string(1, c);
  return quoted + '"';
}

}  // namespace engine
