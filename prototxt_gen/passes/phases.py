"""split-phases and merge-phases: one file for both phases, and a file for each.

A layer is in a state s when it has ``include`` rules and s meets one of them, or has none and s meets none of its
``exclude`` rules. Where the phase p is known beforehand, a rule r comes down to r|p:

    1. r names another phase          r|p is never met
    2. r names p and nothing else     r|p is always met
    3. else                           r|p is r without its phase: its stages and levels

split:  the layers in order, each with its rules r|p; a layer that no state of p has is left out.
merge:  for nets A (TRAIN) and B (TEST) the shortest list found that has the layers of A and those of B in their order:
        a layer that both have, equal to the byte, once; every other one with ``include { phase }`` of its own.

So split(merge(A, B), p) is A or B again, and merge(split(N, TRAIN), split(N, TEST)) has in every state what N has.
"""

from __future__ import annotations

import difflib
from dataclasses import replace
from typing import Any, Dict, Iterable, List, Mapping, Optional, Tuple

from prototxt_gen.core.errors import Error, did_you_mean
from prototxt_gen.core.graph import PHASES, TEST, TRAIN
from prototxt_gen.core.io import Model
from prototxt_gen.core.upgrade import upgrade_net
from prototxt_gen.passes.base import PassResult, registry

NAMES = {number: name.upper() for name, number in PHASES.items()}


@registry.add("split-phases")
def split_phases(model: Model, *, phase: str) -> PassResult:
    """Take the net of one phase out of a file for both. Stages and levels stay as they are.

    Raises Error for a phase other than ``train`` and ``test``, and for a layer with rules of both kinds.
    """
    if phase not in PHASES:
        raise Error(f"no phase is called '{phase}'", hint=did_you_mean(phase, PHASES, "phases: train, test"))
    net, edits = _of_phase(model.net, PHASES[phase])
    blobs, dropped = surviving_blobs(model.blobs, net)
    return PassResult(replace(model, net=net, blobs=blobs), (*edits, *dropped))


@registry.add("merge-phases")
def merge_phases(model: Model, *, test_net: Model) -> PassResult:
    """Join a net for TRAIN and a test net in one file for both phases.

    The net given is that of TRAIN. Where both nets bring weights for a layer, its own stay. Raises Error for nets of
    two dialects, and where the nets differ in what stands outside of layers.
    """
    if test_net.dialect is not model.dialect:
        what = f"the net is of dialect '{model.dialect.name}', and the test net of '{test_net.dialect.name}'"
        raise Error(what, hint="--pass dialect makes them one")
    train, _ = _of_phase(model.net, TRAIN)
    test, _ = _of_phase(test_net.net, TEST)
    edits: List[str] = []
    if any(list(getattr(train, name)) != list(getattr(test, name)) for name in ("input", "input_dim", "input_shape")):
        train, test = upgrade_net(train, "the net").message, upgrade_net(test, "the test net").message
        edits.append("the nets' own input fields differ: written as Input layers")
    merged = editable(train)
    if merged.state.HasField("phase"):
        merged.state.ClearField("phase")
        test.state.ClearField("phase")
    for field in ("state", "force_backward", "debug_info"):
        one, other = getattr(merged, field), getattr(test, field)
        if one != other:
            what = f"'{field}' is '{_line(one)}' in the net and '{_line(other)}' in the test net"
            raise Error(what, hint="one file has one for both phases")
    if merged.name != test.name:
        edits.append(f"the test net's name '{test.name}' gives way to '{merged.name}'")
    del merged.layer[:]
    edits.extend(_merge_layers(train, test, merged))
    blobs: Dict[str, Tuple[Any, ...]] = {**test_net.blobs, **model.blobs}
    blobs, dropped = surviving_blobs(blobs, merged)
    twice = [name for name in model.blobs if name in test_net.blobs and not _equal(blobs[name], test_net.blobs[name])]
    edits.extend(f"layer '{name}': the test net's other weights give way" for name in twice)
    return PassResult(replace(model, net=merged, blobs=blobs), (*edits, *dropped))


def editable(net: Any) -> Any:
    """Return a copy of a net for a pass to edit; raise Error for one in the layers of 2013 and 2014."""
    if net.layers:
        raise Error("the net is written in the layers of 2014", hint="--pass upgrade first")
    copy = type(net)()
    copy.CopyFrom(net)
    return copy


def surviving_blobs(
    blobs: Mapping[str, Tuple[Any, ...]], net: Any
) -> Tuple[Dict[str, Tuple[Any, ...]], Tuple[str, ...]]:
    """Return the weights of the layers that a net has, and a line for each layer that it has no more."""
    names = {layer.name for layer in net.layer}
    kept = {name: arrays for name, arrays in blobs.items() if name in names}
    return kept, tuple(f"layer '{name}': its weights go with it" for name in blobs if name not in names)


def _of_phase(net: Any, phase: int) -> Tuple[Any, List[str]]:
    """Return split(net, phase), and a line for each layer that is left out or loses a rule."""
    new, edits = editable(net), []
    del new.layer[:]
    for layer in net.layer:
        if layer.include and layer.exclude:
            raise Error("it has include and exclude, and Caffe takes one of them", f"layer '{layer.name}'")
        kept = _layer_of_phase(layer, phase)
        if kept is None:
            edits.append(f"layer '{layer.name}': not in {NAMES[phase]}")
            continue
        new.layer.append(kept)
        if kept != layer:
            edits.append(f"layer '{layer.name}': its rules for {NAMES[phase]} are met")
    if new.state.HasField("phase"):
        new.state.phase = phase
    return new, edits


def _layer_of_phase(layer: Any, phase: int) -> Optional[Any]:
    copy = type(layer)()
    copy.CopyFrom(layer)
    for name in ("include", "exclude"):
        rules = getattr(layer, name)
        always, left = _rules_of_phase(rules, phase)
        if rules and (always if name == "exclude" else not always and not left):
            return None
        del getattr(copy, name)[:]
        if not always:
            getattr(copy, name).extend(left)
    return copy


def _rules_of_phase(rules: Iterable[Any], phase: int) -> Tuple[bool, List[Any]]:
    """Return whether one of the rules is always met in a phase, and else what is left of them."""
    left = []
    for rule in rules:
        if rule.HasField("phase") and rule.phase != phase:  # case 1
            continue
        rest = type(rule)()
        rest.CopyFrom(rule)
        rest.ClearField("phase")
        if not rest.ListFields():  # case 2
            return True, []
        left.append(rest)  # case 3
    return False, left


def _merge_layers(train: Any, test: Any, merged: Any) -> Iterable[str]:
    written = [[layer.SerializePartialToString(deterministic=True) for layer in net.layer] for net in (train, test)]
    matcher = difflib.SequenceMatcher(None, *written, autojunk=False)
    for tag, start, end, test_start, test_end in matcher.get_opcodes():
        if tag == "equal":
            merged.layer.extend(train.layer[start:end])
            continue
        for phase, layers in ((TRAIN, train.layer[start:end]), (TEST, test.layer[test_start:test_end])):
            for layer in layers:
                _restrict(merged.layer.add(), layer, phase)
                yield f"layer '{layer.name}': in {NAMES[phase]} only"


def _restrict(target: Any, layer: Any, phase: int) -> None:
    """Copy a layer, and let it be in one phase only."""
    target.CopyFrom(layer)
    for rule in target.include:
        rule.phase = phase
    if target.exclude:
        target.exclude.add(phase=TEST if phase == TRAIN else TRAIN)
    elif not target.include:
        target.include.add(phase=phase)


def _line(value: Any) -> str:
    return str(value).strip().replace("\n", " ")


def _equal(one: Tuple[Any, ...], other: Tuple[Any, ...]) -> bool:
    pairs = list(zip(one, other))
    return len(one) == len(other) and all(a is b or (a.shape == b.shape and (a == b).all()) for a, b in pairs)
