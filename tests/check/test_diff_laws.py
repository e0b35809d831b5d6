"""Laws of diff: every field counts, and order, written defaults and names of blobs do not."""

import random
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from prototxt_gen.check.diff import compare
from prototxt_gen.check.diff_fields import PRESENCE
from prototxt_gen.core.dialects import DEFAULT_DIALECT
from prototxt_gen.core.io import loads

NetParameter = DEFAULT_DIALECT.message("NetParameter")
LENET = Path(__file__).with_name("diff_lenet.prototxt")


def copy(message):
    twin = type(message)()
    twin.CopyFrom(message)
    return twin


def mutations(message, root, path=""):
    """Yield (path, twin of ``root``) with one scalar field changed, unset, or set where it was not."""
    for field in message.DESCRIPTOR.fields:
        repeated = isinstance(field.default_value, list)
        here = f"{path}{field.name}"
        if field.message_type is not None:
            if repeated:
                for index, one in enumerate(getattr(message, field.name)):
                    yield from mutations(one, root, f"{here}[{index}].")
            elif message.HasField(field.name):
                yield from mutations(getattr(message, field.name), root, here + ".")
            continue
        for value in other_values(field):
            if repeated:
                for index, old in enumerate(list(getattr(message, field.name))):
                    getattr(message, field.name)[index] = value
                    yield f"{here}[{index}]", copy(root)
                    getattr(message, field.name)[index] = old
            elif getattr(message, field.name) != value:
                was, old = message.HasField(field.name), getattr(message, field.name)
                setattr(message, field.name, value)
                yield here, copy(root)
                if was:
                    setattr(message, field.name, old)
                else:
                    message.ClearField(field.name)


def other_values(field):
    if field.enum_type is not None:
        return [one.number for one in field.enum_type.values]
    return {"str": ["other"], "bool": [False, True], "float": [7.5], "bytes": [b"x"]}.get(
        type(field.default_value).__name__ if not isinstance(field.default_value, list) else
        "str" if field.cpp_type == field.CPPTYPE_STRING else
        "bool" if field.cpp_type == field.CPPTYPE_BOOL else
        "float" if field.cpp_type == field.CPPTYPE_FLOAT else "int", [7])


def means_nothing(path, twin):
    """Fields that Caffe does not read here, and what is a matter of naming: at most a note."""
    layer = twin.layer[int(path[6:path.index("]")])] if path.startswith("layer[") else None
    leaf = path.rpartition(".")[2]
    if layer is None:
        return path == "name" or path.startswith("state")
    # Names of blobs that nobody reads, of layers without weights, of weights that are not shared; how these would be
    # shared; how a loss normalises by default; the phase that a layer has anyway.
    unread = leaf == "top[0]" and layer.type in ("Accuracy", "SoftmaxWithLoss")
    unnamed = leaf == "name" and not ("param[" not in path and layer.type in (
        "Convolution", "BatchNorm", "Scale", "InnerProduct"))
    return unread or unnamed or leaf == "share_mode" or leaf in ("normalize", "normalization") and (
        layer.loss_param.normalization == 1 or layer.loss_param.normalize) or (
        path.endswith("].phase") and "include" not in path and layer.include and layer.include[0].phase == layer.phase)


def test_every_single_field_counts():
    small = loads(LENET.read_text(), NetParameter)
    root = copy(small)
    silent = []
    tried = 0
    for path, twin in mutations(root, root):
        tried += 1
        found = compare(small, twin)
        if found.same and not means_nothing(path, twin):
            silent.append(path)
    assert tried > 150 and silent == []


@st.composite
def random_nets(draw):
    """Feed-forward nets over one input: layers of several types on blobs made before, some of them in place."""
    made = NetParameter(name="random")
    made.layer.add(name="data", type="Input", top=["data"]).input_param.shape.add(dim=[2, 4, 9, 9])
    blobs, read = ["data"], set()
    for index in range(draw(st.integers(2, 12))):
        kind = draw(st.sampled_from(["Convolution", "ReLU", "BatchNorm", "Pooling", "Eltwise", "Power", "inplace"]))
        bottoms = [draw(st.sampled_from(blobs)) for _ in range(2 if kind == "Eltwise" else 1)]
        if kind == "inplace":
            # Readers of a Split's tops see one array: what has been read is not overwritten here.
            free = [one for one in blobs if one not in read]
            if not free:
                continue
            blob = draw(st.sampled_from(free))
            made.layer.add(name=f"l{index}", type="ReLU", bottom=[blob], top=[blob])
            continue
        read.update(bottoms)
        layer = made.layer.add(name=f"l{index}", type=kind, bottom=bottoms, top=[f"b{index}"])
        if kind == "Convolution":
            layer.convolution_param.num_output = 4
            layer.convolution_param.kernel_size.append(draw(st.sampled_from([1, 3])))
            layer.convolution_param.pad.append(layer.convolution_param.kernel_size[0] // 2)
            layer.convolution_param.weight_filler.type = "xavier"
        elif kind == "Pooling":
            layer.pooling_param.kernel_size = 3
            layer.pooling_param.pad = 1
        elif kind == "Power":
            layer.power_param.scale = draw(st.sampled_from([1, 2]))
        blobs.append(f"b{index}")
    return made


def permuted(message, rng):
    """Another order of the layers that keeps every writer of a blob before its readers, and writers in order."""
    twin = copy(message)
    del twin.layer[:]
    waiting = list(message.layer)
    while waiting:
        free = [one for index, one in enumerate(waiting) if not any(
            set(earlier.top) & {*one.bottom, *one.top} or set(earlier.bottom) & set(one.top)
            for earlier in waiting[:index])]
        chosen = rng.choice(free)
        waiting.remove(chosen)
        twin.layer.add().CopyFrom(chosen)
    return twin


ASKED_FOR = {"concat_dim", "slice_dim", "normalize", "normalization", "use_global_stats"} | {one for _, one in PRESENCE}


def with_defaults(message, rng, own=False):
    """Write out defaults that Caffe does not ask for, in the parameter messages that there are."""
    for field in message.DESCRIPTOR.fields:
        if isinstance(field.default_value, list):
            if field.message_type is not None:
                for one in getattr(message, field.name):
                    with_defaults(one, rng, own=field.name not in ("layer", "include", "exclude", "shape"))
        elif field.message_type is not None:
            if message.HasField(field.name):
                with_defaults(getattr(message, field.name), rng, own=True)
        elif (own and field.has_default_value and not message.HasField(field.name) and field.name not in ASKED_FOR
              and not field.name.endswith(("_h", "_w")) and rng.random() < 0.7):
            setattr(message, field.name, field.default_value)


def with_other_blobs(message):
    for layer in message.layer:
        layer.bottom[:] = [f"{one}_x" for one in layer.bottom]
        layer.top[:] = [f"{one}_x" for one in layer.top]


@settings(deadline=None, max_examples=80)
@given(made=random_nets(), seed=st.integers(0, 2**32))
def test_order_defaults_and_blob_names_make_no_difference(made, seed):
    rng = random.Random(seed)
    twin = permuted(made, rng)
    twin.name += " twin"  # not equal byte for byte, so that it is looked at and not waved through
    assert not compare(made, twin).differences
    with_defaults(twin, rng)
    assert not compare(made, twin).differences
    with_other_blobs(twin)
    assert not compare(made, twin).differences
    assert compare(twin, made).same


@settings(deadline=None, max_examples=60)
@given(made=random_nets(), data=st.data())
def test_a_layer_taken_away_is_missed(made, data):
    twin = copy(made)
    gone = twin.layer.pop(data.draw(st.integers(1, len(made.layer) - 1)))
    kinds = {one.kind for one in compare(made, twin).differences if one.layer == gone.name}
    # One of two equal layers may stand in for the other: then another is missed, and this one renamed.
    assert kinds & {"removed", "renamed", "changed"}
