#include "tools/bench/reference_file.h"

#include <charconv>

#include "engine/error.h"

namespace engine {

std::vector<double> as_doubles(const Tensor& tensor) {
  const Tensor converted = convert(tensor, DType::f64);
  return {converted.as<double>().begin(), converted.as<double>().end()};
}

const std::string& ReferenceFile::text(const std::string& key) const {
  const auto it = file_.metadata.find(key);
  require(it != file_.metadata.end(), Failure::data, "the reference has no {} in its metadata",
          key);
  return it->second;
}

int ReferenceFile::number(const std::string& key) const {
  const std::vector<double> all = numbers(key);
  require(all.size() == 1 && all[0] == static_cast<int>(all[0]), Failure::data,
          "the reference's {} is no integer: {}", key, text(key));
  return static_cast<int>(all[0]);
}

std::vector<double> ReferenceFile::numbers(const std::string& key) const {
  const std::string& list = text(key);
  std::vector<double> all;
  for (const char *at = list.data(), *end = at + list.size(); at < end; ++at) {
    const auto [next, error] = std::from_chars(at, end, all.emplace_back());
    require(error == std::errc() && (next == end || *next == ','), Failure::data,
            "the reference's {} is {}", key, list);
    at = next;
  }
  return all;
}

const Tensor* ReferenceFile::find(const std::string& name) const {
  const auto it = file_.tensors.find(name);
  return it == file_.tensors.end() ? nullptr : &it->second;
}

std::vector<double> ReferenceFile::values(const std::string& name) const {
  const Tensor* tensor = find(name);
  require(tensor, Failure::data, "the reference has no tensor {}", name);
  return as_doubles(*tensor);
}

}  // namespace engine
