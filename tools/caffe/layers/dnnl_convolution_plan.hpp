#ifndef PROTOTXT_GEN_DNNL_CONVOLUTION_PLAN_HPP_
#define PROTOTXT_GEN_DNNL_CONVOLUTION_PLAN_HPP_

#include <cstdint>
#include <dnnl.hpp>
#include <map>
#include <memory>
#include <tuple>
#include <vector>

#include "dnnl_convolution.hpp"
#include "dnnl_product.hpp"
#include "grouped_convolution_cpu.hpp"

// Inside of DnnlConvolution: for its own sources alone.

namespace prototxt_gen {

using Size = std::ptrdiff_t;

// Memory that lives as long as its thread and is as large as the largest need so far.
class Scratch {
 public:
  explicit Scratch(Size bytes) : next_(buffer(bytes)) {}

  float* take(Size bytes) {
    float* const taken = reinterpret_cast<float*>(next_);
    next_ += padded(bytes);
    return taken;
  }
  static Size padded(Size bytes) { return (bytes + kAlignment - 1) / kAlignment * kAlignment; }

 private:
  static constexpr Size kAlignment = 64;

  static char* buffer(Size bytes) {
    thread_local std::vector<char> memory;
    if (static_cast<Size>(memory.size()) < bytes + kAlignment) {
      memory = {};
      memory.resize(bytes + kAlignment);
    }
    const auto address = reinterpret_cast<std::uintptr_t>(memory.data());
    return memory.data() + (kAlignment - address % kAlignment) % kAlignment;
  }

  char* next_;
};

enum class Pass { kForward, kBackwardData, kBackwardWeights };

// What one kernel call works on: some images, and some of the channels, or of the groups where there are several.
struct Piece {
  Size images, groups, channels_in, channels_out;

  bool operator<(const Piece& other) const {
    return std::tie(images, groups, channels_in, channels_out) <
           std::tie(other.images, other.groups, other.channels_in, other.channels_out);
  }
};

// What one thread works on.
struct Share {
  Size image_part;  // which of the parts into which the images are cut
  Size image, channel_in, channel_out;  // where it begins
  Piece piece;
};

class DnnlConvolution::Plan {
 public:
  explicit Plan(const ConvolutionShape& s)
      : shape(s),
        plane_in(s.size_in[0] * s.size_in[1]),
        plane_out(s.size_out[0] * s.size_out[1]),
        taps(s.kernel[0] * s.kernel[1]),
        group_in(s.channels_in / s.groups),
        group_out(s.channels_out / s.groups),
        pointwise(taps == 1 && s.groups == 1 && s.pad[0] == 0 && s.pad[1] == 0),
        adjacent(s.stride[0] == 1 && s.stride[1] == 1),
        small_groups(has_small_groups(s)) {}

  bool can(Pass pass, bool bias);
  void forward(const float* x, const float* weights, const float* bias, float* y);
  void backward_data(const float* dy, const float* weights, float* dx);
  void backward_weights(const float* x, const float* dy, float* dweights);

  const ConvolutionShape shape;
  const Size plane_in, plane_out, taps, group_in, group_out;

 private:
  // A kernel of oneDNN with the reorders between its layouts and the plain ones. Index 0 is x or dx, 1 the weights or
  // their difference, 2 is y or dy.
  struct Kernel {
    dnnl::primitive run;
    dnnl::memory::desc plain[3], own[3], scratchpad;
    dnnl::reorder reorders[3];
    Size bytes = 0;
    bool reordered(int i) const { return plain[i] != own[i]; }
  };

  std::vector<Share> shares(Pass pass) const;
  bool blocked(Pass pass) const {
    return !pointwise && !grouped(pass) && !(pass == Pass::kBackwardWeights && unblocked_groups());
  }
  // Left to grouped_convolution_cpu.hpp. Where every channel is a group, oneDNN's passes forward and for the data are
  // the faster ones.
  bool grouped(Pass pass) const {
    return small_groups && (pass == Pass::kBackwardWeights || group_in > 1 || group_out > 1);
  }
  std::vector<Share> prepared(Pass pass, bool bias);
  Size chunk_bytes(Pass pass, const Piece& piece) const;
  std::vector<Size> chunks(const Piece& piece, Size bytes) const;
  const Kernel& kernel(Pass pass, const Piece& piece, bool bias) const { return *kernels_.at({pass, piece, bias}); }
  void build(Kernel& made, Pass pass, const Piece& piece, bool bias) const;

  void blocked_data(Pass pass, const Share& share, const float* weights, const float* bias, const float* from,
                    float* to);
  void blocked_weights(const Share& share, const float* x, const float* dy, float* dweights);
  void pointwise_data(Pass pass, const Share& share, const float* weights, const float* bias, const float* from,
                      float* to) const;
  void pointwise_weights(const Share& share, const float* x, const float* dy, float* dweights) const;
  void unfolded_weights(const Share& share, const float* x, const float* dy, float* dweights) const;

  void gather_x(const float* x, Size images, Size channels, float* columns) const;
  void scatter_x(const float* columns, Size images, Size channels, float* dx) const;
  void unfold(const float* x, float* columns) const;

  const float* at_in(const float* x, const Share& share) const {
    return x + (share.image * shape.channels_in + share.channel_in) * plane_in;
  }
  const float* at_out(const float* y, const Share& share) const {
    return y + (share.image * shape.channels_out + share.channel_out) * plane_out;
  }
  Size weights_offset(const Share& share) const {
    // Of several groups the channels in are told by the group; of one, a share may begin at any channel.
    const Size in = shape.groups == 1 ? share.channel_in : 0;
    return (share.channel_out * group_in + in) * taps;
  }
  Size weights_count() const { return shape.channels_out * group_in * taps; }
  // oneDNN 2.6's backward pass for weights writes through a null pointer where a group has four channels, and is slow
  // for others that do not fill its blocks.
  bool unblocked_groups() const { return shape.groups > 1 && (group_in % 8 != 0 || group_out % 8 != 0); }

  const bool pointwise, adjacent, small_groups;
  std::map<std::tuple<Pass, Piece, bool>, std::unique_ptr<Kernel>> kernels_;
};

}  // namespace prototxt_gen

#endif  // PROTOTXT_GEN_DNNL_CONVOLUTION_PLAN_HPP_
