// The CPU driver of AugmentedData: from decoded pixels to the values of one image of a batch.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "augmented_data_formula.hpp"

namespace prototxt_gen {

// Bytes of an image, or of the part of it from (top, left) on; channels interleaved, or plane by plane.
struct ImageView {
  const std::uint8_t* pixels;
  std::ptrdiff_t row_step;
  std::ptrdiff_t column_step;
  std::ptrdiff_t channel_step;
  int channels;
  int top;
  int left;
};

enum class Interpolate { kAuto, kArea, kLinear, kCubic };

// What the output is made with. The mean has one value a channel (mean_step 0) or one for each value of the output.
template <typename T>
struct OutputSettings {
  int crop_size;
  int channels;
  Interpolate interpolate;
  const T* mean;
  bool mean_is_plane;
  T scale;
};

// Which pixels a window reads, and with which weights; made once for an image, before it is decoded.
class ResizePlan {
 public:
  void set(const CropAxis& axis, Interpolate interpolate, int crop_size, bool mirror);
  int begin() const { return begin_; }
  int end() const { return end_; }
  ResizeSpan span(int i) const { return spans_[i]; }
  const float* weights(int i) const { return weights_.data() + static_cast<std::ptrdiff_t>(i) * taps_; }

 private:
  std::vector<ResizeSpan> spans_;
  std::vector<float> weights_;
  int taps_ = 0;
  int begin_ = 0;  // all spans lie in [begin_, end_)
  int end_ = 0;
};

// out is (channels, crop_size, crop_size); colour may be null. row is working memory.
template <typename T>
void augment(const ImageView& image, const ResizePlan& rows, const ResizePlan& columns, const ColourDraw* colour,
             const OutputSettings<T>& settings, std::vector<float>* row, T* out);

}  // namespace prototxt_gen
