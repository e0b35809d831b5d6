#include <algorithm>

#include "dnnl_convolution_plan.hpp"
#include "parallel.hpp"

namespace prototxt_gen {

namespace {

// Blocked copies of this many bytes at a time stay in the cache between the reorder that writes them and the kernel.
constexpr Size kChunkBytes = 4 << 20;
// oneDNN's channels are blocked by so many: a share that is no multiple of it pads.
constexpr Size kChannelUnit = 16;

}  // namespace

// ---- Who does what -------------------------------------------------------------------------------------------------

// Cutting the images makes every thread reorder or pack all weights, and have a sum of its own of their differences;
// cutting the channels, all of what is read: the cheaper cut comes first, the other one takes the threads that are
// left. Groups repeat nothing.
std::vector<Share> DnnlConvolution::Plan::shares(Pass pass) const {
  const Size threads = parallel_threads();
  const ConvolutionShape& s = shape;
  const bool cut_in = pass == Pass::kBackwardData, weights = pass == Pass::kBackwardWeights;
  const Size channels = cut_in ? s.channels_in : s.channels_out;
  const Size units = s.groups > 1 ? s.groups : (channels + kChannelUnit - 1) / kChannelUnit;
  const Size read = s.images * (cut_in ? s.channels_out * plane_out : s.channels_in * plane_in);
  const bool even = s.images % threads == 0 || s.images >= 8 * threads;
  const bool images_first = s.groups > 1 ? even && !weights : even && weights_count() * (weights ? threads : 1) <= read;
  Size image_parts, channel_parts;
  if (images_first || units < threads) {
    image_parts = std::min(threads, s.images);
    channel_parts = std::min(threads / image_parts, units);
  } else {
    channel_parts = threads;
    image_parts = 1;
  }
  std::vector<Share> made;
  for (Size i = 0; i < image_parts * channel_parts; ++i) {
    const Size part = i / channel_parts, slice = i % channel_parts;
    const Size image = s.images * part / image_parts, next_image = s.images * (part + 1) / image_parts;
    const Size begin = units * slice / channel_parts, end = units * (slice + 1) / channel_parts;
    Share share{part, image, 0, 0, {next_image - image, s.groups, s.channels_in, s.channels_out}};
    if (s.groups > 1) {
      share.channel_in = begin * group_in;
      share.channel_out = begin * group_out;
      share.piece = {share.piece.images, end - begin, (end - begin) * group_in, (end - begin) * group_out};
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
    // The larger ones first: where the size changes, the weights are reordered anew.
    made.push_back(piece.images / count + (i < piece.images % count));
  }
  return made;
}

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
  if (grouped(Pass::kForward)) {
    grouped_forward(shape, x, weights, bias, y);
    return;
  }
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
  if (grouped(Pass::kBackwardData)) {
    grouped_backward_data(shape, dy, weights, dx);
    return;
  }
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
  if (grouped(Pass::kBackwardWeights)) {
    grouped_backward_weights(shape, x, dy, dweights);
    return;
  }
  const std::vector<Share> work = prepared(Pass::kBackwardWeights, false);
  // Shares of the images add to the same weights: each but the first has its own sum, which the others' threads may
  // write while this one waits.
  const Size count = weights_count();
  const Size sums = work.back().image_part;
  thread_local std::vector<float> memory;
  if (static_cast<Size>(memory.size()) < sums * count) {
    memory = std::vector<float>(sums * count);
  }
  float* const first_sum = memory.data();
  parallel_for(work.size(), true, [&](Size i) {
    const OneThread one_thread;
    const Share& share = work[i];
    float* own = dweights + weights_offset(share);
    if (share.image_part > 0) {
      own = first_sum + (share.image_part - 1) * count + weights_offset(share);
      std::fill_n(own, share.piece.channels_out * group_in * taps, 0.0f);
    }
    if (pointwise) {
      pointwise_weights(share, at_in(x, share), at_out(dy, share), own);
    } else if (unblocked_groups()) {
      unfolded_weights(share, at_in(x, share), at_out(dy, share), own);
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
