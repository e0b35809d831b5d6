#pragma once

#include <cstddef>
#include <tuple>

namespace prototxt_gen {

// y (N, C', H', W') from x (N, C, H, W) with weights (C', C / groups, kernel height, kernel width), all plain. Pairs
// are height, width; a dilation of 1 leaves no gaps.
struct ConvolutionShape {
  std::ptrdiff_t images, channels_in, channels_out, groups;
  std::ptrdiff_t size_in[2], size_out[2], kernel[2], stride[2], pad[2], dilation[2];

  bool operator==(const ConvolutionShape& other) const {
    const auto tuple = [](const ConvolutionShape& s) {
      return std::make_tuple(s.images, s.channels_in, s.channels_out, s.groups, s.size_in[0], s.size_in[1],
                             s.size_out[0], s.size_out[1], s.kernel[0], s.kernel[1], s.stride[0], s.stride[1],
                             s.pad[0], s.pad[1], s.dilation[0], s.dilation[1]);
    };
    return tuple(*this) == tuple(other);
  }
};

}  // namespace prototxt_gen
