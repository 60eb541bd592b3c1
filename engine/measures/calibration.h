// Whether probabilities mean what they say, and what makes them do so.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <vector>

namespace engine {

// The samples whose confidence, the largest probability, lies in ((i, i + 1] / kCalibrationBins).
struct CalibrationBin {
  int64_t samples = 0;
  double confidence = 0, accuracy = 0;  // means; 0 without samples
};
inline constexpr int kCalibrationBins = 15;
int calibration_bin(double confidence);

struct Calibration {
  std::array<CalibrationBin, kCalibrationBins> bins;
  // Expected calibration error (Guo et al., ICML 2017): Σ over the bins of share of samples times
  // |accuracy − confidence|.
  double error = 0;
};

// Of the largest probability of each sample and whether its class is right.
Calibration calibrate(std::span<const double> confidences, std::span<const uint8_t> right);

// The score of Brier (1950) of one sample: Σ over all classes of (probability − [is the label])².
// A mean over samples lies from 0 to 2; of two classes it is twice scikit-learn's brier_score_loss,
// which sums over one of them.
double brier_score(std::span<const double> probabilities, int label);

// The temperature T by which the logits (samples, classes) are divided so that the mean cross
// entropy is least (Guo et al., section 4.2), to a relative 1e-9. Nothing where none within 1/1000
// to 1000 is best: where there are no samples, every image is right, or the logits say less than
// nothing. Logits must be finite.
std::optional<double> fit_temperature(std::span<const float> logits,
                                      std::span<const int32_t> labels, int classes);

// The logits divided by a temperature.
std::vector<float> divided_by(std::span<const float> logits, double temperature);

// What is left where answers below a confidence are withheld.
struct RejectPoint {
  double threshold = 0;  // answers of at least this confidence are given
  double coverage = 0;   // the share of samples that have one
  double accuracy = 0;   // the share of these that is right
};

// A point per distinct confidence, from all samples to the most confident ones. More than `most`
// points are thinned evenly along the coverage; the ends stay. Empty without samples.
std::vector<RejectPoint> reject_curve(std::span<const double> confidences,
                                      std::span<const uint8_t> right, size_t most);

// The point of the curve, unthinned, that answers most samples with at least this accuracy;
// nothing where none has it. How often answers of other samples are right is another question
// (Geifman and El-Yaniv, NeurIPS 2017).
std::optional<RejectPoint> choose_reject(std::span<const double> confidences,
                                         std::span<const uint8_t> right, double accuracy);

// What is left where answers below their thresholds are withheld, of which there is one for each;
// the accuracy of none is 0. The point's threshold is NaN where they differ.
RejectPoint answered_from(std::span<const double> thresholds, std::span<const double> confidences,
                          std::span<const uint8_t> right);

}  // namespace engine
