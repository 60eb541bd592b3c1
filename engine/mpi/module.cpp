// The wire through MPI. Operations do not block in MPI: while one is under way, the watch is asked
// whether to go on.
#include "engine/mpi/module.h"

#include <mpi.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <chrono>
#include <climits>
#include <thread>
#include <utility>

#include "engine/error.h"

namespace engine::mpi {

namespace {

using Clock = std::chrono::steady_clock;

// Elements of one call: MPI counts in int.
constexpr size_t kMost = size_t{1} << 28;

void check(int code, const char* what) {
  if (code == MPI_SUCCESS) return;
  std::array<char, MPI_MAX_ERROR_STRING> text{};
  int size = 0;
  MPI_Error_string(code, text.data(), &size);
  fail(Failure::collective, "MPI: {}: {}", what, std::string(text.data(), size_t(size)));
}

// Spins first: most operations are short. Then it looks ever more seldom, at most a hundredth too
// late, so that a process that waits long leaves its cores alone. A request that is given up stays
// where it is, and MPI is not used any more.
void finish(MPI_Request request, const char* what, const WireWatch& watch) {
  constexpr auto kSpin = std::chrono::microseconds(200);
  constexpr Clock::duration kShortest = std::chrono::microseconds(20),
                            kLongest = std::chrono::milliseconds(5);
  const auto began = Clock::now();
  for (int done = 0;;) {
    check(MPI_Test(&request, &done, MPI_STATUS_IGNORE), what);
    if (done) return;
    const auto waited = Clock::now() - began;
    if (waited < kSpin) {
      std::this_thread::yield();
      continue;
    }
    if (const auto why = watch.trouble ? watch.trouble() : std::nullopt)
      throw Error(Failure::collective, *why);
    require(waited < std::chrono::duration<double>(watch.timeout), Failure::collective,
            "a {} through MPI did not end within {:g} s", what, watch.timeout);
    std::this_thread::sleep_for(std::clamp(waited / 100, kShortest, kLongest));
  }
}

MpiPlace begin() {
  int before = 0, level = 0;
  MPI_Initialized(&before);
  if (!before) check(MPI_Init_thread(nullptr, nullptr, MPI_THREAD_SERIALIZED, &level), "init");
  require(before || level >= MPI_THREAD_SERIALIZED, Failure::collective,
          "MPI: this library lets only the first thread call it");
  check(MPI_Comm_set_errhandler(MPI_COMM_WORLD, MPI_ERRORS_RETURN), "error handler");
  MpiPlace place;
  check(MPI_Comm_rank(MPI_COMM_WORLD, &place.process), "rank");
  check(MPI_Comm_size(MPI_COMM_WORLD, &place.processes), "size");
  return place;
}

void broadcast(std::span<std::byte> bytes, const WireWatch& watch) {
  for (; !bytes.empty(); bytes = bytes.subspan(std::min(kMost, bytes.size()))) {
    MPI_Request request{};
    check(MPI_Ibcast(bytes.data(), static_cast<int>(std::min(kMost, bytes.size())), MPI_BYTE, 0,
                     MPI_COMM_WORLD, &request),
          "broadcast");
    finish(request, "broadcast", watch);
  }
}

template <class R>
MPI_Datatype type_of() {
  return sizeof(R) == sizeof(float) ? MPI_FLOAT : MPI_DOUBLE;
}

// Numbers of elements, and where they begin, by process.
struct Parts {
  std::vector<int> counts, begins;

  void add(size_t count) {
    begins.push_back(begins.empty() ? 0 : begins.back() + counts.back());
    counts.push_back(static_cast<int>(count));
  }
};

class MpiWire final : public Wire {
 public:
  explicit MpiWire(const WireWatch& watch) : watch_(watch), place_(begin()) {}
  ~MpiWire() override { end(); }

  int process() const override { return place_.process; }
  int processes() const override { return place_.processes; }
  void barrier() override {
    MPI_Request request{};
    check(MPI_Ibarrier(MPI_COMM_WORLD, &request), "barrier");
    finish(request, "barrier", watch_);
  }
  void broadcast(std::span<std::byte> bytes) override { mpi::broadcast(bytes, watch_); }
  std::vector<std::vector<std::byte>> gather(std::span<const std::byte> bytes) override;
  void sum(std::span<float> values) override { add_up(values); }
  void sum(std::span<double> values) override { add_up(values); }
  void abort(const std::string& why) noexcept override {
    gave_up_ = true;
    watch_.abort(why);
  }

 private:
  // MPI_Finalize waits for all: it is only called where all are there to call it.
  void end() noexcept {
    if (gave_up_) return;
    try {
      barrier();
      MPI_Finalize();
    } catch (const std::exception&) {
    }
  }
  template <class R>
  void add_up(std::span<R> values);
  template <class R>
  void add_up_piece(std::span<R> values);

  WireWatch watch_;
  MpiPlace place_;
  std::atomic<bool> gave_up_ = false;
  std::vector<std::byte> theirs_;
};

std::vector<std::vector<std::byte>> MpiWire::gather(std::span<const std::byte> bytes) {
  const uint64_t size = bytes.size();
  std::vector<uint64_t> sizes(processes());
  MPI_Request request{};
  check(MPI_Iallgather(&size, 1, MPI_UINT64_T, sizes.data(), 1, MPI_UINT64_T, MPI_COMM_WORLD,
                       &request),
        "gather");
  finish(request, "gather", watch_);
  Parts parts;
  uint64_t total = 0;
  for (uint64_t part : sizes) {
    require((total += part) < INT_MAX, Failure::collective,
            "processes bring more than the 2 GiB that MPI can gather");
    parts.add(part);
  }
  std::vector<std::byte> joined(total);
  check(
      MPI_Iallgatherv(bytes.data(), static_cast<int>(size), MPI_BYTE, joined.data(),
                      parts.counts.data(), parts.begins.data(), MPI_BYTE, MPI_COMM_WORLD, &request),
      "gather");
  finish(request, "gather", watch_);
  std::vector<std::vector<std::byte>> all;
  for (int p = 0; p < processes(); ++p)
    all.emplace_back(joined.begin() + parts.begins[p],
                     joined.begin() + parts.begins[p] + parts.counts[p]);
  return all;
}

template <class R>
void MpiWire::add_up(std::span<R> values) {
  for (; !values.empty(); values = values.subspan(std::min(kMost, values.size())))
    add_up_piece(values.first(std::min(kMost, values.size())));
}

// Every process adds up one share of the elements, in process order, and hands it to all: nobody
// sends or receives more than twice the values.
template <class R>
void MpiWire::add_up_piece(std::span<R> values) {
  Parts shares, mine;  // of the values; what comes from each process for this one's share
  for (size_t p = 0; p < size_t(processes()); ++p)
    shares.add(values.size() * (p + 1) / processes() - values.size() * p / processes());
  const int share = shares.counts[process()];
  for (int p = 0; p < processes(); ++p) mine.add(size_t(share));
  theirs_.resize(std::max(theirs_.size(), size_t(share) * processes() * sizeof(R)));
  R* theirs = reinterpret_cast<R*>(theirs_.data());
  MPI_Request request{};
  check(MPI_Ialltoallv(values.data(), shares.counts.data(), shares.begins.data(), type_of<R>(),
                       theirs, mine.counts.data(), mine.begins.data(), type_of<R>(), MPI_COMM_WORLD,
                       &request),
        "sum");
  finish(request, "sum", watch_);
  R* sums = values.data() + shares.begins[process()];
  std::copy_n(theirs, share, sums);
  for (int p = 1; p < processes(); ++p)
    for (int i = 0; i < share; ++i) sums[i] += theirs[mine.begins[p] + i];
  check(MPI_Iallgatherv(MPI_IN_PLACE, 0, type_of<R>(), values.data(), shares.counts.data(),
                        shares.begins.data(), type_of<R>(), MPI_COMM_WORLD, &request),
        "sum");
  finish(request, "sum", watch_);
}

Wire* make_wire(const WireWatch& watch) {
  return new MpiWire(watch);
}

}  // namespace
}  // namespace engine::mpi

extern "C" const engine::mpi::Module* engine_mpi_module() {
  using namespace engine::mpi;
  static const Module module{begin, broadcast, make_wire};
  return &module;
}
