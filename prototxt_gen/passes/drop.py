"""drop-dropout and drop-split: layers that copy in TEST, taken out.

    Dropout, TEST   y = x
    Split           y_1 = ... = y_n = x

Who read y reads x. Where y was an output of the net, what makes x takes its name. Caffe itself adds a Split wherever
a blob has several readers, and writes those into the nets of its caffemodels: without them the net computes the same.
"""

from __future__ import annotations

from typing import List

from prototxt_gen.core.io import Model
from prototxt_gen.passes.base import PassResult, Skipped, registry
from prototxt_gen.passes.chain import Chain, coverage, refuse_shared_writes, refuse_training


@registry.add("drop-dropout")
def drop_dropout(model: Model) -> PassResult:
    """Take out every Dropout.

    Raises Error for a net for training, where Dropout does drop.
    """
    if any(layer.type == "Dropout" for layer in model.net.layer):
        refuse_training(model.net, "Dropout drops values")
    return _drop(model, "Dropout")


@registry.add("drop-split")
def drop_split(model: Model) -> PassResult:
    """Take out every Split: Caffe adds its own where it needs them."""
    refuse_shared_writes(model.net)
    return _drop(model, "Split")


def _drop(model: Model, kind: str) -> PassResult:
    chain = Chain(model)
    edits: List[str] = []
    skipped: List[Skipped] = []
    layers = chain.indices(kind)
    for index in layers:
        layer = chain.layers[index]
        reason = _why_not(chain, index) or _take_out(chain, index)
        if reason:
            skipped.append(Skipped(layer.name, reason))
        else:
            edits.append(f"layer '{layer.name}': {kind} taken out")
    done = {kind: (len(edits), len(layers))}
    return PassResult(chain.model(), tuple(edits), tuple(skipped), coverage("took out", done))


def _why_not(chain: Chain, index: int) -> str:
    layer = chain.layers[index]
    if any(layer.loss_weight):
        return "it has a loss weight"
    if list(layer.top) == list(layer.bottom):
        return ""
    if chain.has_rules(index):
        return "it stands in some phases only, and under another name than what it reads"
    for top, name in enumerate(layer.top):
        for reader in chain.readers(index, top):
            if name in chain.layers[reader].top and chain.has_rules(reader):
                return "what it makes is changed in place in some phases only"
            if chain.rewritten(layer.bottom[0], index, reader):
                return "what it reads is written over before its readers read"
    return ""


def _take_out(chain: Chain, index: int) -> str:
    """Join a layer's readers to its bottom; return why that cannot be, else nothing."""
    layer = chain.layers[index]
    source = layer.bottom[0]
    readers = {name: chain.readers(index, top) for top, name in enumerate(layer.top) if name != source}
    outputs = [name for name, found in readers.items() if not found]
    if len(outputs) > 1:
        return "several of its tops are outputs of the net"
    if outputs:
        reason = chain.take_output(source, outputs[0])
        if reason:
            return reason
        source = outputs[0]
    chain.remove(index)
    for name, found in readers.items():
        for reader in found:
            for position, bottom in enumerate(list(chain.layers[reader].bottom)):
                if bottom == name:
                    chain.set_bottom(reader, source, position)
    return ""
