// Planes of a group of channels with room around them, for convolutions that read the plain layout.
#pragma once

#include <algorithm>
#include <vector>

#include "convolution_shape.hpp"
#include "row_parts_cpu.hpp"

namespace prototxt_gen {

inline std::ptrdiff_t plane_values(const std::ptrdiff_t size[2]) { return size[0] * size[1]; }

// How planes lie that have room around them, zero where nothing lies: their rows are cut into parts.
struct PaddedLayout {
  std::ptrdiff_t planes;
  std::ptrdiff_t size[2];    // of a plane
  std::ptrdiff_t before[2];  // rows and columns of room before it
  std::ptrdiff_t rows;       // with the room
  std::ptrdiff_t parts, length;

  std::ptrdiff_t row_step() const { return parts * length; }
  std::ptrdiff_t values() const { return planes * rows * row_step(); }
  std::ptrdiff_t row(std::ptrdiff_t plane, std::ptrdiff_t row) const { return (plane * rows + row) * row_step(); }
  // Where the values of a row begin that lie `column` after the beginning of the room.
  std::ptrdiff_t column(std::ptrdiff_t column) const { return column % parts * length + column / parts; }
};

class PaddedPlanes {
 public:
  explicit PaddedPlanes(const PaddedLayout& layout) : layout_(layout), values_(layout.values()) {}

  void take(const float* from) {
    const std::ptrdiff_t rows = std::min(layout_.size[0], layout_.rows - layout_.before[0]);
    for (std::ptrdiff_t part = 0; part < layout_.parts; ++part) {
      const RowPart own = row_part(part, layout_.parts, layout_.before[1], layout_.size[1], layout_.length);
      for (std::ptrdiff_t p = 0; p < layout_.planes; ++p) {
        const float* source = from + p * layout_.size[0] * layout_.size[1];
        float* to = values_.data() + layout_.row(p, layout_.before[0]) + part * layout_.length;
        for (std::ptrdiff_t row = 0; row < rows; ++row, source += layout_.size[1], to += layout_.row_step()) {
          take_part(source, own, to);
        }
      }
    }
  }

  const float* row(std::ptrdiff_t plane, std::ptrdiff_t row) const { return values_.data() + layout_.row(plane, row); }

 private:
  const PaddedLayout layout_;
  std::vector<float> values_;
};

// How the channels in of a group lie for windows over them, with room for `columns` outputs in a row.
inline PaddedLayout input_layout(const ConvolutionShape& s, std::ptrdiff_t columns) {
  const std::ptrdiff_t rows = (s.size_out[0] - 1) * s.stride[0] + s.kernel[0];
  const std::ptrdiff_t length = columns + (s.kernel[1] - 1) / s.stride[1];
  return {s.channels_in / s.groups, {s.size_in[0], s.size_in[1]}, {s.pad[0], s.pad[1]}, rows, s.stride[1], length};
}

}  // namespace prototxt_gen
