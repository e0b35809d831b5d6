// Convolutions of many small groups on the plain layout, without a matrix product: the channels of such a group are too
// few for one. Threads share images and groups; the results do not depend on their number.
#pragma once

#include "convolution_shape.hpp"

namespace prototxt_gen {

// Whether the functions below do better than oneDNN: groups of few channels that do not fill its blocks of eight.
bool has_small_groups(const ConvolutionShape& shape);

// `bias` (C') may be null.
void grouped_forward(const ConvolutionShape& shape, const float* x, const float* weights, const float* bias, float* y);
void grouped_backward_data(const ConvolutionShape& shape, const float* dy, const float* weights, float* dx);
// Adds to dweights.
void grouped_backward_weights(const ConvolutionShape& shape, const float* x, const float* dy, float* dweights);

}  // namespace prototxt_gen
