"""Runs one whole net as it was recorded: python whole_nets.py NETS.npz NAME PUBLISHED DEPLOY_320 TRAINING OUTPUT.npz

Parameters are drawn from the recorded seed, layer by layer in the order of the net, blob by blob, in float64 and cast
to float32. TRAINING takes its images from "data" and its labels from "label" and ends in "loss".
"""

import sys

import caffe
import numpy as np


def draw(net, seed):
    """Fill the net's parameters."""
    rng = np.random.RandomState(seed)
    feeds_sigmoid = {net.bottom_names[name][0] for name, layer in zip(net._layer_names, net.layers)
                     if layer.type == "Sigmoid"}
    for name, layer in zip(net._layer_names, net.layers):
        if layer.type in ("Convolution", "InnerProduct"):
            weights = layer.blobs[0].data
            drawn = (rng.standard_normal(weights.shape) * np.sqrt(2 / np.prod(weights.shape[1:]))).astype(np.float32)
            if name.endswith("conv3_1x1"):
                drawn *= np.float32(0.2)
            if name == "classifier" or net.top_names[name][0] in feeds_sigmoid:
                drawn *= np.float32(0.05)
            weights[...] = drawn
            if len(layer.blobs) > 1:
                layer.blobs[1].data[...] = 0.1 * rng.standard_normal(layer.blobs[1].data.shape)
        elif layer.type == "BN":
            for i, blob in enumerate(layer.blobs):
                shape = blob.data.shape
                blob.data[...] = rng.uniform(0.5, 1.5, shape) if i in (0, 3) else 0.1 * rng.standard_normal(shape)


def main(recorded, name, published, deploy_320, training, output):
    told = np.load(recorded)

    def image(seed, shape):
        return np.random.RandomState(int(seed)).standard_normal(shape)

    results = {}
    # The image of 320 pixels was drawn from the seed 320.
    for key, path, size, seed in (("logits_224", published, 224, told[f"{name}/input_seed"]),
                                  ("logits_320_global_pooling", deploy_320, 320, 320)):
        net = caffe.Net(path, caffe.TEST)
        draw(net, told[f"{name}/param_seed"])
        net.blobs["data"].data[...] = image(seed, (1, 3, size, size))
        net.forward()
        results[key] = net.blobs["classifier"].data[0].copy()
    net = caffe.Net(training, caffe.TRAIN)
    draw(net, told[f"{name}/param_seed"])
    net.blobs["data"].data[...] = image(told[f"{name}/train_input_seed"], (2, 3, 224, 224))
    net.blobs["label"].data[...] = told[f"{name}/train_labels"].reshape(net.blobs["label"].data.shape)
    net.forward()
    results["train_loss_batch2"] = net.blobs["loss"].data.copy()
    np.savez(output, **results)


if __name__ == "__main__":
    main(*sys.argv[1:])
