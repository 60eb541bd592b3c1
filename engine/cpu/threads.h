// The backend's threads are OpenMP's, as oneDNN's are, but their number is the backend's own, so
// that several backends can live in one process, each called by a thread of its own.
#pragma once

#include <cstdint>
#include <functional>

namespace engine::cpu {

struct Share {
  int64_t first, last;
  int64_t size() const { return last - first; }
};

// Part `index` of the `parts` nearly equal, consecutive parts of [0, n).
inline Share share_of(int64_t n, int index, int parts) {
  return {n * index / parts, n * (index + 1) / parts};
}

// The pixels of a share of images.
inline Share pixels_of(Share images, int64_t pixels_per_image) {
  return {images.first * pixels_per_image, images.last * pixels_per_image};
}

class Threads {
 public:
  explicit Threads(int count);  // 0: as many as the affinity mask has cores

  int count() const { return count_; }
  // Calls body(worker) for every worker in [0, workers), workers ≤ count, and returns when all are
  // done. What oneDNN does inside stays on the worker's thread. The first exception is thrown again
  // here.
  void run(int workers, const std::function<void(int)>& body) const;
  // How many workers share `images` images, if each takes at least one.
  int image_workers(int images) const { return count_ < images ? count_ : images; }
  // Runs body on this thread; oneDNN inside may use all threads.
  void run_library(const std::function<void()>& body) const;

 private:
  int count_;
};

}  // namespace engine::cpu
