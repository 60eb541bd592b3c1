// Published files through a web server: whole, cut, resumed, wrong, missing, elsewhere, to where
// nothing can be written, by two processes at once, and with no server at all.
#include "io/weights/fetch.h"

#include <doctest/doctest.h>
#include <fmt/format.h>
#include <linux/capability.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdio>
#include <fstream>
#include <functional>
#include <iterator>

#include "engine/error.h"
#include "io/files/bytes.h"
#include "io/files/checksum.h"
#include "tests/io/files/http_server.h"
#include "tests/support.h"

using namespace engine;
using namespace engine::test;
namespace fs = std::filesystem;

namespace {

// Two megabytes, so that curl hands them over in many parts.
std::string contents() {
  std::string text;
  for (int i = 0; text.size() < 2'000'000; ++i) text += fmt::format("{} ", i);
  return text;
}

ManifestEntry entry_of(const std::string& text, const std::string& url) {
  return {.names = {"weights.pth"}, .source = url, .sha256 = sha256(as_bytes(text))};
}

// A cache folder, and what was said.
struct Cache {
  TemporaryFolder parent;
  fs::path folder = parent.path() / "cache";
  std::vector<std::string> said;

  fs::path fetch(const ManifestEntry& entry) {
    return fetch_weights(entry, folder,
                         {.say = [this](const std::string& line) { said.push_back(line); }});
  }
  fs::path operator/(const char* name) const { return folder / name; }
  size_t files() const {
    return static_cast<size_t>(
        std::distance(fs::directory_iterator(folder), fs::directory_iterator()));
  }
};

const std::string kText = contents();

pid_t start_child(const std::function<int()>& action) {
  const pid_t child = fork();
  REQUIRE(child >= 0);
  if (child != 0) return child;
  try {
    _exit(action());
  } catch (const std::exception& problem) {
    std::fprintf(stderr, "%s\n", problem.what());
    _exit(1);
  }
}

int code_of(pid_t child) {
  int status = -1;
  REQUIRE(waitpid(child, &status, 0) == child);
  return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

// From here on permissions count for root, too.
void give_up_privileges() {
  __user_cap_header_struct header{_LINUX_CAPABILITY_VERSION_3, 0};
  const __user_cap_data_struct none[_LINUX_CAPABILITY_U32S_3]{};
  require(syscall(SYS_capset, &header, none) == 0, Failure::internal, "capset fails");
}

}  // namespace

TEST_CASE("a whole file is fetched once, through redirects, and told in bytes") {
  const HttpServer server([](const HttpRequest& request) {
    if (request.path == "/moved") return HttpReply{.status = 302, .body = "", .location = "/file"};
    return HttpReply{.body = kText};
  });
  Cache cache;
  const ManifestEntry entry = entry_of(kText, server.url("/moved"));
  int64_t done = 0, whole = 0;
  const fs::path file =
      fetch_weights(entry, cache.folder, {.progress = [&](int64_t now, int64_t all) {
                      CHECK(now >= done);
                      done = now, whole = all;
                    }});
  CHECK(file == cache / "weights.pth");
  CHECK(read(file) == kText);
  CHECK(done == int64_t(kText.size()));
  CHECK(whole == int64_t(kText.size()));
  CHECK(cache.files() == 1);
  CHECK(cache.fetch(entry) == file);
  CHECK(server.requests().size() == 2);
}

TEST_CASE("a connection that breaks is taken up where it broke") {
  int answered = 0;
  const HttpServer server([&](const HttpRequest&) {
    return HttpReply{.body = kText, .cut_after = ++answered < 3 ? 700'000 : std::string::npos};
  });
  Cache cache;
  CHECK(read(cache.fetch(entry_of(kText, server.url("/")))) == kText);
  const auto requests = server.requests();
  REQUIRE(requests.size() == 3);
  CHECK(requests[0].from == 0);
  CHECK(requests[1].from == 700'000);
  CHECK(requests[2].from == 1'400'000);
}

TEST_CASE("a server that cuts every connection is named, and the next call goes on") {
  bool sound = false;
  const HttpServer server([&](const HttpRequest&) {
    return HttpReply{.body = kText, .cut_after = sound ? std::string::npos : 100'000};
  });
  Cache cache;
  const ManifestEntry entry = entry_of(kText, server.url("/"));
  const std::string message = message_of([&] { cache.fetch(entry); }, Failure::network);
  CHECK(mentions(message, server.url("/")));
  CHECK(mentions(message, (cache / "weights.pth").string()));
  CHECK(fs::file_size(cache / "weights.pth.part") == 500'000);
  CHECK_FALSE(fs::exists(cache / "weights.pth"));
  sound = true;
  CHECK(read(cache.fetch(entry)) == kText);
  CHECK(server.requests().back().from == 500'000);
}

TEST_CASE("where a server knows no ranges the file is sent anew") {
  const HttpServer server(
      [](const HttpRequest&) { return HttpReply{.body = kText, .ranges = false}; });
  Cache cache;
  fs::create_directories(cache.folder);
  write_text(cache / "weights.pth.part", kText.substr(0, 1000));
  CHECK(read(cache.fetch(entry_of(kText, server.url("/")))) == kText);
  CHECK(server.requests().size() == 1);
}

TEST_CASE("a beginning of another file costs one more download, which is said") {
  const HttpServer server([](const HttpRequest&) { return HttpReply{.body = kText}; });
  for (const size_t size : {size_t(1000), kText.size() + 10}) {  // the latter: 416
    Cache cache;
    fs::create_directories(cache.folder);
    write_text(cache / "weights.pth.part", std::string(size, 'x'));
    CHECK(read(cache.fetch(entry_of(kText, server.url("/")))) == kText);
    REQUIRE(cache.said.size() == 1);
    CHECK(mentions(cache.said[0], "deleted"));
  }
}

TEST_CASE("wrong bytes are deleted, and that is said") {
  const HttpServer server([](const HttpRequest&) { return HttpReply{.body = "other bytes"}; });
  Cache cache;
  const ManifestEntry entry = entry_of(kText, server.url("/"));
  CHECK(mentions(message_of([&] { cache.fetch(entry); }, Failure::weights), "not the file"));
  REQUIRE(cache.said.size() == 1);
  CHECK(mentions(cache.said[0], sha256(as_bytes(std::string("other bytes")))));
  CHECK(mentions(cache.said[0], entry.sha256));
  CHECK(cache.files() == 0);
}

TEST_CASE("a file of the cache that was damaged is fetched again") {
  const HttpServer server([](const HttpRequest&) { return HttpReply{.body = kText}; });
  Cache cache;
  fs::create_directories(cache.folder);
  write_text(cache / "weights.pth", "damaged");
  CHECK(read(cache.fetch(entry_of(kText, server.url("/")))) == kText);
  REQUIRE(cache.said.size() == 1);
  CHECK(mentions(cache.said[0], "deleted"));
}

TEST_CASE("the first digits of a checksum are compared where no others are published") {
  const HttpServer server([](const HttpRequest&) { return HttpReply{.body = kText}; });
  Cache cache;
  ManifestEntry entry = entry_of(kText, server.url("/"));
  entry.sha256.resize(8);
  CHECK(read(cache.fetch(entry)) == kText);
  entry.sha256 = "00000000";
  message_of([&] { cache.fetch(entry); }, Failure::weights);
  CHECK(cache.files() == 0);
  entry.sha256.clear();
  CHECK(mentions(message_of([&] { cache.fetch(entry); }, Failure::weights), "no checksum"));
}

TEST_CASE("a file that is not there, and no server, are named with where the file belongs") {
  const HttpServer server(
      [](const HttpRequest&) { return HttpReply{.status = 404, .body = "there is no such file"}; });
  Cache cache;
  const std::string missing =
      message_of([&] { cache.fetch(entry_of(kText, server.url("/gone"))); }, Failure::network);
  CHECK(mentions(missing, "404"));
  CHECK(mentions(missing, server.url("/gone")));
  CHECK(mentions(missing, (cache / "weights.pth").string()));
  const std::string nobody = fmt::format("http://127.0.0.1:{}/", closed_port());
  const std::string offline =
      message_of([&] { cache.fetch(entry_of(kText, nobody)); }, Failure::network);
  CHECK(mentions(offline, nobody));
  CHECK(mentions(offline, (cache / "weights.pth").string()));
}

TEST_CASE("a request to stop keeps what has arrived") {
  const HttpServer server([](const HttpRequest&) { return HttpReply{.body = kText}; });
  const Cache cache;
  int64_t arrived = 0;
  const FetchOptions options{.progress = [&](int64_t done, int64_t) { arrived = done; },
                             .stop = [&] { return arrived > 0; }};
  message_of([&] { fetch_weights(entry_of(kText, server.url("/")), cache.folder, options); },
             Failure::preempted);
  CHECK(fs::exists(cache / "weights.pth.part"));
}

TEST_CASE("a cache that cannot be written serves what it has, and says so of the rest") {
  const HttpServer server([](const HttpRequest&) { return HttpReply{.body = kText}; });
  const ManifestEntry entry = entry_of(kText, server.url("/"));
  Cache cache;
  cache.fetch(entry);
  fs::permissions(cache.folder, fs::perms(0555));
  CHECK(code_of(start_child([&] {
          give_up_privileges();
          if (fetch_weights(entry, cache.folder) != cache / "weights.pth") return 2;
          ManifestEntry other = entry;
          other.names = {"other.pth"};
          try {
            fetch_weights(other, cache.folder);
          } catch (const Error& error) {
            const bool helps =
                std::string(error.what()).find("ENGINE_CACHE_DIR") != std::string::npos;
            return error.kind == Failure::data && helps ? 0 : 3;
          }
          return 4;
        })) == 0);
  CHECK(server.requests().size() == 1);
}

TEST_CASE("of two processes one fetches, and the other waits for it") {
  const HttpServer server([](const HttpRequest&) { return HttpReply{.body = kText}; });
  const ManifestEntry entry = entry_of(kText, server.url("/"));
  const Cache cache;
  const auto fetch = [&] {
    return fetch_weights(entry, cache.folder) == cache / "weights.pth" ? 0 : 2;
  };
  const pid_t first = start_child(fetch), second = start_child(fetch);
  CHECK(code_of(first) == 0);
  CHECK(code_of(second) == 0);
  CHECK(server.requests().size() == 1);
  CHECK(read(cache / "weights.pth") == kText);
  CHECK(cache.files() == 1);
}

TEST_CASE("names mean published files") {
  const auto manifest = read_manifest(ENGINE_SOURCE_DIR "/weights/manifest.json");
  const auto found = [&](const char* name, const char* model) {
    const ManifestEntry* entry = find_entry(manifest, name, model);
    return entry ? entry->names.front() : "";
  };
  const std::string b3 = "efficientnet_b3_rwightman-b3899882.pth";
  CHECK(found("imagenet", "efficientnet_b3") == b3);
  CHECK(found("efficientnet_b3", "") == b3);
  CHECK(found("efficientnet_b3_rwightman-cf984f9c.pth", "") == b3);
  CHECK(found("efficientnet_b3_rwightman", "") == b3);
  CHECK(found("efficientnet_b3_ra2", "efficientnet_b3") == "efficientnet_b3_ra2-cf984f9c.pth");
  CHECK(found("imagenet", "mnist_cnn").empty());
  CHECK(found("imagenet", "").empty());
  CHECK(found("efficientnet", "").empty());
  for (const ManifestEntry& entry : manifest) {
    INFO(entry.names.front());
    CHECK(entry.source.starts_with("https://"));
    CHECK(entry.source.ends_with(entry.names.front()));
    CHECK(entry.sha256.size() >= 8);
    CHECK(entry.names.front().find(entry.sha256.substr(0, 8)) != std::string::npos);
    const ManifestEntry* itself = find_entry(manifest, entry.names.front(), entry.model);
    CHECK(itself == &entry);
  }
}
