// One file from a web server, through libcurl.
#include "io/download/module.h"

#include <curl/curl.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <string_view>

#include "engine/error.h"
#include "io/files/descriptor.h"

namespace engine::download_module {
namespace {

namespace fs = std::filesystem;

constexpr long kConnectSeconds = 20, kSilentSeconds = 60, kMostRedirects = 10;
constexpr long kPartial = 206, kBeyondTheEnd = 416;  // HTTP status codes

struct Free {
  void operator()(CURL* curl) const { curl_easy_cleanup(curl); }
};
using Curl = std::unique_ptr<CURL, Free>;

// One connection: what the callbacks share.
struct Transfer {
  CURL* curl = nullptr;
  int file = -1;
  int64_t end = 0;       // of what is in the file
  bool arrived = false;  // something of the body
  int write_error = 0;
  const DownloadOptions* options = nullptr;

  long status() const {
    long code = 0;
    curl_easy_getinfo(curl, CURLINFO_RESPONSE_CODE, &code);
    return code;
  }
};

size_t write_body(const char* data, size_t, size_t count, void* user) {
  Transfer& transfer = *static_cast<Transfer*>(user);
  if (!transfer.arrived && transfer.status() != kPartial) {  // the whole file
    if (ftruncate(transfer.file, 0) != 0) return transfer.write_error = errno, 0;
    transfer.end = 0;
  }
  transfer.arrived = true;
  for (size_t done = 0; done < count;) {
    const ssize_t n = pwrite(transfer.file, data + done, count - done, transfer.end);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return transfer.write_error = errno, 0;
    done += static_cast<size_t>(n);
    transfer.end += n;
  }
  return count;
}

// What is still to come is in `total` and `now`; the end counts what was there before, too.
int report(void* user, curl_off_t total, curl_off_t now, curl_off_t, curl_off_t) {
  const Transfer& transfer = *static_cast<const Transfer*>(user);
  if (transfer.options->stop && transfer.options->stop()) return 1;
  if (transfer.options->progress && transfer.arrived)
    transfer.options->progress(transfer.end, total > 0 ? transfer.end - now + total : 0);
  return 0;
}

// The certificates of authorities: Debian's place, which libcurl was built for, then those of other
// distributions, on which our program runs as well.
std::string certificates() {
  if (const char* own = std::getenv("SSL_CERT_FILE"); own && *own) return own;
  for (const char* place :
       {"/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt",
        "/etc/ssl/ca-bundle.pem", "/etc/ssl/cert.pem"})
    if (access(place, R_OK) == 0) return place;
  return "";
}

Curl connection(const std::string& url, Transfer& transfer, char* reason) {
  Curl curl(curl_easy_init());
  require(curl != nullptr, Failure::internal, "libcurl does not start");
  transfer.curl = curl.get();
  const auto set = [&](CURLoption option, auto value) {
    const CURLcode code = curl_easy_setopt(curl.get(), option, value);
    require(code == CURLE_OK, Failure::network, "{}: {}", url, curl_easy_strerror(code));
  };
  const char* protocols = url.starts_with("https:") ? "https" : "http,https";
  set(CURLOPT_URL, url.c_str());
  set(CURLOPT_PROTOCOLS_STR, protocols);
  set(CURLOPT_REDIR_PROTOCOLS_STR, protocols);
  set(CURLOPT_FOLLOWLOCATION, 1L);
  set(CURLOPT_MAXREDIRS, kMostRedirects);
  set(CURLOPT_FAILONERROR, 1L);
  set(CURLOPT_NOSIGNAL, 1L);
  set(CURLOPT_CONNECTTIMEOUT, kConnectSeconds);
  set(CURLOPT_LOW_SPEED_LIMIT, 1L);
  set(CURLOPT_LOW_SPEED_TIME, kSilentSeconds);
  set(CURLOPT_USERAGENT, "engine");
  set(CURLOPT_ERRORBUFFER, reason);
  set(CURLOPT_WRITEFUNCTION, write_body);
  set(CURLOPT_WRITEDATA, static_cast<void*>(&transfer));
  set(CURLOPT_NOPROGRESS, 0L);
  set(CURLOPT_XFERINFOFUNCTION, report);
  set(CURLOPT_XFERINFODATA, static_cast<void*>(&transfer));
  if (const std::string file = certificates(); !file.empty()) set(CURLOPT_CAINFO, file.c_str());
  if (transfer.end > 0) set(CURLOPT_RANGE, fmt::format("{}-", transfer.end).c_str());
  return curl;
}

// Whether the connection broke in a way that another may not. Where none came about in time,
// another would only take as long.
bool broke(CURLcode code, const Transfer& transfer) {
  return code == CURLE_PARTIAL_FILE || code == CURLE_RECV_ERROR || code == CURLE_GOT_NOTHING ||
         (code == CURLE_OPERATION_TIMEDOUT && transfer.arrived) || code == CURLE_HTTP2_STREAM ||
         code == CURLE_HTTP2;
}

Descriptor open_for_writing(const fs::path& path) {
  Descriptor file(open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0666));
  require(file.value() >= 0, Failure::data, "{}: {}", path.string(), std::strerror(errno));
  return file;
}

int64_t size_of(int file, const fs::path& path) {
  struct stat facts {};
  require(fstat(file, &facts) == 0, Failure::data, "{}: {}", path.string(), std::strerror(errno));
  return facts.st_size;
}

// Returns whether the file came to its end; false where another attempt may bring the rest.
bool attempt(const std::string& url, const fs::path& path, const DownloadOptions& options,
             bool last) {
  const Descriptor file = open_for_writing(path);
  Transfer transfer{.file = file.value(), .end = size_of(file.value(), path), .options = &options};
  std::array<char, CURL_ERROR_SIZE> reason{};
  const Curl curl = connection(url, transfer, reason.data());
  const CURLcode code = curl_easy_perform(curl.get());
  if (code == CURLE_OK || transfer.status() == kBeyondTheEnd) return true;
  require(code != CURLE_ABORTED_BY_CALLBACK, Failure::preempted,
          "stopped while fetching {}; what came of it is kept", url);
  require(transfer.write_error == 0, Failure::data, "{}: {}", path.string(),
          std::strerror(transfer.write_error));
  if (!last && broke(code, transfer)) return false;
  fail(Failure::network, "{}: {}", url, reason[0] ? reason.data() : curl_easy_strerror(code));
}

void download(const std::string& url, const fs::path& path, const DownloadOptions& options) {
  for (int i = 1; !attempt(url, path, options, i >= options.attempts); ++i) {
  }
}

}  // namespace
}  // namespace engine::download_module

extern "C" const engine::download_module::Module* engine_download_module() {
  using namespace engine::download_module;
  static const Module module{download};
  return &module;
}
