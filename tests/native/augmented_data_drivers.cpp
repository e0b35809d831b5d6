// The formulas and the CPU driver of AugmentedData with C names, so that a test can call them without Caffe.
#include "augmented_data_cpu.hpp"

using namespace prototxt_gen;

extern "C" void philox_c(const std::uint32_t* counter, std::uint64_t key, std::uint32_t* out) {
  const Philox drawn = philox({{counter[0], counter[1], counter[2], counter[3]}}, key);
  for (int i = 0; i < 4; ++i) {
    out[i] = drawn.word[i];
  }
}

extern "C" void order_c(std::uint64_t count, std::uint64_t seed, std::uint32_t epoch, std::int64_t* out) {
  for (std::uint64_t i = 0; i < count; ++i) {
    out[i] = static_cast<std::int64_t>(shuffled_index(i, count, seed, epoch));
  }
}

// For images first .. first + count - 1, each: rows (begin, length, size, first), then columns. kind: 0 random resized,
// 1 padded, 2 centre.
extern "C" void crops_c(int kind, int width, int height, int crop_size, int pad, int resize_short,
                        const double* ranges, std::uint64_t seed, std::uint32_t epoch, std::int64_t count,
                        std::int32_t* out) {
  for (std::int64_t i = 0; i < count; ++i, out += 8) {
    DrawStream draw{seed, epoch, static_cast<std::uint64_t>(i), DrawPurpose::kCrop};
    const CropWindow window =
        kind == 0 ? random_resized_crop(width, height, crop_size, {ranges[0], ranges[1], ranges[2], ranges[3]}, &draw)
        : kind == 1 ? padded_crop(width, height, crop_size, pad, resize_short, &draw)
                    : centre_crop(width, height, crop_size, pad, resize_short);
    const CropAxis axes[2] = {window.rows, window.columns};
    for (int k = 0; k < 2; ++k) {
      out[4 * k] = axes[k].begin;
      out[4 * k + 1] = axes[k].length;
      out[4 * k + 2] = axes[k].size;
      out[4 * k + 3] = axes[k].first;
    }
  }
}

// Words of a stream: 1 where the draw below(2) mirrors.
extern "C" void mirrors_c(std::uint64_t seed, std::uint32_t epoch, std::int64_t count, std::int32_t* out) {
  for (std::int64_t i = 0; i < count; ++i) {
    DrawStream draw{seed, epoch, static_cast<std::uint64_t>(i), DrawPurpose::kMirror};
    out[i] = draw.below(2);
  }
}

// Six values an image: brightness, contrast, saturation, noise of B, G, R.
extern "C" void colours_c(const double* strength, std::uint64_t seed, std::uint32_t epoch, std::int64_t count,
                          double* out) {
  for (std::int64_t i = 0; i < count; ++i, out += 6) {
    DrawStream factors{seed, epoch, static_cast<std::uint64_t>(i), DrawPurpose::kColour};
    DrawStream noise{seed, epoch, static_cast<std::uint64_t>(i), DrawPurpose::kNoise};
    const ColourDraw drawn =
        draw_colour({strength[0], strength[1], strength[2], strength[3]}, &factors, &noise);
    out[0] = drawn.brightness;
    out[1] = drawn.contrast;
    out[2] = drawn.saturation;
    for (int c = 0; c < 3; ++c) {
      out[3 + c] = drawn.noise[c];
    }
  }
}

// pixels (H, W, channels); axes: rows then columns, four numbers each; colour null or six values as above.
extern "C" void augment_c(const std::uint8_t* pixels, int width, int channels, const std::int32_t* axes,
                          int interpolate, int mirror, int crop_size, const double* colour, const double* mean,
                          double scale, double* out) {
  ResizePlan rows, columns;
  rows.set({axes[0], axes[1], axes[2], axes[3]}, static_cast<Interpolate>(interpolate), crop_size, false);
  columns.set({axes[4], axes[5], axes[6], axes[7]}, static_cast<Interpolate>(interpolate), crop_size, mirror != 0);
  const ImageView image{pixels, static_cast<std::ptrdiff_t>(width) * channels, channels, 1, channels, 0, 0};
  ColourDraw drawn{};
  if (colour) {
    drawn = {colour[0], colour[1], colour[2], {colour[3], colour[4], colour[5]}};
  }
  std::vector<float> row;
  const OutputSettings<double> settings{crop_size, channels, static_cast<Interpolate>(interpolate), mean, false, scale};
  augment(image, rows, columns, colour ? &drawn : nullptr, settings, &row, out);
}
