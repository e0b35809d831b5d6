// Kernels of oneDNN, and the reorders between its layouts and the plain ones.

#include <unordered_map>

#include "dnnl_convolution_plan.hpp"

namespace prototxt_gen {

namespace {

using Tag = dnnl::memory::format_tag;
constexpr auto kFloat = dnnl::memory::data_type::f32;

const dnnl::engine& cpu() {
  static const dnnl::engine& one = *new dnnl::engine(dnnl::engine::kind::cpu, 0);
  return one;
}

dnnl::memory view(const dnnl::memory::desc& desc, const float* data) {
  return {desc, cpu(), const_cast<float*>(data)};
}

void reorder(const dnnl::reorder& how, const dnnl::stream& stream, dnnl::memory from, dnnl::memory to) {
  how.execute(stream, from, to);
}

}  // namespace

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

}  // namespace prototxt_gen
