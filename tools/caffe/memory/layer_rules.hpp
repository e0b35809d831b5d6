// Which data the backward pass of a layer type reads. Included with LAYER_RULE(type, reads) defined; the estimate in
// Python (spec/lean.py) reads this file too, so keep to one rule a line.
//
// Every type that stands here also keeps to this: its forward pass writes its tops whole, and its backward pass writes
// the differences of the bottoms it propagates to whole, without reading what was there before. The second bottoms of
// Interp and Crop are the exception (writes_bottom_diff). A type that does not stand here is left alone with everything
// it reads and makes.
//
// kNothing, kBottoms, kTops, kBoth: data of its bottoms or tops. kMetric: its bottoms; and its bottoms' differences are
// scratch in its forward pass, on a GPU at least, so that they cannot be shared. kByParameter: backward_reads() tells.

LAYER_RULE(AbsVal, kBottoms)
LAYER_RULE(Accuracy, kMetric)
LAYER_RULE(BN, kByParameter)
LAYER_RULE(BNLL, kBottoms)
LAYER_RULE(BatchNorm, kNothing)
LAYER_RULE(Bias, kNothing)
LAYER_RULE(Clip, kBottoms)
LAYER_RULE(Concat, kNothing)
LAYER_RULE(Convolution, kBottoms)
LAYER_RULE(Crop, kNothing)
LAYER_RULE(Deconvolution, kBottoms)
LAYER_RULE(Dropout, kNothing)
LAYER_RULE(ELU, kBoth)
LAYER_RULE(Eltwise, kByParameter)
LAYER_RULE(EuclideanLoss, kMetric)
LAYER_RULE(Exp, kTops)
LAYER_RULE(Flatten, kNothing)
LAYER_RULE(InnerProduct, kBottoms)
LAYER_RULE(Interp, kNothing)
LAYER_RULE(LRN, kBoth)
LAYER_RULE(Log, kBottoms)
LAYER_RULE(PReLU, kBottoms)
LAYER_RULE(Pooling, kByParameter)
LAYER_RULE(Power, kBoth)
LAYER_RULE(ReLU, kBottoms)
LAYER_RULE(Reshape, kNothing)
LAYER_RULE(Scale, kBottoms)
LAYER_RULE(Sigmoid, kTops)
LAYER_RULE(SigmoidCrossEntropyLoss, kMetric)
LAYER_RULE(Slice, kNothing)
LAYER_RULE(Softmax, kTops)
LAYER_RULE(SoftmaxWithLoss, kMetric)
LAYER_RULE(Split, kNothing)
LAYER_RULE(TanH, kTops)
