// Matrix products on the plain layout: convolutions of one tap, and the weights of groups that fill no blocks.

#include <algorithm>

#include "dnnl_convolution_plan.hpp"

namespace prototxt_gen {

namespace {

// Columns of a matrix product below which packing its left side costs as much as the product.
constexpr Size kColumns = 384;
// Rows so far apart, or a multiple of it, meet in few lines of the caches. oneDNN's product with a transposed left side
// and few columns reads that side where it lies, and takes up to twice as long then.
constexpr Size kAliasBytes = 2048;
constexpr Size kApart = 16;  // values that such rows are moved apart

}  // namespace

// ---- One tap: matrix products on the plain layout ------------------------------------------------------------------

// x (images, C, H, W) -> columns (channels, images, H', W'), the positions that the kernel reads.
void DnnlConvolution::Plan::gather_x(const float* x, Size images, Size channels, float* columns) const {
  for (Size c = 0; c < channels; ++c) {
    for (Size n = 0; n < images; ++n) {
      const float* const plane = x + (n * shape.channels_in + c) * plane_in;
      float* const out = columns + (c * images + n) * plane_out;
      if (adjacent) {
        std::copy_n(plane, plane_out, out);
        continue;
      }
      for (Size i = 0; i < shape.size_out[0]; ++i) {
        const float* const row = plane + i * shape.stride[0] * shape.size_in[1];
        for (Size j = 0; j < shape.size_out[1]; ++j) {
          out[i * shape.size_out[1] + j] = row[j * shape.stride[1]];
        }
      }
    }
  }
}

// The transpose of gather_x: positions that the kernel does not read get 0.
void DnnlConvolution::Plan::scatter_x(const float* columns, Size images, Size channels, float* dx) const {
  for (Size n = 0; n < images; ++n) {
    for (Size c = 0; c < channels; ++c) {
      float* const plane = dx + (n * shape.channels_in + c) * plane_in;
      const float* const in = columns + (c * images + n) * plane_out;
      if (adjacent) {
        std::copy_n(in, plane_out, plane);
        continue;
      }
      std::fill_n(plane, plane_in, 0.0f);
      for (Size i = 0; i < shape.size_out[0]; ++i) {
        float* const row = plane + i * shape.stride[0] * shape.size_in[1];
        for (Size j = 0; j < shape.size_out[1]; ++j) {
          row[j * shape.stride[1]] = in[i * shape.size_out[1] + j];
        }
      }
    }
  }
}

void DnnlConvolution::Plan::pointwise_data(Pass pass, const Share& share, const float* weights, const float* bias,
                                           const float* from, float* to) const {
  const bool forward = pass == Pass::kForward;
  const Piece& piece = share.piece;
  const Size ci = piece.channels_in, co = piece.channels_out;
  // Small planes of several images stand side by side, so that the product has columns enough.
  const Size together = std::min(piece.images, std::max<Size>(1, kColumns / plane_out));
  const bool gather_in = together > 1 || !adjacent, gather_out = together > 1;
  const Size columns_in = gather_in ? ci * together * plane_out : 0;
  const Size columns_out = gather_out ? co * together * plane_out : 0;
  const bool aliased = sizeof(float) * shape.channels_in % kAliasBytes == 0 && together * plane_out < kColumns;
  const Size apart = !forward && aliased ? ci + kApart : 0;
  const Size in_bytes = sizeof(float) * columns_in, out_bytes = sizeof(float) * columns_out;
  const Size weights_bytes = sizeof(float) * co * apart;
  Scratch scratch(Scratch::padded(in_bytes) + Scratch::padded(out_bytes) + Scratch::padded(weights_bytes));
  float* const in_columns = scratch.take(in_bytes);
  float* const out_columns = scratch.take(out_bytes);
  float* const weights_apart = scratch.take(weights_bytes);
  for (Size c = 0; apart && c < co; ++c) {
    std::copy_n(weights + c * shape.channels_in, ci, weights_apart + c * apart);
  }
  const auto y_planes = [&](const float* y, Size n, Size c) { return y + (n * shape.channels_out + c) * plane_out; };
  for (Size first = 0; first < piece.images; first += together) {
    const Size images = std::min(together, piece.images - first), columns = images * plane_out;
    if (forward) {
      const float* const x = from + first * shape.channels_in * plane_in;
      float* const y = to + first * shape.channels_out * plane_out;
      float* const out = gather_out ? out_columns : y;
      if (gather_in) {
        gather_x(x, images, ci, in_columns);
      }
      if (bias) {
        for (Size c = 0; c < co; ++c) {
          std::fill_n(out + c * columns, columns, bias[c]);
        }
      }
      sgemm(false, false, co, columns, ci, weights, shape.channels_in, gather_in ? in_columns : x, columns,
            bias ? 1.0f : 0.0f, out, columns);
      for (Size c = 0; gather_out && c < co; ++c) {
        for (Size n = 0; n < images; ++n) {
          std::copy_n(out + (c * images + n) * plane_out, plane_out, const_cast<float*>(y_planes(y, n, c)));
        }
      }
    } else {
      const float* const dy = from + first * shape.channels_out * plane_out;
      float* const dx = to + first * shape.channels_in * plane_in;
      for (Size c = 0; gather_out && c < co; ++c) {
        for (Size n = 0; n < images; ++n) {
          std::copy_n(y_planes(dy, n, c), plane_out, out_columns + (c * images + n) * plane_out);
        }
      }
      sgemm(true, false, ci, columns, co, apart ? weights_apart : weights, apart ? apart : shape.channels_in,
            gather_out ? out_columns : dy, columns, 0.0f, gather_in ? in_columns : dx, columns);
      if (gather_in) {
        scatter_x(in_columns, images, ci, dx);
      }
    }
  }
}

void DnnlConvolution::Plan::pointwise_weights(const Share& share, const float* x, const float* dy,
                                              float* dweights) const {
  const Piece& piece = share.piece;
  const Size ci = piece.channels_in, co = piece.channels_out;
  const Size together = std::min(piece.images, std::max<Size>(1, kColumns / plane_out));
  const bool gather_in = together > 1 || !adjacent, gather_out = together > 1;
  const Size in_bytes = gather_in ? sizeof(float) * ci * together * plane_out : 0;
  const Size out_bytes = gather_out ? sizeof(float) * co * together * plane_out : 0;
  Scratch scratch(Scratch::padded(in_bytes) + Scratch::padded(out_bytes));
  float* const in_columns = scratch.take(in_bytes);
  float* const out_columns = scratch.take(out_bytes);
  for (Size first = 0; first < piece.images; first += together) {
    const Size images = std::min(together, piece.images - first), columns = images * plane_out;
    const float* const x_now = x + first * shape.channels_in * plane_in;
    const float* const dy_now = dy + first * shape.channels_out * plane_out;
    if (gather_in) {
      gather_x(x_now, images, ci, in_columns);
    }
    for (Size c = 0; gather_out && c < co; ++c) {
      for (Size n = 0; n < images; ++n) {
        std::copy_n(dy_now + (n * shape.channels_out + c) * plane_out, plane_out,
                    out_columns + (c * images + n) * plane_out);
      }
    }
    sgemm(false, true, co, ci, columns, gather_out ? out_columns : dy_now, columns, gather_in ? in_columns : x_now,
          columns, 1.0f, dweights, shape.channels_in);
  }
}

// ---- Groups that fill no blocks: a matrix product for each on the unfolded input -----------------------------------

// The channels of a group at x -> columns (group_in * taps, H' * W'), 0 outside the image.
void DnnlConvolution::Plan::unfold(const float* x, float* columns) const {
  const ConvolutionShape& s = shape;
  for (Size row = 0; row < group_in * taps; ++row) {
    const float* const plane = x + row / taps * plane_in;
    const Size shift_i = row % taps / s.kernel[1] * s.dilation[0] - s.pad[0];
    const Size shift_j = row % taps % s.kernel[1] * s.dilation[1] - s.pad[1];
    float* out = columns + row * plane_out;
    for (Size i = 0; i < s.size_out[0]; ++i, out += s.size_out[1]) {
      const Size from_i = i * s.stride[0] + shift_i;
      if (from_i < 0 || from_i >= s.size_in[0]) {
        std::fill_n(out, s.size_out[1], 0.0f);
        continue;
      }
      const float* const in = plane + from_i * s.size_in[1];
      // The columns [begin, end) lie inside.
      const Size begin = std::min(s.size_out[1], shift_j >= 0 ? 0 : (s.stride[1] - 1 - shift_j) / s.stride[1]);
      const Size room = s.size_in[1] - shift_j;
      const Size end = std::max(begin, std::min(s.size_out[1], room <= 0 ? 0 : (room - 1) / s.stride[1] + 1));
      std::fill_n(out, begin, 0.0f);
      if (s.stride[1] == 1) {
        std::copy(in + begin + shift_j, in + end + shift_j, out + begin);
      } else {
        for (Size j = begin; j < end; ++j) {
          out[j] = in[j * s.stride[1] + shift_j];
        }
      }
      std::fill(out + end, out + s.size_out[1], 0.0f);
    }
  }
}

void DnnlConvolution::Plan::unfolded_weights(const Share& share, const float* x, const float* dy,
                                            float* dweights) const {
  const Size rows = group_in * taps;
  Scratch scratch(sizeof(float) * rows * plane_out);
  float* const columns = scratch.take(sizeof(float) * rows * plane_out);
  for (Size g = 0; g < share.piece.groups; ++g) {
    for (Size n = 0; n < share.piece.images; ++n) {
      unfold(x + (n * shape.channels_in + g * group_in) * plane_in, columns);
      sgemm(false, true, group_out, rows, plane_out, dy + (n * shape.channels_out + g * group_out) * plane_out,
            plane_out, columns, plane_out, 1.0f, dweights + g * group_out * rows, rows);
    }
  }
}

}  // namespace prototxt_gen
