"""Old nets and solvers in today's form, as Caffe's upgrade makes it on reading (``src/caffe/util/upgrade_proto.cpp``).

The ages, oldest first: V0 (``layers { layer { type: "conv" } }``), V1 (``layers { type: CONVOLUTION }``) with data
transformation in the data messages, ``input`` with ``input_dim`` or ``input_shape``, BatchNorm layers with three
blocks of ``param``; solvers with the enum ``solver_type``.
"""

from __future__ import annotations

from typing import Any, Dict, List, NamedTuple, Tuple

from prototxt_gen.core.errors import Error, did_you_mean
from prototxt_gen.core.upgrade_tables import (
    SOLVER_TYPES,
    V0_FIELDS,
    V0_MESSAGES,
    V0_TRANSFORM,
    V0_TYPES,
    V1_DATA_MESSAGES,
    V1_TRANSFORM,
    V1_TYPES,
)


class Upgraded(NamedTuple):
    """A message of today, and what was done to it in words; no notes where nothing was."""

    message: Any
    notes: Tuple[str, ...]


def upgrade_net(net: Any, where: str = "") -> Upgraded:
    """Return a NetParameter in today's form: the given one itself where nothing is old, and never edited.

    Raises Error where Caffe's upgrade aborts.
    """
    ages: List[str] = []
    dropped: List[str] = []
    if any(layer.HasField("layer") for layer in net.layers):
        net = _from_v0(_without_padding(net, where), dropped, where)
        ages.append("V0 layers")
    if any(_has_old_transform(layer) for layer in net.layers):
        net = _with_transform_params(net)
        ages.append("old data fields")
    if net.layers:
        net = _from_v1(net, where)
        if "V0 layers" not in ages:
            ages.append("V1 layers")
    if net.input:
        net = _with_input_layer(net, where)
        ages.append("input fields")
    if any(_is_old_batchnorm(layer) for layer in net.layer):
        net = _with_fixed_batchnorm(net)
        ages.append("BatchNorm with param blocks")
    return Upgraded(net, (f"upgraded from {', '.join(ages)}", *dropped) if ages else ())


def upgrade_solver(solver: Any, where: str = "") -> Upgraded:
    """Return a SolverParameter with ``type`` in place of the enum ``solver_type``: the given one if it has none."""
    if not solver.HasField("solver_type"):
        return Upgraded(solver, ())
    if solver.HasField("type"):
        raise Error("solver_type and type are both set", where, "solver_type is the old form: leave it out")
    new = _copy(solver)
    enum = solver.DESCRIPTOR.fields_by_name["solver_type"].enum_type
    new.type = SOLVER_TYPES[enum.values_by_number[solver.solver_type].name]
    new.ClearField("solver_type")
    return Upgraded(new, ("upgraded from solver_type",))


def _copy(message: Any) -> Any:
    copy = type(message)()
    copy.CopyFrom(message)
    return copy


def _without_padding(net: Any, where: str) -> Any:
    """Turn each V0 padding layer into the ``pad`` of the conv or pool layer that reads it."""
    new = _copy(net)
    del new.layers[:]
    maker: Dict[str, int] = dict.fromkeys(net.input, -1)
    for index, old in enumerate(net.layers):
        label = f"layer '{old.layer.name}' ({old.layer.type})"
        layer = old
        if old.layer.type != "padding":
            layer = new.layers.add()
            layer.CopyFrom(old)
        for position, blob in enumerate(old.bottom):
            if blob not in maker:
                hint = did_you_mean(blob, maker)
                raise Error(f"{label} reads blob '{blob}', which no layer before it makes", where, hint)
            source = net.layers[maker[blob]] if maker[blob] >= 0 else None
            if source is None or source.layer.type != "padding":
                continue
            if old.layer.type not in ("conv", "pool"):
                raise Error(f"{label} reads padding layer '{source.layer.name}'; only conv and pool may", where)
            if not len(old.bottom) == len(source.bottom) == len(source.top) == 1:
                raise Error(f"{label} reads padding layer '{source.layer.name}': both take one bottom, "
                            "and padding makes one top", where)
            layer.layer.pad = source.layer.pad
            layer.bottom[position] = source.bottom[0]
        maker.update(dict.fromkeys(old.top, index))
    return new


def _from_v0(net: Any, dropped: List[str], where: str) -> Any:
    # Caffe carries over these fields and no others.
    new = type(net)(input=net.input, input_dim=net.input_dim)
    for name in ("name", "force_backward"):
        if net.HasField(name):
            setattr(new, name, getattr(net, name))
    for old in net.layers:
        _v0_layer(old, new.layers.add(bottom=old.bottom, top=old.top), dropped, where)
    return new


def _v0_layer(connection: Any, new: Any, dropped: List[str], where: str) -> None:
    if not connection.HasField("layer"):
        return
    old = connection.layer
    label = f"layer '{old.name}' ({old.type})"
    if old.HasField("name"):
        new.name = old.name
    if old.HasField("type"):
        if old.type not in V0_TYPES:
            raise Error(f"{label}: V0 nets have no such type", where, did_you_mean(old.type, V0_TYPES))
        new.type = new.DESCRIPTOR.enum_values_by_name[V0_TYPES[old.type]].number
    for name in ("blobs", "blobs_lr", "weight_decay"):
        getattr(new, name).extend(getattr(old, name))
    for name, (today, types) in V0_FIELDS.items():
        if not old.HasField(name):
            continue
        if old.type in types:
            _move(getattr(new, V0_MESSAGES[old.type]), today, getattr(old, name))
        else:
            dropped.append(f"{label} has no use for '{name}': dropped")
    for name, today in V0_TRANSFORM.items():
        if old.HasField(name):
            setattr(new.transform_param, today, getattr(old, name))
    if old.HasField("hdf5_output_param"):
        if old.type == "hdf5_output":
            new.hdf5_output_param.CopyFrom(old.hdf5_output_param)
        else:
            dropped.append(f"{label} has no use for 'hdf5_output_param': dropped")


def _move(message: Any, name: str, value: Any) -> None:
    """Set a field, append to a repeated one, copy a message. (V0's PoolMethod has the numbers of today's.)"""
    target = getattr(message, name)
    if hasattr(value, "CopyFrom"):
        target.CopyFrom(value)
    elif hasattr(target, "append"):
        target.append(value)
    else:
        setattr(message, name, value)


def _v1_type(layer: Any) -> str:
    return layer.DESCRIPTOR.fields_by_name["type"].enum_type.values_by_number[layer.type].name


def _has_old_transform(layer: Any) -> bool:
    message = V1_DATA_MESSAGES.get(_v1_type(layer))
    return message is not None and any(getattr(layer, message).HasField(name) for name in V1_TRANSFORM)


def _with_transform_params(net: Any) -> Any:
    new = _copy(net)
    for layer in new.layers:
        message = V1_DATA_MESSAGES.get(_v1_type(layer))
        if message is None:
            continue
        data = getattr(layer, message)
        # Caffe makes both messages of every data layer of such a net, empty where there is nothing to move.
        data.SetInParent()
        layer.transform_param.SetInParent()
        for name in V1_TRANSFORM:
            if data.HasField(name):
                setattr(layer.transform_param, name, getattr(data, name))
                data.ClearField(name)
    return new


def _from_v1(net: Any, where: str) -> Any:
    if net.layer:
        hint = "'layers' is the old form: write all of them as 'layer'"
        raise Error("the net has both 'layer' and 'layers'", where, hint)
    new = _copy(net)
    del new.layers[:]
    for old in net.layers:
        _v1_layer(old, new.layer.add())
    return new


def _v1_layer(old: Any, new: Any) -> None:
    for field, value in old.ListFields():
        if field.name == "type":
            new.type = V1_TYPES[_v1_type(old)]
        elif field.name in ("bottom", "top", "include", "exclude", "blobs", "loss_weight"):
            getattr(new, field.name).extend(value)
        elif field.name == "name":
            new.name = value
        elif field.name.endswith("_param"):
            getattr(new, field.name).CopyFrom(value)
    for name, today in (("param", "name"), ("blob_share_mode", "share_mode"), ("blobs_lr", "lr_mult"),
                        ("weight_decay", "decay_mult")):
        for index, value in enumerate(getattr(old, name)):
            while len(new.param) <= index:
                new.param.add()
            setattr(new.param[index], today, value)


def _with_input_layer(net: Any, where: str) -> Any:
    """Replace ``input`` by an Input layer in front. Without shapes it is dropped: a caffemodel's, which needs none."""
    new = _copy(net)
    for name in ("input", "input_shape", "input_dim"):
        new.ClearField(name)
    if not net.input_shape and not net.input_dim:
        return new
    del new.layer[:]
    layer = new.layer.add(name="input", type="Input", top=net.input)
    layer.input_param.SetInParent()
    for index, name in enumerate(net.input):
        if net.input_shape:
            if index >= len(net.input_shape):
                raise Error(f"input '{name}' has no input_shape", where)
            layer.input_param.shape.add().CopyFrom(net.input_shape[index])
        else:
            dims = net.input_dim[4 * index: 4 * index + 4]
            if len(dims) < 4:
                raise Error(f"input '{name}' has {len(dims)} input_dim", where, "write four for every input")
            layer.input_param.shape.add(dim=dims)
    new.layer.extend(net.layer)
    return new


def _is_old_batchnorm(layer: Any) -> bool:
    return layer.type == "BatchNorm" and len(layer.param) == 3


def _with_fixed_batchnorm(net: Any) -> Any:
    """BatchNorm updates its three blobs itself: no solver may."""
    new = _copy(net)
    for layer in new.layer:
        if _is_old_batchnorm(layer):
            for param in layer.param:
                param.lr_mult = param.decay_mult = 0
    return new
