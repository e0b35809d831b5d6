#include "dnnl_convolution.hpp"

#include <dnnl.h>
#include <omp.h>

#include <algorithm>
#include <cstdint>
#include <dnnl.hpp>
#include <map>
#include <tuple>
#include <unordered_map>
#include <vector>

#include "parallel.hpp"

namespace prototxt_gen {

namespace {

using Size = std::ptrdiff_t;
using Tag = dnnl::memory::format_tag;
constexpr auto kFloat = dnnl::memory::data_type::f32;

// Blocked copies of this many bytes at a time stay in the cache between the reorder that writes them and the kernel.
constexpr Size kChunkBytes = 4 << 20;
// oneDNN's channels are blocked by so many: a share that is no multiple of it pads.
constexpr Size kChannelUnit = 16;
// Columns of a matrix product below which packing its left side costs as much as the product.
constexpr Size kColumns = 384;

const dnnl::engine& cpu() {
  static const dnnl::engine& one = *new dnnl::engine(dnnl::engine::kind::cpu, 0);
  return one;
}

// oneDNN asks OpenMP how many threads it may use, both where it builds a kernel and where it runs one.
class OneThread {
 public:
  OneThread() : before_(omp_get_max_threads()) { omp_set_num_threads(1); }
  ~OneThread() { omp_set_num_threads(before_); }
  OneThread(const OneThread&) = delete;
  OneThread& operator=(const OneThread&) = delete;

 private:
  const int before_;
};

// Memory that lives as long as its thread and is as large as the largest need so far.
class Scratch {
 public:
  explicit Scratch(Size bytes) : next_(buffer(bytes)) {}

  template <typename Value = float>
  Value* take(Size bytes) {
    Value* const taken = reinterpret_cast<Value*>(next_);
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
  Size image, channel_in, channel_out;  // where it begins
  Piece piece;
};

void sgemm(bool transpose_a, bool transpose_b, Size m, Size n, Size k, const float* a, Size lda, const float* b,
           Size ldb, float beta, float* c, Size ldc) {
  dnnl_sgemm(transpose_a ? 'T' : 'N', transpose_b ? 'T' : 'N', m, n, k, 1.0f, a, lda, b, ldb, beta, c, ldc);
}

}  // namespace

bool ConvolutionShape::operator==(const ConvolutionShape& other) const {
  const auto tuple = [](const ConvolutionShape& s) {
    return std::make_tuple(s.images, s.channels_in, s.channels_out, s.groups, s.size_in[0], s.size_in[1],
                           s.size_out[0], s.size_out[1], s.kernel[0], s.kernel[1], s.stride[0], s.stride[1], s.pad[0],
                           s.pad[1], s.dilation[0], s.dilation[1]);
  };
  return tuple(*this) == tuple(other);
}

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
        adjacent(s.stride[0] == 1 && s.stride[1] == 1) {}

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
  bool blocked(Pass pass) const { return !pointwise && !(pass == Pass::kBackwardWeights && small_groups()); }
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
  void grouped_weights(const Share& share, const float* x, const float* dy, float* dweights) const;

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
  // for other small ones.
  bool small_groups() const { return shape.groups > 1 && (group_in % 8 != 0 || group_out % 8 != 0); }

  const bool pointwise, adjacent;
  std::map<std::tuple<Pass, Piece, bool>, std::unique_ptr<Kernel>> kernels_;
};

// ---- Who does what -------------------------------------------------------------------------------------------------

// Cutting the images makes every thread reorder or pack all weights, cutting the channels all of what is read: the
// smaller of the two is repeated. Groups repeat nothing.
std::vector<Share> DnnlConvolution::Plan::shares(Pass pass) const {
  const Size threads = parallel_threads();
  const ConvolutionShape& s = shape;
  const bool cut_in = pass == Pass::kBackwardData;
  const Size channels = cut_in ? s.channels_in : s.channels_out;
  const Size units = s.groups > 1 ? s.groups : (channels + kChannelUnit - 1) / kChannelUnit;
  const Size read = cut_in ? s.channels_out * plane_out : s.channels_in * plane_in;
  const bool even = s.images % threads == 0 || s.images >= 8 * threads;
  const bool by_images = s.groups > 1 ? (even && pass != Pass::kBackwardWeights) || units < threads
                                      : (even && weights_count() <= s.images * read) || units < threads;
  std::vector<Share> made;
  for (Size i = 0; i < threads; ++i) {
    const Size total = by_images ? s.images : units;
    const Size begin = total * i / threads, end = total * (i + 1) / threads;
    if (begin == end) {
      continue;
    }
    Share share{0, 0, 0, {s.images, s.groups, s.channels_in, s.channels_out}};
    if (by_images) {
      share.image = begin;
      share.piece.images = end - begin;
    } else if (s.groups > 1) {
      share.channel_in = begin * group_in;
      share.channel_out = begin * group_out;
      share.piece = {s.images, end - begin, (end - begin) * group_in, (end - begin) * group_out};
    } else {
      const Size first = begin * kChannelUnit, count = std::min(end * kChannelUnit, channels) - first;
      (cut_in ? share.channel_in : share.channel_out) = first;
      (cut_in ? share.piece.channels_in : share.piece.channels_out) = count;
    }
    made.push_back(share);
  }
  return made;
}

// Every call of a kernel for the weights ends in a sum over all of them, which must stay small beside the rest.
Size DnnlConvolution::Plan::chunk_bytes(Pass pass, const Piece& piece) const {
  const Size weights = sizeof(float) * piece.channels_out * (piece.channels_in / piece.groups) * taps;
  return pass == Pass::kBackwardWeights ? std::max(kChunkBytes, 8 * weights) : kChunkBytes;
}

// Cuts the images of a piece into parts of nearly equal size whose blocked copies take about so many bytes.
std::vector<Size> DnnlConvolution::Plan::chunks(const Piece& piece, Size bytes) const {
  const Size image = sizeof(float) * (piece.channels_in * plane_in + piece.channels_out * plane_out);
  const Size fit = std::max<Size>(1, bytes / image);
  const Size count = (piece.images + fit - 1) / fit;
  std::vector<Size> made;
  for (Size i = 0; i < count; ++i) {
    made.push_back(piece.images * (i + 1) / count - piece.images * i / count);
  }
  return made;
}

// ---- Kernels of oneDNN ---------------------------------------------------------------------------------------------

// Returns the shares of a pass after building the kernels they need: here, because what oneDNN throws must not leave a
// thread of the team.
std::vector<Share> DnnlConvolution::Plan::prepared(Pass pass, bool bias) {
  const std::vector<Share> work = shares(pass);
  const OneThread one_thread;
  for (const Share& share : blocked(pass) ? work : std::vector<Share>()) {
    Piece piece = share.piece;
    for (const Size images : chunks(piece, chunk_bytes(pass, piece))) {
      piece.images = images;
      auto& made = kernels_[{pass, piece, bias}];
      if (!made) {
        auto one = std::make_unique<Kernel>();
        build(*one, pass, piece, bias);
        made = std::move(one);
      }
    }
  }
  return work;
}

void DnnlConvolution::Plan::build(Kernel& made, Pass pass, const Piece& piece, bool bias) const {
  using dnnl::memory;
  const ConvolutionShape& s = shape;
  const memory::dims x = {piece.images, piece.channels_in, s.size_in[0], s.size_in[1]};
  const memory::dims y = {piece.images, piece.channels_out, s.size_out[0], s.size_out[1]};
  memory::dims w = {piece.channels_out, piece.channels_in, s.kernel[0], s.kernel[1]};
  memory::dims w_strides = {group_in * taps, taps, s.kernel[1], 1};
  if (s.groups > 1) {
    w = {piece.groups, group_out, group_in, s.kernel[0], s.kernel[1]};
    w_strides.insert(w_strides.begin(), group_out * group_in * taps);
  }
  made.plain[0] = {x, kFloat, memory::dims{s.channels_in * plane_in, plane_in, s.size_in[1], 1}};
  made.plain[1] = {w, kFloat, w_strides};
  made.plain[2] = {y, kFloat, memory::dims{s.channels_out * plane_out, plane_out, s.size_out[1], 1}};

  const memory::desc x_any(x, kFloat, Tag::any), w_any(w, kFloat, Tag::any), y_any(y, kFloat, Tag::any);
  const memory::desc b(bias ? memory::dims{piece.channels_out} : memory::dims{}, kFloat, bias ? Tag::x : Tag::any);
  const memory::dims strides = {s.stride[0], s.stride[1]}, dilates = {s.dilation[0] - 1, s.dilation[1] - 1};
  memory::dims before = {s.pad[0], s.pad[1]}, after(2);
  for (int i = 0; i < 2; ++i) {
    // The rows after the last position of the kernel are not read; oneDNN wants the sum to be exact.
    after[i] = (s.size_out[i] - 1) * s.stride[i] + (s.kernel[i] - 1) * s.dilation[i] + 1 - s.size_in[i] - s.pad[i];
  }
  const auto direct = dnnl::algorithm::convolution_direct;
  dnnl::primitive_attr attributes;
  attributes.set_scratchpad_mode(dnnl::scratchpad_mode::user);

  const auto kind = pass == Pass::kForward ? dnnl::prop_kind::forward_inference : dnnl::prop_kind::forward_training;
  const auto described = bias ? dnnl::convolution_forward::desc(kind, direct, x_any, w_any, b, y_any, strides, dilates,
                                                                before, after)
                              : dnnl::convolution_forward::desc(kind, direct, x_any, w_any, y_any, strides, dilates,
                                                                before, after);
  const dnnl::convolution_forward::primitive_desc forward(described, attributes, cpu());
  if (pass == Pass::kForward) {
    made.run = dnnl::convolution_forward(forward);
    made.own[0] = forward.src_desc(), made.own[1] = forward.weights_desc(), made.own[2] = forward.dst_desc();
    made.scratchpad = forward.scratchpad_desc();
  } else if (pass == Pass::kBackwardData) {
    const dnnl::convolution_backward_data::primitive_desc chosen(
        {direct, x_any, w_any, y_any, strides, dilates, before, after}, attributes, cpu(), forward);
    made.run = dnnl::convolution_backward_data(chosen);
    made.own[0] = chosen.diff_src_desc(), made.own[1] = chosen.weights_desc(), made.own[2] = chosen.diff_dst_desc();
    made.scratchpad = chosen.scratchpad_desc();
  } else {
    const dnnl::convolution_backward_weights::primitive_desc chosen(
        {direct, x_any, w_any, y_any, strides, dilates, before, after}, attributes, cpu(), forward);
    made.run = dnnl::convolution_backward_weights(chosen);
    made.own[0] = chosen.src_desc(), made.own[1] = chosen.diff_weights_desc(), made.own[2] = chosen.diff_dst_desc();
    made.scratchpad = chosen.scratchpad_desc();
  }
  const int written = pass == Pass::kForward ? 2 : pass == Pass::kBackwardData ? 0 : 1;
  made.bytes = Scratch::padded(made.scratchpad.get_size());
  for (int i = 0; i < 3; ++i) {
    dnnl::primitive_attr adding;
    if (i == 1 && i == written) {
      dnnl::post_ops sum;
      sum.append_sum(1.0f);
      adding.set_post_ops(sum);
    } else if (!made.reordered(i)) {
      continue;
    }
    const auto& from = i == written ? made.own[i] : made.plain[i];
    const auto& to = i == written ? made.plain[i] : made.own[i];
    made.reorders[i] = dnnl::reorder(dnnl::reorder::primitive_desc(cpu(), from, cpu(), to, adding));
    made.bytes += Scratch::padded(made.own[i].get_size());
  }
}

namespace {

dnnl::memory view(const dnnl::memory::desc& desc, const float* data) {
  return {desc, cpu(), const_cast<float*>(data)};
}

void reorder(const dnnl::reorder& how, const dnnl::stream& stream, dnnl::memory from, dnnl::memory to) {
  how.execute(stream, from, to);
}

}  // namespace

void DnnlConvolution::Plan::blocked_data(Pass pass, const Share& share, const float* weights, const float* bias,
                                         const float* from, float* to) {
  const bool forward = pass == Pass::kForward;
  const int read = forward ? 0 : 2, written = forward ? 2 : 0;
  Piece piece = share.piece;
  Size seen = 0;
  dnnl::stream stream(cpu());
  const float* own_weights = nullptr;
  // The weights' layout could depend on the number of images.
  Size weights_for = 0;
  for (const Size images : chunks(share.piece, chunk_bytes(pass, share.piece))) {
    piece.images = images;
    const Kernel& one = kernel(pass, piece, bias != nullptr);
    Scratch scratch(one.bytes);
    float* const blocked = scratch.take(one.reordered(1) ? one.own[1].get_size() : 0);
    if (weights_for != images) {
      if (one.reordered(1)) {
        reorder(one.reorders[1], stream, view(one.plain[1], weights), view(one.own[1], blocked));
      }
      own_weights = one.reordered(1) ? blocked : weights;
      weights_for = images;
    }
    const float* const source = from + seen * (forward ? shape.channels_in * plane_in : shape.channels_out * plane_out);
    float* const target = to + seen * (forward ? shape.channels_out * plane_out : shape.channels_in * plane_in);
    const float* own_source = source;
    if (one.reordered(read)) {
      float* const copy = scratch.take(one.own[read].get_size());
      reorder(one.reorders[read], stream, view(one.plain[read], source), view(one.own[read], copy));
      own_source = copy;
    }
    float* const own_target = one.reordered(written) ? scratch.take(one.own[written].get_size()) : target;
    std::unordered_map<int, dnnl::memory> arguments = {
        {forward ? DNNL_ARG_SRC : DNNL_ARG_DIFF_DST, view(one.own[read], own_source)},
        {DNNL_ARG_WEIGHTS, view(one.own[1], own_weights)},
        {forward ? DNNL_ARG_DST : DNNL_ARG_DIFF_SRC, view(one.own[written], own_target)},
        {DNNL_ARG_SCRATCHPAD, view(one.scratchpad, scratch.take(one.scratchpad.get_size()))}};
    if (bias) {
      arguments[DNNL_ARG_BIAS] = view({{piece.channels_out}, kFloat, Tag::x}, bias);
    }
    one.run.execute(stream, arguments);
    if (one.reordered(written)) {
      reorder(one.reorders[written], stream, view(one.own[written], own_target), view(one.plain[written], target));
    }
    seen += images;
  }
}

void DnnlConvolution::Plan::blocked_weights(const Share& share, const float* x, const float* dy, float* dweights) {
  Piece piece = share.piece;
  Size seen = 0;
  dnnl::stream stream(cpu());
  for (const Size images : chunks(share.piece, chunk_bytes(Pass::kBackwardWeights, share.piece))) {
    piece.images = images;
    const Kernel& one = kernel(Pass::kBackwardWeights, piece, false);
    Scratch scratch(one.bytes);
    const float* plain[3] = {x + seen * shape.channels_in * plane_in, nullptr,
                             dy + seen * shape.channels_out * plane_out};
    for (const int i : {0, 2}) {
      if (one.reordered(i)) {
        float* const copy = scratch.take(one.own[i].get_size());
        reorder(one.reorders[i], stream, view(one.plain[i], plain[i]), view(one.own[i], copy));
        plain[i] = copy;
      }
    }
    float* const own = scratch.take(one.own[1].get_size());
    one.run.execute(stream, {{DNNL_ARG_SRC, view(one.own[0], plain[0])},
                             {DNNL_ARG_DIFF_DST, view(one.own[2], plain[2])},
                             {DNNL_ARG_DIFF_WEIGHTS, view(one.own[1], own)},
                             {DNNL_ARG_SCRATCHPAD, view(one.scratchpad, scratch.take(one.scratchpad.get_size()))}});
    reorder(one.reorders[1], stream, view(one.own[1], own), view(one.plain[1], dweights));
    seen += images;
  }
}

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
  const Size in_bytes = sizeof(float) * columns_in, out_bytes = sizeof(float) * columns_out;
  Scratch scratch(Scratch::padded(in_bytes) + Scratch::padded(out_bytes));
  float* const in_columns = scratch.take(in_bytes);
  float* const out_columns = scratch.take(out_bytes);
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
      sgemm(true, false, ci, columns, co, weights, shape.channels_in, gather_out ? out_columns : dy, columns, 0.0f,
            gather_in ? in_columns : dx, columns);
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

// ---- Small groups: a matrix product per group on the unfolded input ------------------------------------------------

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

void DnnlConvolution::Plan::grouped_weights(const Share& share, const float* x, const float* dy,
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

// ---- Passes --------------------------------------------------------------------------------------------------------

bool DnnlConvolution::Plan::can(Pass pass, bool bias) {
  try {
    prepared(pass, bias);
    return true;
  } catch (const dnnl::error&) {
    return false;
  }
}

void DnnlConvolution::Plan::forward(const float* x, const float* weights, const float* bias, float* y) {
  const std::vector<Share> work = prepared(Pass::kForward, bias != nullptr);
  parallel_for(work.size(), true, [&](Size i) {
    const OneThread one_thread;
    const Share& share = work[i];
    const float* const own_bias = bias ? bias + share.channel_out : nullptr;
    const float* const own_weights = weights + weights_offset(share);
    float* const out = const_cast<float*>(at_out(y, share));
    if (pointwise) {
      pointwise_data(Pass::kForward, share, own_weights, own_bias, at_in(x, share), out);
    } else {
      blocked_data(Pass::kForward, share, own_weights, own_bias, at_in(x, share), out);
    }
  });
}

void DnnlConvolution::Plan::backward_data(const float* dy, const float* weights, float* dx) {
  const std::vector<Share> work = prepared(Pass::kBackwardData, false);
  parallel_for(work.size(), true, [&](Size i) {
    const OneThread one_thread;
    const Share& share = work[i];
    const float* const own_weights = weights + weights_offset(share);
    float* const out = const_cast<float*>(at_in(dx, share));
    if (pointwise) {
      pointwise_data(Pass::kBackwardData, share, own_weights, nullptr, at_out(dy, share), out);
    } else {
      blocked_data(Pass::kBackwardData, share, own_weights, nullptr, at_out(dy, share), out);
    }
  });
}

void DnnlConvolution::Plan::backward_weights(const float* x, const float* dy, float* dweights) {
  const std::vector<Share> work = prepared(Pass::kBackwardWeights, false);
  // Shares of the images add to the same weights: each but the first has its own sum, which the others' threads may
  // write while this one waits.
  const Size count = weights_count();
  const Size sums = work.size() > 1 && work[1].image > 0 ? static_cast<Size>(work.size()) - 1 : 0;
  thread_local std::vector<float> memory;
  if (static_cast<Size>(memory.size()) < sums * count) {
    memory = std::vector<float>(sums * count);
  }
  float* const first_sum = memory.data();
  parallel_for(work.size(), true, [&](Size i) {
    const OneThread one_thread;
    const Share& share = work[i];
    float* own = dweights + weights_offset(share);
    if (sums && i > 0) {
      own = first_sum + (i - 1) * count;
      std::fill_n(own, count, 0.0f);
    }
    if (pointwise) {
      pointwise_weights(share, at_in(x, share), at_out(dy, share), own);
    } else if (small_groups()) {
      grouped_weights(share, at_in(x, share), at_out(dy, share), own);
    } else {
      blocked_weights(share, at_in(x, share), at_out(dy, share), own);
    }
  });
  if (!sums) {
    return;
  }
  parallel_ranges(count, [&](Size begin, Size end) {
    for (Size i = 0; i < sums; ++i) {
      const float* const sum = first_sum + i * count;
#pragma omp simd
      for (Size j = begin; j < end; ++j) {
        dweights[j] += sum[j];
      }
    }
  });
}

DnnlConvolution::DnnlConvolution(const ConvolutionShape& shape) : plan_(new Plan(shape)) {}
DnnlConvolution::~DnnlConvolution() = default;

const ConvolutionShape& DnnlConvolution::shape() const { return plan_->shape; }

bool DnnlConvolution::can_forward(bool bias) { return plan_->can(Pass::kForward, bias); }

bool DnnlConvolution::can_backward(bool weights, bool data) {
  return (!weights || plan_->can(Pass::kBackwardWeights, false)) && (!data || plan_->can(Pass::kBackwardData, false));
}

void DnnlConvolution::forward(const float* x, const float* weights, const float* bias, float* y) {
  plan_->forward(x, weights, bias, y);
}

void DnnlConvolution::backward_data(const float* dy, const float* weights, float* dx) {
  plan_->backward_data(dy, weights, dx);
}

void DnnlConvolution::backward_weights(const float* x, const float* dy, float* dweights) {
  plan_->backward_weights(x, dy, dweights);
}

void DnnlConvolution::backward_bias(const float* dy, float* dbias) const {
  const ConvolutionShape& s = plan_->shape;
  const Size plane = plan_->plane_out;
  parallel_for(s.channels_out, s.images * s.channels_out * plane > (1 << 16), [&](Size c) {
    double sum = 0;
    for (Size n = 0; n < s.images; ++n) {
      const float* const values = dy + (n * s.channels_out + c) * plane;
      float part = 0;
#pragma omp simd reduction(+ : part)
      for (Size i = 0; i < plane; ++i) {
        part += values[i];
      }
      sum += part;
    }
    dbias[c] += static_cast<float>(sum);
  });
}

}  // namespace prototxt_gen
