// Pictures as OpenCV sees them.
#pragma once

#include <opencv2/core.hpp>

#include "io/images/image.h"

namespace engine {

// The image's pixels, which are not copied. OpenCV starts no threads of its own.
inline cv::Mat as_mat(Image& image) {
  [[maybe_unused]] static const bool single_threaded = (cv::setNumThreads(0), true);
  return {image.height, image.width, CV_8UC(image.channels), image.pixels.data()};
}

}  // namespace engine
