// The formulas of AugmentedData: random draws, the order of an epoch, the crop, resizing weights, colour.
//
// A draw is a function of (seed, epoch, image, purpose) through Philox 4x32-10 (Salmon et al., "Parallel random
// numbers: as easy as 1, 2, 3", 2011), so that it depends neither on its thread nor on what was drawn before.
#pragma once

#include <cmath>
#include <cstdint>

#include "host_device.hpp"

namespace prototxt_gen {

// ---- Draws ---------------------------------------------------------------------------------------------------------

struct Philox {
  std::uint32_t word[4];
};

PROTOTXT_GEN_HD Philox philox(Philox counter, std::uint64_t key) {
  std::uint32_t low = static_cast<std::uint32_t>(key);
  std::uint32_t high = static_cast<std::uint32_t>(key >> 32);
  for (int round = 0; round < 10; ++round) {
    const std::uint64_t a = std::uint64_t{0xD2511F53} * counter.word[0];
    const std::uint64_t b = std::uint64_t{0xCD9E8D57} * counter.word[2];
    counter = {{static_cast<std::uint32_t>(b >> 32) ^ counter.word[1] ^ low, static_cast<std::uint32_t>(b),
                static_cast<std::uint32_t>(a >> 32) ^ counter.word[3] ^ high, static_cast<std::uint32_t>(a)}};
    low += 0x9E3779B9;
    high += 0xBB67AE85;
  }
  return counter;
}

// What a stream of draws is for: one more mirror draw must not change the crops.
enum class DrawPurpose : std::uint32_t { kCrop = 0, kMirror = 1, kColour = 2, kNoise = 3, kOrder = 4 };

// The draws of one image in one epoch for one purpose.
struct DrawStream {
  std::uint64_t seed;
  std::uint32_t epoch;
  std::uint64_t image;
  DrawPurpose purpose;
  std::uint32_t drawn = 0;
  Philox block = {{0, 0, 0, 0}};

  PROTOTXT_GEN_HD std::uint32_t word() {
    if (drawn % 4 == 0) {
      // The purpose shares a word with the image's upper bits.
      const std::uint32_t tag = static_cast<std::uint32_t>(purpose) << 24 ^ static_cast<std::uint32_t>(image >> 32);
      block = philox({{drawn / 4, epoch, static_cast<std::uint32_t>(image), tag}}, seed);
    }
    return block.word[drawn++ % 4];
  }
  // In the open interval (0, 1).
  PROTOTXT_GEN_HD double uniform() { return (word() + 0.5) / 4294967296.0; }
  PROTOTXT_GEN_HD double uniform(double low, double high) { return low + (high - low) * uniform(); }
  // 0 .. count - 1; the bias is count / 2^32.
  PROTOTXT_GEN_HD int below(int count) {
    return static_cast<int>(static_cast<std::uint64_t>(word()) * static_cast<std::uint64_t>(count) >> 32);
  }
  // Standard normal (Box and Muller).
  PROTOTXT_GEN_HD double normal() {
    const double radius = std::sqrt(-2.0 * std::log(uniform()));
    return radius * std::cos(6.283185307179586 * uniform());
  }
};

// ---- Order of an epoch ---------------------------------------------------------------------------------------------

// The image at a place of an epoch: a bijection of 0 .. count - 1 in no memory. Eight rounds of a Feistel network
// permute the smallest square of a power of two that holds count; values past it are permuted again, three times on
// average at most.
PROTOTXT_GEN_HD std::uint64_t shuffled_index(std::uint64_t place, std::uint64_t count, std::uint64_t seed,
                                             std::uint32_t epoch) {
  int half = 0;
  while (half < 32 && (std::uint64_t{1} << (2 * half)) < count) {
    ++half;
  }
  const std::uint64_t mask = (std::uint64_t{1} << half) - 1;
  const std::uint32_t tag = static_cast<std::uint32_t>(DrawPurpose::kOrder) << 24;
  do {
    std::uint64_t left = place >> half;
    std::uint64_t right = place & mask;
    for (std::uint32_t round = 0; round < 8; ++round) {
      const Philox drawn = philox({{round, epoch, static_cast<std::uint32_t>(right), tag}}, seed);
      const std::uint64_t next = left ^ (drawn.word[0] & mask);
      left = right;
      right = next;
    }
    place = left << half | right;
  } while (place >= count);
  return place;
}

// ---- Crop ----------------------------------------------------------------------------------------------------------

// One direction of a crop. Pixels begin .. begin + length - 1 of the image are resized to `size` pixels, of which the
// output shows first, first + 1, ...; what lies outside 0 .. size - 1 is black.
struct CropAxis {
  int begin;
  int length;
  int size;
  int first;
};

struct CropWindow {
  CropAxis rows;
  CropAxis columns;
};

struct CropRanges {
  double min_area;
  double max_area;
  double min_aspect;
  double max_aspect;
};

PROTOTXT_GEN_HD CropWindow resized_window(int x, int y, int width, int height, int crop_size) {
  return {{y, height, crop_size, 0}, {x, width, crop_size, 0}};
}

// A window of a random area, uniform in [min_area, max_area] of the image's, and a random aspect ratio, width / height,
// uniform in its logarithm; its corner is uniform over the places where it fits.
PROTOTXT_GEN_HD CropWindow random_resized_crop(int width, int height, int crop_size, const CropRanges& ranges,
                                               DrawStream* draw) {
  const double image_area = static_cast<double>(width) * height;
  for (int attempt = 0; attempt < 10; ++attempt) {
    const double area = image_area * draw->uniform(ranges.min_area, ranges.max_area);
    const double aspect = std::exp(draw->uniform(std::log(ranges.min_aspect), std::log(ranges.max_aspect)));
    const double w = std::floor(std::sqrt(area * aspect) + 0.5);
    const double h = std::floor(std::sqrt(area / aspect) + 0.5);
    if (w >= 1 && w <= width && h >= 1 && h <= height) {
      const int x = draw->below(width - static_cast<int>(w) + 1);
      const int y = draw->below(height - static_cast<int>(h) + 1);
      return resized_window(x, y, static_cast<int>(w), static_cast<int>(h), crop_size);
    }
  }
  // The largest window of an allowed aspect ratio, in the middle.
  int w = width;
  int h = height;
  const double aspect = static_cast<double>(width) / height;
  if (aspect > ranges.max_aspect) {
    w = static_cast<int>(std::floor(height * ranges.max_aspect + 0.5));
  } else if (aspect < ranges.min_aspect) {
    h = static_cast<int>(std::floor(width / ranges.min_aspect + 0.5));
  }
  w = w < 1 ? 1 : w > width ? width : w;
  h = h < 1 ? 1 : h > height ? height : h;
  return resized_window((width - w) / 2, (height - h) / 2, w, h, crop_size);
}

PROTOTXT_GEN_HD int scaled_side(int side, int short_side, int wanted_short) {
  return static_cast<int>((static_cast<std::int64_t>(side) * wanted_short + short_side / 2) / short_side);
}

// The whole image with its short side resized (0: as it is), and the output's window over its middle.
PROTOTXT_GEN_HD CropWindow centre_crop(int width, int height, int crop_size, int pad, int resize_short) {
  const int short_side = width < height ? width : height;
  int wanted = resize_short > 0 ? resize_short : short_side;
  if (wanted + 2 * pad < crop_size) {
    wanted = crop_size;
  }
  const int w = scaled_side(width, short_side, wanted);
  const int h = scaled_side(height, short_side, wanted);
  return {{0, height, h, (h - crop_size) / 2}, {0, width, w, (w - crop_size) / 2}};
}

// The same with a border of pad black pixels, and the window anywhere inside it.
PROTOTXT_GEN_HD CropWindow padded_crop(int width, int height, int crop_size, int pad, int resize_short,
                                       DrawStream* draw) {
  CropWindow window = centre_crop(width, height, crop_size, pad, resize_short);
  window.columns.first = draw->below(window.columns.size + 2 * pad - crop_size + 1) - pad;
  window.rows.first = draw->below(window.rows.size + 2 * pad - crop_size + 1) - pad;
  return window;
}

// ---- Resizing along one direction ----------------------------------------------------------------------------------

enum class Resize { kArea, kLinear, kCubic };

// A pixel of the output reads `count` pixels of the image from `begin` on; none where it is black.
struct ResizeSpan {
  int begin;
  int count;
};

// At most this many pixels are read for one.
PROTOTXT_GEN_HD int resize_taps(const CropAxis& axis) {
  const int covered = (axis.length + axis.size - 1) / axis.size + 1;
  return covered > 4 ? covered : 4;
}

// Keys' cubic convolution with a = -0.75, as OpenCV has it: the weights of positions -1, 0, 1, 2 for a point at t.
PROTOTXT_GEN_HD void cubic_weights(double t, double* weight) {
  const double a = -0.75;
  weight[0] = ((a * (t + 1) - 5 * a) * (t + 1) + 8 * a) * (t + 1) - 4 * a;
  weight[1] = ((a + 2) * t - (a + 3)) * t * t + 1;
  weight[2] = ((a + 2) * (1 - t) - (a + 3)) * (1 - t) * (1 - t) + 1;
  weight[3] = 1 - weight[0] - weight[1] - weight[2];
}

// The span and the weights (resize_taps of them at most) of output pixel i. Pixel k of the resized range covers
// [k r, (k + 1) r) of the image's, r = length / size; its centre is p = (k + 1/2) r - 1/2. Outside the range LINEAR and
// CUBIC read its outermost pixel.
PROTOTXT_GEN_HD ResizeSpan resize_span(const CropAxis& axis, Resize method, int i, float* weight) {
  const int k = axis.first + i;
  if (k < 0 || k >= axis.size) {
    return {axis.begin, 0};
  }
  const double ratio = static_cast<double>(axis.length) / axis.size;
  const int last = axis.length - 1;
  if (method == Resize::kArea && axis.length >= axis.size) {
    const double from = k * ratio;
    const double to = from + ratio;
    const int begin = static_cast<int>(from);
    int count = 0;
    for (int j = begin; j <= last && (j < to - 1e-9 || count == 0); ++j, ++count) {
      const double covered = (to < j + 1 ? to : j + 1) - (from > j ? from : j);
      weight[count] = static_cast<float>(covered / ratio);
    }
    return {axis.begin + begin, count};
  }
  const double p = (k + 0.5) * ratio - 0.5;
  const int floor = static_cast<int>(std::floor(p));
  double tap[4] = {1 - (p - floor), p - floor, 0, 0};
  int first = floor;
  int taps = 2;
  if (method == Resize::kCubic) {
    cubic_weights(p - floor, tap);
    first = floor - 1;
    taps = 4;
  }
  const int begin = first < 0 ? 0 : first > last ? last : first;
  const int end = first + taps - 1 < 0 ? 0 : first + taps - 1 > last ? last : first + taps - 1;
  for (int j = 0; j <= end - begin; ++j) {
    weight[j] = 0;
  }
  for (int j = 0; j < taps; ++j) {
    const int at = first + j < 0 ? 0 : first + j > last ? last : first + j;
    weight[at - begin] += static_cast<float>(tap[j]);
  }
  return {axis.begin + begin, end - begin + 1};
}

// ---- Colour --------------------------------------------------------------------------------------------------------

// Channels are B, G, R throughout.
struct ColourStrength {
  double brightness;
  double contrast;
  double saturation;
  double pca_std;
};

// Factors of brightness b, contrast c and saturation s, and what the colour noise adds to each channel (0 .. 255).
struct ColourDraw {
  double brightness;
  double contrast;
  double saturation;
  double noise[3];
};

PROTOTXT_GEN_HD double colour_factor(double strength, DrawStream* draw) {
  return draw->uniform(strength < 1 ? 1 - strength : 0, 1 + strength);
}

// AlexNet's noise: E (a o l), a normal with standard deviation pca_std; E and l are the eigenvectors (columns) and
// eigenvalues of ImageNet's colours for values 0 .. 1, as fb.resnet.torch publishes them.
PROTOTXT_GEN_HD ColourDraw draw_colour(const ColourStrength& strength, DrawStream* colour, DrawStream* noise) {
  const double value[3] = {0.2175, 0.0188, 0.0045};
  const double vector[3][3] = {{-0.5836, -0.6948, 0.4203},   // B
                               {-0.5808, -0.0045, -0.8140},  // G
                               {-0.5675, 0.7192, 0.4009}};   // R
  ColourDraw drawn;
  drawn.brightness = colour_factor(strength.brightness, colour);
  drawn.contrast = colour_factor(strength.contrast, colour);
  drawn.saturation = colour_factor(strength.saturation, colour);
  const double a[3] = {strength.pca_std * noise->normal(), strength.pca_std * noise->normal(),
                       strength.pca_std * noise->normal()};
  for (int c = 0; c < 3; ++c) {
    drawn.noise[c] = 0;
    for (int k = 0; k < 3; ++k) {
      drawn.noise[c] += 255 * vector[c][k] * a[k] * value[k];
    }
  }
  return drawn;
}

// The weight of each channel in a pixel's grey.
PROTOTXT_GEN_HD double grey_weight(int channel) { return channel == 0 ? 0.114 : channel == 1 ? 0.587 : 0.299; }

// y = A x + t of all three changes and the noise, with m the mean grey of the crop:
//   A = b c (s I + (1 - s) 1 w'),  t = b (1 - c) m + noise
struct ColourMap {
  float matrix[3][3];
  float shift[3];
};

PROTOTXT_GEN_HD ColourMap colour_map(const ColourDraw& draw, double mean_grey) {
  ColourMap map;
  for (int c = 0; c < 3; ++c) {
    for (int k = 0; k < 3; ++k) {
      const double own = c == k ? draw.saturation : 0;
      map.matrix[c][k] = static_cast<float>(draw.brightness * draw.contrast *
                                            (own + (1 - draw.saturation) * grey_weight(k)));
    }
    map.shift[c] = static_cast<float>(draw.brightness * (1 - draw.contrast) * mean_grey + draw.noise[c]);
  }
  return map;
}

}  // namespace prototxt_gen
