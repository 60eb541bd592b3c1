#include "io/data/pack.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstring>
#include <fstream>
#include <thread>

#include "engine/error.h"
#include "io/data/pack_format.h"
#include "io/files/checksum.h"
#include "io/images/decode.h"
#include "io/images/encode.h"
#include "tests/io/images/pillow.h"
#include "tests/support.h"

using namespace engine;
using namespace engine::test;
namespace fs = std::filesystem;

namespace {

constexpr PackSpec kSpec{.resize_height = 16};

void write(const fs::path& path, std::span<const std::byte> bytes) {
  std::ofstream(path, std::ios::binary)
      .write(reinterpret_cast<const char*>(bytes.data()), std::streamsize(bytes.size()));
}

// Pictures of several sizes, and the pack's sources.
struct Pictures {
  TemporaryFolder folder;
  std::vector<PackSource> sources;

  explicit Pictures(int count = 7) {
    for (int i = 0; i < count; ++i) {
      const fs::path path = folder.path() / (std::to_string(i) + ".png");
      write(path, encode_png(noise_image(20 + 3 * i, 31 - 2 * i, i == 3 ? 1 : 3, uint32_t(i))));
      sources.push_back({path.string()});
    }
  }
  fs::path pack() const { return folder.path() / "cache/pictures.pack"; }
};

Image copy(const ImageView& view) {
  Image image(view.width, view.height, view.channels);
  std::copy_n(view.pixels, view.bytes(), image.pixels.begin());
  return image;
}

void check_holds(const Pack& pack, const std::vector<PackSource>& sources, const PackSpec& spec) {
  REQUIRE(pack.size() == sources.size());
  for (size_t i = 0; i < sources.size(); ++i) {
    CAPTURE(i);
    const auto view = pack.image(i);
    REQUIRE(view.has_value());
    CHECK(same_pixels(copy(*view), pack_image(read_image(sources[i].path, spec.channels), spec)));
    CHECK(pack.record(i).offset % 64 == 0);
    CHECK(view->pixels == pack.pixels().data() + pack.record(i).offset);
  }
}

// Opens or builds the pack, checks it, and returns the lines that were said.
std::vector<std::string> news(const Pictures& pictures, PackSpec spec = kSpec) {
  std::vector<std::string> lines;
  const auto pack = open_or_build_pack(
      pictures.pack(), pictures.sources, spec,
      {.parallel = {.threads = 2}, .say = [&](std::string_view l) { lines.emplace_back(l); }});
  check_holds(*pack, pictures.sources, spec);
  return lines;
}

void overwrite(const fs::path& file, std::streamoff at, char value) {
  std::fstream out(file, std::ios::binary | std::ios::in | std::ios::out);
  out.seekp(at);
  out.put(value);
}

}  // namespace

TEST_CASE("XXH64 of known texts") {
  const auto hash = [](std::string_view text) { return xxh64(std::as_bytes(std::span(text))); };
  CHECK(hash("") == 0xEF46DB3751D8E999);
  CHECK(hash("a") == 0xD24EC4F1A98C6E5B);
  CHECK(hash("abc") == 0x44BC2CF5AD770999);
  CHECK(hash("Nobody inspects the spammish repetition") == 0xFBCEA83C8A378BF1);
}

TEST_CASE("a pack holds what decoding and resizing give, in memory and in a file") {
  const Pictures pictures;
  for (const PackSpec spec :
       {kSpec, PackSpec{.resize_height = 8, .resize_width = 12, .channels = 1},
        PackSpec{.interpolation = Interpolation::bicubic}})
    for (const int threads : {1, 4}) {
      const PackOptions options{.parallel = {.threads = threads}};
      check_holds(*build_pack(pictures.sources, spec, options), pictures.sources, spec);
      const auto file = open_or_build_pack(pictures.pack(), pictures.sources, spec, options);
      check_holds(*file, pictures.sources, spec);
      CHECK(file->file() == pictures.pack());
      check_holds(*open_pack(pictures.pack()), pictures.sources, spec);
    }
  CHECK_FALSE(fs::exists(pictures.pack().string() + ".tmp"));
}

TEST_CASE("a pack on disk is used again, and made anew when it cannot serve") {
  Pictures pictures;
  CHECK(news(pictures).empty());
  const auto written = fs::last_write_time(pictures.pack());
  CHECK(news(pictures).empty());
  CHECK(fs::last_write_time(pictures.pack()) == written);
  const auto anew = [&](const std::string& why, PackSpec spec = kSpec) {
    const auto lines = news(pictures, spec);
    REQUIRE(lines.size() == 1);
    CHECK(mentions(lines[0], why));
    CHECK(mentions(lines[0], "making it anew"));
    CHECK(news(pictures, spec).empty());
  };

  SUBCASE("fewer sources are served") {
    pictures.sources.erase(pictures.sources.begin() + 2, pictures.sources.end());
    const auto pack = open_or_build_pack(pictures.pack(), pictures.sources, kSpec, {});
    CHECK(pack->size() == 7);
  }
  SUBCASE("touched, with the same contents") {
    fs::last_write_time(pictures.sources[1].path, fs::file_time_type::clock::now());
    CHECK(news(pictures).empty());
  }
  SUBCASE("another file") {
    const fs::path more = pictures.folder.path() / "more.png";
    fs::copy_file(pictures.sources[0].path, more);
    pictures.sources.push_back({more.string()});
    anew("more.png is not in it");
  }
  SUBCASE("a file of another size") {
    write(pictures.sources[2].path, encode_png(noise_image(40, 40, 3, 9)));
    anew("2.png had");
  }
  SUBCASE("other contents of the same size") {
    const fs::path path = pictures.sources[4].path;
    Image image = read_image(path, 3);
    const auto size = fs::file_size(path);
    // The last bytes of a PNG file are the IEND chunk, and what follows it is ignored.
    std::ofstream(path, std::ios::app | std::ios::binary) << "1";
    fs::remove(pictures.pack());
    CHECK(news(pictures).empty());
    overwrite(path, std::streamoff(size), '2');
    fs::last_write_time(path, fs::last_write_time(path) + std::chrono::seconds(5));
    anew("4.png has changed");
  }
  SUBCASE("another spec") {
    anew("wanted is shorter side 20", {.resize_height = 20});
  }
  SUBCASE("truncated") {
    fs::resize_file(pictures.pack(), fs::file_size(pictures.pack()) - 1);
    anew("truncated");
    fs::resize_file(pictures.pack(), 100);
    anew("100 bytes");
    fs::resize_file(pictures.pack(), 0);
    anew("0 bytes");
  }
  SUBCASE("damaged header") {
    overwrite(pictures.pack(), 20, 1);
    anew("header is damaged");
  }
  SUBCASE("damaged index") {
    overwrite(pictures.pack(), std::streamoff(fs::file_size(pictures.pack()) - 3), '!');
    anew("index is damaged");
  }
  SUBCASE("another version, or no pack at all") {
    overwrite(pictures.pack(), 8, 99);
    anew("version 99");
    overwrite(pictures.pack(), 0, 'x');
    anew("not a pack");
  }
}

TEST_CASE("a damaged picture is noticed when it is asked for, and the file goes") {
  const Pictures pictures;
  CHECK(news(pictures).empty());
  auto pack = open_pack(pictures.pack());
  const auto at = std::streamoff(4096 + pack->record(5).offset + 7);
  overwrite(pictures.pack(), at, char(pack->image(5)->pixels[7] + 1));
  pack = open_pack(pictures.pack());
  CHECK(pack->image(4).has_value());
  CHECK(pack->damaged().empty());
  CHECK_FALSE(pack->image(5).has_value());
  CHECK_FALSE(pack->image(5).has_value());
  CHECK(pack->damaged() == std::vector<size_t>{5});
  CHECK_FALSE(fs::exists(pictures.pack()));
  CHECK(pack->image(6).has_value());  // the others are still mapped
  CHECK(news(pictures).empty());
}

TEST_CASE("a pack that is cut short while in use is an Error, not a crash") {
  const Pictures pictures;
  CHECK(news(pictures).empty());
  const auto pack = open_pack(pictures.pack());
  fs::resize_file(pictures.pack(), 4096);
  CHECK(mentions(message_of([&] { pack->image(3); }), "cut short"));
}

TEST_CASE("pictures that cannot be read end the making, or stay without pixels") {
  const Pictures pictures;
  fs::resize_file(pictures.sources[3].path, 50);
  fs::resize_file(pictures.sources[5].path, 0);
  PackOptions options{.parallel = {.threads = 1}};
  CHECK(mentions(
      message_of([&] { open_or_build_pack(pictures.pack(), pictures.sources, kSpec, options); }),
      "3.png"));
  CHECK_FALSE(fs::exists(pictures.pack()));
  CHECK_FALSE(fs::exists(pictures.pack().string() + ".tmp"));
  options.allow_unreadable = true;
  const auto pack = open_or_build_pack(pictures.pack(), pictures.sources, kSpec, options);
  for (size_t i = 0; i < pack->size(); ++i) CHECK(pack->image(i).has_value() == (i != 3 && i != 5));
  const uint64_t estimate = estimate_pack(pictures.sources, kSpec, {.threads = 1});
  CHECK(estimate > 0);
  CHECK(estimate_pack(pictures.sources, kSpec, {.threads = 3}) == estimate);
}

TEST_CASE("the making of a pack can be stopped and leaves nothing behind") {
  const Pictures pictures;
  std::atomic<size_t> done = 0;
  const PackOptions options{.parallel = {.threads = 2,
                                         .stop = [&] { return done >= 3; },
                                         .progress = [&](size_t now, size_t) { done = now; }}};
  message_of([&] { open_or_build_pack(pictures.pack(), pictures.sources, kSpec, options); },
             Failure::preempted);
  CHECK(done < pictures.sources.size());
  CHECK_FALSE(fs::exists(pictures.pack()));
  CHECK_FALSE(fs::exists(pictures.pack().string() + ".tmp"));
}

TEST_CASE("a process killed while it writes a pack harms nobody") {
  const Pictures pictures;
  const pid_t child = fork();
  REQUIRE(child >= 0);
  if (child == 0) {
    const PackOptions options{.parallel = {.progress = [](size_t done, size_t) {
                                if (done == 4) raise(SIGKILL);
                              }}};
    open_or_build_pack(pictures.pack(), pictures.sources, kSpec, options);
    _exit(0);
  }
  int status = 0;
  REQUIRE(waitpid(child, &status, 0) == child);
  CHECK(WIFSIGNALED(status));
  CHECK_FALSE(fs::exists(pictures.pack()));
  CHECK(fs::exists(pictures.pack().string() + ".tmp"));  // it died while it wrote
  CHECK(news(pictures).empty());
  CHECK_FALSE(fs::exists(pictures.pack().string() + ".tmp"));
}

TEST_CASE("a second writer waits, says so, and takes what the first one made") {
  const Pictures pictures;
  fs::create_directories(pictures.pack().parent_path());
  const std::string name = pictures.pack().string() + ".lock";
  const int lock = open(name.c_str(), O_RDWR | O_CREAT, 0666);
  REQUIRE(flock(lock, LOCK_EX) == 0);
  std::atomic<bool> waiting = false;
  std::atomic<size_t> made = 0;
  std::jthread second([&] {
    const PackOptions options{.parallel = {.progress = [&](size_t, size_t) { ++made; }},
                              .say = [&](std::string_view line) {
                                waiting = line.find("waiting for ") != std::string_view::npos;
                              }};
    open_or_build_pack(pictures.pack(), pictures.sources, kSpec, options);
  });
  while (!waiting) std::this_thread::yield();
  // What the first process would make, made elsewhere because the lock is taken.
  const fs::path elsewhere = pictures.folder.path() / "other.pack";
  open_or_build_pack(elsewhere, pictures.sources, kSpec, {});
  fs::rename(elsewhere, pictures.pack());
  close(lock);
  second.join();
  CHECK(made == 0);

  const int again = open(name.c_str(), O_RDWR | O_CREAT, 0666);
  REQUIRE(flock(again, LOCK_EX) == 0);
  fs::remove(pictures.pack());
  const PackOptions stopped{.parallel = {.stop = [] { return true; }}};
  message_of([&] { open_or_build_pack(pictures.pack(), pictures.sources, kSpec, stopped); },
             Failure::preempted);
  close(again);
}

TEST_CASE("sources of several data sets are packed once and found again") {
  const Pictures pictures(4);
  const auto sample = [&](int i, int label) { return Sample{pictures.sources[i].path, label}; };
  Dataset a{.classes = {"x", "y"}, .samples = {sample(2, 0), sample(0, 1)}};
  Dataset b{.classes = {"x", "y"}, .samples = {sample(3, 0), sample(2, 1)}};
  const Dataset* sets[] = {&a, &b};
  const auto sources = pack_sources(sets);
  REQUIRE(sources.size() == 3);
  Dataset* attached[] = {&a, &b};
  attach_pack(build_pack(sources, kSpec, {}), attached);
  CHECK(a.records == std::vector<uint32_t>{0, 1});
  CHECK(b.records == std::vector<uint32_t>{2, 0});
  CHECK(a.pack == b.pack);
}

TEST_CASE("pictures in memory are packed too") {
  Dataset data{.classes = {"0"}, .samples = {{"f#0"}, {"f#1"}}};
  data.images = {noise_image(28, 28, 1, 1), noise_image(28, 28, 1, 2)};
  const Dataset* sets[] = {&data};
  const auto pack = build_pack(pack_sources(sets), {.resize_height = 28, .channels = 1}, {});
  for (size_t i = 0; i < 2; ++i) CHECK(same_pixels(copy(*pack->image(i)), data.images[i]));
}

TEST_CASE("of a thin picture a pack holds the middle, which a centre crop takes") {
  const Preprocess preprocess{.resize_height = 16, .crop = 12};
  for (const auto& [width, height] : {std::pair(1, 9001), std::pair(9000, 2)}) {
    const Image thin = noise_image(width, height, 3, 9);
    const Image stored = pack_image(thin, pack_spec(preprocess));
    CHECK(std::min(stored.width, stored.height) == 16);
    const int longer = std::max(stored.width, stored.height);
    CHECK(longer >= kMostElongated * 16);
    CHECK(longer <= kMostElongated * 16 + 3);
    CHECK(same_pixels(center_crop(stored, 12), evaluate_transform(thin, preprocess)));
  }
}

TEST_CASE("a pack without pictures is an Error") {
  const TemporaryFolder folder;
  const fs::path path = folder.path() / "empty.pack";
  PackHeader header{.version = kPackVersion,
                    .channels = 3,
                    .index_offset = kPackPixels,
                    .index_checksum = xxh64({})};
  std::memcpy(header.magic, kPackMagic, sizeof kPackMagic);
  header.checksum = header.own_checksum();
  write(path, std::as_bytes(std::span(&header, 1)));
  fs::resize_file(path, kPackPixels);
  CHECK(mentions(message_of([&] { open_pack(path); }), "a pack without pictures"));
}
