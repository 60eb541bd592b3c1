// Files from web servers, through libcurl: HTTPS with the system's certificates ($SSL_CERT_FILE
// names others), redirects, and the proxies of the environment ($https_proxy, $no_proxy, …).
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <string>

namespace engine {

struct DownloadOptions {
  // Told the bytes that are there and those of the whole file; 0 where the server does not say.
  std::function<void(int64_t done, int64_t whole)> progress;
  std::function<bool()> stop;  // asked often; says whether to give up
  int attempts = 5;            // as often as a connection may break
};

// Fetches `url` into `path`. Bytes that are there already are taken for the beginning of the file,
// which the server is asked to go on after; where it sends the whole file, they are replaced. A
// connection that breaks is taken up again. An https address leads to no other kind. What arrived
// stays whatever happens, and only a checksum tells whether it is what was wanted. Error(network)
// with libcurl's reason or the server's status, Error(data) where the file cannot be written,
// Error(preempted) where `stop` said so.
void download(const std::string& url, const std::filesystem::path& path,
              const DownloadOptions& options = {});

}  // namespace engine
