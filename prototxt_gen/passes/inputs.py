"""resize-input, fix-interp and batch: a net for inputs of another size.

resize-input: with (h, w) a plane of the net before and (h', w') the same blob's plane after,
    average pooling     a window h x w that is its whole plane and leads to an InnerProduct becomes global
                        where (h', w') differs, as the builder has it, so that the classifier's weights fit
    Interp to H x W     becomes H' x W' where all earlier blobs of plane H x W now have the plane H' x W'
    weights             must have the shapes that the net asks for now

fix-interp: Interp whose output is (N, C, H', W') for the given inputs reads one bottom and says height: H', width: W'.

batch: every shape and every batch_size that a file gives for its inputs, in all phases (``spec.memory.with_batch``).
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Dict, Iterable, List, Mapping, Optional, Sequence, Set, Tuple

from prototxt_gen.core.errors import Error
from prototxt_gen.core.graph import PHASES, Graph, Version, layers_in, net_state
from prototxt_gen.core.io import Model
from prototxt_gen.passes.base import PassResult, Skipped, registry
from prototxt_gen.passes.input_sizes import set_shape, shaped_inputs
from prototxt_gen.passes.phases import editable
from prototxt_gen.spec.infer import NetInfo, Shape, infer
from prototxt_gen.spec.memory import with_batch
from prototxt_gen.spec.shapes import format_shape

PASSING = {"Dropout", "Flatten", "ReLU", "Reshape", "Split"}  # between a last pooling and its InnerProduct


@registry.add("resize-input")
def resize_input(model: Model, *, input_shapes: Mapping[str, Shape]) -> PassResult:
    """Give inputs other shapes: Input layers and fields, and what data layers cut out or make.

    Of a Data layer only the plane changes, its crop_size. Raises Error where a layer no longer fits, where weights no
    longer fit, and where an Interp of fixed size cannot follow.
    """
    net = editable(model.net)
    old = _infos(net)
    edits = [line for name, shape in input_shapes.items() for line in set_shape(net, name, tuple(shape))]
    if net == model.net:
        return PassResult(model)
    whole = _whole_planes(net, old)
    pools = [layer for layer in net.layer if layer.type == "Pooling" and layer.name in whole]
    fixed = [(layer, type(layer)()) for layer in pools]
    for layer, before in fixed:
        before.CopyFrom(layer)
        _make_global(layer.pooling_param)
    edits.extend(_follow_interps(net, old))
    new = {phase: infer(net, phase, allow_unknown=True) for phase in old}
    for layer, before in fixed:
        if _planes(old, layer.name) == _planes(new, layer.name):
            layer.CopyFrom(before)
        else:
            edits.append(f"layer '{layer.name}': global average pooling")
    _check_weights(model, new)
    edits.extend(f"layer '{name}': parameters {before} -> {after}" for name, before, after in _param_changes(old, new))
    return PassResult(replace(model, net=net), tuple(edits))


@registry.add("fix-interp")
def fix_interp(model: Model, *, input_shapes: Optional[Mapping[str, Shape]] = None) -> PassResult:
    """Write the height and width of every Interp, for programs that know no second bottom and no factors.

    ``input_shapes`` gives inputs another size first, as resize-input does, or tells one that the file does not. A blob
    that only such an Interp read is ended by a Silence, so that the net's outputs stay the same.
    """
    given = {name: tuple(shape) for name, shape in (input_shapes or {}).items()}
    resized = {name: shape for name, shape in given.items() if name in shaped_inputs(model.net)}
    done = resize_input(model, input_shapes=resized) if resized else PassResult(model)
    net = editable(done.model.net)
    infos = _infos(net, given)
    graphs = [Graph(layers_in(net, net_state(phase, net))) for phase in infos]
    edits, skipped, fixed, singled = list(done.edits), [], 0, []
    for interp in [layer for layer in net.layer if layer.type == "Interp"]:
        param = interp.interp_param
        if len(interp.bottom) == 1 and param.HasField("height") and param.HasField("width"):
            continue
        tops = [one.top_shapes[0] for info in infos.values() for one in info.layers if one.name == interp.name]
        sizes = {None if shape is None else shape[2:] for shape in tops}
        if len(sizes) != 1 or None in sizes:
            skipped.append(Skipped(interp.name, _why_not(sizes)))
            continue
        if len(interp.bottom) == 2:
            singled.append(interp)
        param.ClearField("zoom_factor")
        param.ClearField("shrink_factor")
        param.height, param.width = sizes.pop()
        fixed += 1
        edits.append(f"layer '{interp.name}': {param.height}x{param.width}")
    edits.extend(_drop_second_bottoms(net, graphs, singled))
    coverage = f"fixed {fixed} of {fixed + len(skipped)} Interp" if fixed or skipped else ""
    return PassResult(replace(done.model, net=net), tuple(edits), tuple(skipped), coverage)


@registry.add("batch")
def batch(model: Model, *, batch_size: int) -> PassResult:
    """Give all inputs another number of items, in every phase.

    Raises Error for a layer whose shape or weights fix a batch.
    """
    if batch_size < 1:
        raise Error(f"a batch of {batch_size} is none", hint="give a number of at least 1")
    net = editable(model.net)
    if any(not shape.dim for shape in net.input_shape):
        raise Error("an input_shape has no axes, so that there is no batch")
    new = with_batch(net, batch_size)
    skipped = tuple(Skipped(layer.name, "no field of the file sets its batch") for layer in net.layer
                    if layer.type == "Python" and not layer.bottom
                    or layer.type == "Input" and not layer.input_param.shape)
    changed = [f"layer '{layer.name}'" for before, layer in zip(net.layer, new.layer) if before != layer]
    if new.input_dim != net.input_dim or new.input_shape != net.input_shape:
        changed = [*(f"input '{name}'" for name in net.input), *changed]
    if not changed:
        return PassResult(model, skipped=skipped)
    for layer in net.layer:
        param = layer.reshape_param
        if layer.type == "Reshape" and param.axis == 0 and param.num_axes and param.shape.dim[:1] > [0]:
            raise Error(f"its shape fixes a batch of {param.shape.dim[0]}", f"layer '{layer.name}'",
                        "write 0, the bottom's own, as its first dim")
        if layer.type in ("LSTM", "RNN"):
            raise Error(f"the first axis of what {layer.type} reads is time, not the batch", f"layer '{layer.name}'")
    old = _infos(net)
    infos = {phase: infer(new, phase, allow_unknown=True) for phase in old}
    for name, before, after in _param_changes(old, infos):
        raise Error(f"its parameters are {before} and would be {after}: they depend on the batch", f"layer '{name}'")
    edits = tuple(f"{name}: batch of {batch_size}" for name in changed)
    return PassResult(replace(model, net=new), edits, skipped)


def _infos(net: Any, given: Optional[Mapping[str, Shape]] = None) -> Dict[int, NetInfo]:
    """Infer a net in both phases, or in the one that it is for; raise Error where it is for neither."""
    infos, errors = {}, []
    for phase in PHASES.values():
        try:
            infos[phase] = infer(net, phase, given=given, allow_unknown=True)
        except Error as error:
            errors.append(error)
    if not infos:
        raise errors[-1]
    return infos


def _planes(infos: Mapping[int, NetInfo], name: str) -> Set[Optional[Shape]]:
    """Return the planes that a layer reads, in all phases."""
    shapes = [one.bottom_shapes[0] for info in infos.values() for one in info.layers if one.name == name]
    return {None if shape is None else shape[2:] for shape in shapes}


def _whole_planes(net: Any, infos: Mapping[int, NetInfo]) -> Set[str]:
    """Return the average poolings whose window is their whole plane, and that lead to an InnerProduct."""
    found = set()
    for phase, info in infos.items():
        graph = Graph(layers_in(net, net_state(phase, net)))
        shapes = {one.name: one.bottom_shapes[0] for one in info.layers if one.type == "Pooling"}
        for index, layer in enumerate(graph.layers):
            param, shape = layer.pooling_param, shapes.get(layer.name)
            if layer.type != "Pooling" or param.pool != param.AVE or param.global_pooling or shape is None:
                continue
            window = (param.kernel_h or param.kernel_size, param.kernel_w or param.kernel_size)
            padded = param.pad or param.pad_h or param.pad_w
            if window == shape[2:] and not padded and _feeds_inner_product(graph, graph.makes[index]):
                found.add(layer.name)
    return found


def _feeds_inner_product(graph: Graph, versions: Iterable[Version]) -> bool:
    waiting = list(versions)
    while waiting:
        for reader, _ in waiting.pop().readers:
            kind = graph.layers[reader].type
            if kind == "InnerProduct":
                return True
            if kind in PASSING:
                waiting.extend(graph.makes[reader])
    return False


def _make_global(param: Any) -> None:
    for name in ("kernel_size", "kernel_h", "kernel_w", "stride", "stride_h", "stride_w", "pad", "pad_h", "pad_w"):
        param.ClearField(name)
    param.global_pooling = True


def _follow_interps(net: Any, old: Mapping[int, NetInfo]) -> Iterable[str]:
    """Set each fixed Interp to the plane that the earlier blobs of its old size have now."""
    fixed = [index for index, layer in enumerate(net.layer) if layer.type == "Interp"
             and layer.interp_param.HasField("height") and layer.interp_param.HasField("width")]
    sizes: Dict[int, Set[Shape]] = {index: set() for index in fixed}
    moved: Set[int] = set()
    for phase, info in old.items() if fixed else ():
        # Each is asked to follow one blob of its old size; whether the others went the same way is seen afterwards.
        follower = editable(net)
        like = {index: _earlier(net, index, info) for index in fixed}
        for index, names in like.items():
            if names:
                follower.layer[index].ClearField("interp_param")
                follower.layer[index].bottom.append(names[0])
        now = infer(follower, phase, allow_unknown=True)
        for index, names in like.items():
            sizes[index].update(now.blobs[name][2:] for name in names if now.blobs[name] is not None)
            if _planes({phase: now}, net.layer[index].name) != _planes({phase: info}, net.layer[index].name):
                moved.add(index)
    for index in fixed:
        layer, param = net.layer[index], net.layer[index].interp_param
        size = (param.height, param.width)
        if len(sizes[index]) > 1 or (not sizes[index] and index in moved):
            found = " or ".join(sorted(map(format_shape, sizes[index]))) or "no earlier blob has that plane"
            raise Error(f"its size {format_shape(size)} is fixed, and what it should be now is not known: {found}",
                        f"layer '{layer.name}'", "--pass resize-input before --pass fix-interp")
        if sizes[index] and size not in sizes[index]:
            param.height, param.width = sizes[index].pop()
            yield f"layer '{layer.name}': {param.height}x{param.width}"


def _earlier(net: Any, index: int, info: NetInfo) -> List[str]:
    """Return the blobs of the size of a fixed Interp that are made before it, and not written again after it."""
    param = net.layer[index].interp_param
    state = net_state(info.phase, net)
    if not any(layer is net.layer[index] for layer in layers_in(net, state)):
        return []
    made = dict.fromkeys(net.input)
    for position, layer in enumerate(net.layer):
        for name in layer.top:
            if position < index:
                made[name] = None
            else:
                made.pop(name, None)
    shapes = {name: info.blobs.get(name) for name in made}
    return [name for name, shape in shapes.items()
            if shape is not None and len(shape) == 4 and shape[2:] == (param.height, param.width)]


def _param_changes(
    old: Mapping[int, NetInfo], new: Mapping[int, NetInfo]
) -> Iterable[Tuple[str, str, str]]:
    """Yield each layer whose parameters have other shapes now: its name, the shapes before and after."""
    told: Set[str] = set()
    for phase in set(old) & set(new):
        before = {one.name: one.params for one in old[phase].layers}
        for one in new[phase].layers:
            if one.known and before.get(one.name) and before[one.name] != one.params and one.name not in told:
                told.add(one.name)
                yield one.name, _shapes(before[one.name]), _shapes(one.params)


def _check_weights(model: Model, infos: Mapping[int, NetInfo]) -> None:
    """Raise Error where a layer's weights are not those that the net asks for; axes of 1 do not count."""
    for info in infos.values():
        for one in info.layers:
            for array, param in zip(model.blobs.get(one.name, ()), one.params):
                if [size for size in array.shape if size != 1] != [size for size in param.shape if size != 1]:
                    what = f"its weights are {format_shape(array.shape)}, and the new input asks for"
                    raise Error(f"{what} {format_shape(param.shape)}", f"layer '{one.name}'",
                                "train it again for this input, or pool the whole plane before it")


def _shapes(params: Sequence[Any]) -> str:
    return " and ".join(format_shape(one.shape) for one in params)


def _why_not(sizes: Set[Optional[Shape]]) -> str:
    if not sizes:
        return "no phase has it without a stage"
    return "the size of what it reads is not known" if None in sizes else "its size differs between the phases"


def _drop_second_bottoms(net: Any, graphs: Iterable[Graph], interps: Sequence[Any]) -> Iterable[str]:
    """Let Interps read one bottom, and end by a Silence in the same states what only they read.

    ``graphs`` are those of the net's phases, on the layers of the net itself.
    """
    single = {id(layer) for layer in interps}
    ends: Dict[int, str] = {}
    for graph in graphs:
        left: Dict[Version, int] = {}
        for index, layer in enumerate(graph.layers):
            version = graph.reads[index][1] if id(layer) in single else None
            if version is None:
                continue
            left[version] = left.get(version, len(version.readers)) - 1
            if not left[version] and graph.newest[version.blob] is version:
                ends[id(layer)] = version.blob
    layers = []
    for layer in net.layer:
        layers.append(layer)
        if id(layer) in single:
            del layer.bottom[1:]
        if id(layer) in ends:
            silence = type(layer)(name=f"{layer.name}/silence", type="Silence", bottom=[ends[id(layer)]])
            silence.include.extend(layer.include)
            silence.exclude.extend(layer.exclude)
            layers.append(silence)
            yield f"layer '{silence.name}': ends '{ends[id(layer)]}', which only this Interp read"
    if ends:
        copies = type(net)(layer=layers)
        del net.layer[:]
        net.layer.extend(copies.layer)
