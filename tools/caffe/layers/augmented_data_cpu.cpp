#include "augmented_data_cpu.hpp"

#include <algorithm>
#include <cstring>

#include "vector_clones.hpp"

namespace prototxt_gen {

namespace {

Resize method_of(const CropAxis& axis, Interpolate interpolate) {
  switch (interpolate) {
    case Interpolate::kLinear:
      return Resize::kLinear;
    case Interpolate::kCubic:
      return Resize::kCubic;
    case Interpolate::kArea:
      return Resize::kArea;
    default:
      return axis.length >= axis.size ? Resize::kArea : Resize::kCubic;
  }
}

// to[i] = sum of weight[j] from[j][i], or added to what is there; at most four rows at once.
PROTOTXT_GEN_CLONES void sum_bytes(const std::uint8_t* const* from, const float* weight, int rows,
                                   std::ptrdiff_t values, bool add, float* to) {
  const std::uint8_t* const a = from[0];
  const std::uint8_t* const b = from[rows > 1 ? 1 : 0];
  const std::uint8_t* const c = from[rows > 2 ? 2 : 0];
  const std::uint8_t* const d = from[rows > 3 ? 3 : 0];
  const float wa = weight[0];
  const float wb = rows > 1 ? weight[1] : 0.0f;
  const float wc = rows > 2 ? weight[2] : 0.0f;
  const float wd = rows > 3 ? weight[3] : 0.0f;
  if (add) {
    for (std::ptrdiff_t i = 0; i < values; ++i) {
      to[i] += wa * static_cast<float>(a[i]) + wb * static_cast<float>(b[i]) + wc * static_cast<float>(c[i]) +
               wd * static_cast<float>(d[i]);
    }
  } else if (rows == 1) {
    for (std::ptrdiff_t i = 0; i < values; ++i) {
      to[i] = wa * static_cast<float>(a[i]);
    }
  } else if (rows == 2) {
    for (std::ptrdiff_t i = 0; i < values; ++i) {
      to[i] = wa * static_cast<float>(a[i]) + wb * static_cast<float>(b[i]);
    }
  } else {
    for (std::ptrdiff_t i = 0; i < values; ++i) {
      to[i] = wa * static_cast<float>(a[i]) + wb * static_cast<float>(b[i]) + wc * static_cast<float>(c[i]) +
              wd * static_cast<float>(d[i]);
    }
  }
}

// The weighted sum of the rows of a span, for the columns [begin, end): pixel by pixel, its channels side by side.
void sum_rows(const ImageView& image, ResizeSpan span, const float* weight, int begin, int end, float* to) {
  const int channels = image.channels;
  const std::ptrdiff_t values = static_cast<std::ptrdiff_t>(end - begin) * channels;
  const std::uint8_t* from = image.pixels + (span.begin - image.top) * image.row_step +
                             (begin - image.left) * image.column_step;
  if (span.count == 0) {
    std::fill(to, to + values, 0.0f);
  } else if (image.channel_step == 1 && image.column_step == channels) {
    for (int j = 0; j < span.count; j += 4) {
      const std::uint8_t* rows[4];
      const int count = std::min(4, span.count - j);
      for (int k = 0; k < count; ++k) {
        rows[k] = from + (j + k) * image.row_step;
      }
      sum_bytes(rows, weight + j, count, values, j > 0, to);
    }
  } else {
    std::fill(to, to + values, 0.0f);
    for (int j = 0; j < span.count; ++j, from += image.row_step) {
      for (int c = 0; c < channels; ++c) {
        const std::uint8_t* const plane = from + c * image.channel_step;
        for (int i = 0; i < end - begin; ++i) {
          to[i * channels + c] += weight[j] * static_cast<float>(plane[i * image.column_step]);
        }
      }
    }
  }
}

float clamped(float value) { return value < 0.0f ? 0.0f : value > 255.0f ? 255.0f : value; }

// Three channels and one value more that is not used.
typedef float FourFloats __attribute__((vector_size(16)));

// One row of the output from one summed row, which has a value more than its pixels; `plane` values lie between the
// channels of the output.
template <typename T>
void sum_columns_of_three(const float* row, const ResizePlan& columns, int crop_size, std::ptrdiff_t plane, T* to) {
  for (int x = 0; x < crop_size; ++x) {
    const ResizeSpan span = columns.span(x);
    const float* const weight = columns.weights(x);
    const float* from = row + static_cast<std::ptrdiff_t>(span.begin - columns.begin()) * 3;
    FourFloats sum = {0, 0, 0, 0};
    for (int j = 0; j < span.count; ++j, from += 3) {
      FourFloats pixel;
      std::memcpy(&pixel, from, sizeof(pixel));
      sum += weight[j] * pixel;
    }
    to[x] = static_cast<T>(clamped(sum[0]));
    to[plane + x] = static_cast<T>(clamped(sum[1]));
    to[2 * plane + x] = static_cast<T>(clamped(sum[2]));
  }
}

template <typename T>
void sum_columns_of_one(const float* row, const ResizePlan& columns, int crop_size, T* to) {
  for (int x = 0; x < crop_size; ++x) {
    const ResizeSpan span = columns.span(x);
    const float* const weight = columns.weights(x);
    const float* const from = row + (span.begin - columns.begin());
    float sum = 0;
    for (int j = 0; j < span.count; ++j) {
      sum += weight[j] * from[j];
    }
    to[x] = static_cast<T>(clamped(sum));
  }
}

template <typename T>
double mean_grey(const T* out, int channels, std::ptrdiff_t plane) {
  double sum = 0;
  for (int c = 0; c < channels; ++c) {
    double part = 0;
    for (std::ptrdiff_t i = 0; i < plane; ++i) {
      part += static_cast<double>(out[c * plane + i]);
    }
    sum += part * (channels == 3 ? grey_weight(c) : 1.0);
  }
  return sum / static_cast<double>(plane);
}

template <typename T>
void change_colour(const ColourDraw& draw, int channels, std::ptrdiff_t plane, T* out) {
  const ColourMap map = colour_map(draw, mean_grey(out, channels, plane));
  if (channels == 1) {
    // Without colour, saturation and noise have no part in it.
    const T factor = static_cast<T>(draw.brightness * draw.contrast);
    const T shift = static_cast<T>(map.shift[0] - draw.noise[0]);
    for (std::ptrdiff_t i = 0; i < plane; ++i) {
      out[i] = factor * out[i] + shift;
    }
    return;
  }
  T* const blue = out;
  T* const green = out + plane;
  T* const red = out + 2 * plane;
  const auto& a = map.matrix;
  const auto& t = map.shift;
  for (std::ptrdiff_t i = 0; i < plane; ++i) {
    const T b = blue[i], g = green[i], r = red[i];
    blue[i] = a[0][0] * b + a[0][1] * g + a[0][2] * r + t[0];
    green[i] = a[1][0] * b + a[1][1] * g + a[1][2] * r + t[1];
    red[i] = a[2][0] * b + a[2][1] * g + a[2][2] * r + t[2];
  }
}

}  // namespace

void ResizePlan::set(const CropAxis& axis, Interpolate interpolate, int crop_size, bool mirror) {
  const Resize method = method_of(axis, interpolate);
  taps_ = resize_taps(axis);
  spans_.resize(crop_size);
  weights_.resize(static_cast<std::size_t>(crop_size) * taps_);
  begin_ = axis.begin + axis.length;
  end_ = axis.begin;
  for (int i = 0; i < crop_size; ++i) {
    const int shown = mirror ? crop_size - 1 - i : i;
    spans_[i] = resize_span(axis, method, shown, weights_.data() + static_cast<std::ptrdiff_t>(i) * taps_);
    if (spans_[i].count > 0) {
      begin_ = std::min(begin_, spans_[i].begin);
      end_ = std::max(end_, spans_[i].begin + spans_[i].count);
    }
  }
  begin_ = std::min(begin_, end_);
}

template <typename T>
void augment(const ImageView& image, const ResizePlan& rows, const ResizePlan& columns, const ColourDraw* colour,
             const OutputSettings<T>& settings, std::vector<float>* row, T* out) {
  const int size = settings.crop_size;
  const std::ptrdiff_t plane = static_cast<std::ptrdiff_t>(size) * size;
  const std::size_t values = static_cast<std::size_t>(columns.end() - columns.begin()) * settings.channels;
  row->resize(values + 1);
  for (int y = 0; y < size; ++y) {
    sum_rows(image, rows.span(y), rows.weights(y), columns.begin(), columns.end(), row->data());
    T* const to = out + static_cast<std::ptrdiff_t>(y) * size;
    if (settings.channels == 3) {
      sum_columns_of_three(row->data(), columns, size, plane, to);
    } else {
      sum_columns_of_one(row->data(), columns, size, to);
    }
  }
  if (colour) {
    change_colour(*colour, settings.channels, plane, out);
  }
  for (int c = 0; c < settings.channels; ++c) {
    T* const to = out + c * plane;
    const T* const mean = settings.mean + (settings.mean_is_plane ? c * plane : c);
    if (settings.mean_is_plane) {
      for (std::ptrdiff_t i = 0; i < plane; ++i) {
        to[i] = (to[i] - mean[i]) * settings.scale;
      }
    } else {
      for (std::ptrdiff_t i = 0; i < plane; ++i) {
        to[i] = (to[i] - mean[0]) * settings.scale;
      }
    }
  }
}

template void augment<float>(const ImageView&, const ResizePlan&, const ResizePlan&, const ColourDraw*,
                             const OutputSettings<float>&, std::vector<float>*, float*);
template void augment<double>(const ImageView&, const ResizePlan&, const ResizePlan&, const ColourDraw*,
                              const OutputSettings<double>&, std::vector<float>*, double*);

}  // namespace prototxt_gen
