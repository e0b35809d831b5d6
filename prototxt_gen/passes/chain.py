"""The layers of a net as passes join them: who makes a bottom, who reads a top, what may become one layer.

A net stands for several nets, one for each state that its include and exclude rules tell apart. Answers here hold in
every state: the rules of two layers that become one must be the same, and a reader in any state counts.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right, insort
from collections import Counter
from dataclasses import replace
from typing import Any, Dict, List, Mapping, Optional, Sequence, Set, Tuple

from prototxt_gen.core.errors import Error
from prototxt_gen.core.graph import TEST, TRAIN, layers_in, net_state, shared_writes
from prototxt_gen.core.io import Model


class Chain:
    """Copies of a model's layers, rewired step by step; an index keeps its layer until ``model`` is asked for.

    ``layers`` holds None where a layer was removed. ``blobs`` are the model's, as edited by the pass.
    """

    def __init__(self, model: Model) -> None:
        if model.net.layers:
            raise Error("the net is written as files of 2014 were", hint="--pass upgrade first")
        self._model = model
        self.layers: List[Any] = []
        self.blobs: Dict[str, Tuple[Any, ...]] = dict(model.blobs)
        self.inputs: Set[str] = set(model.net.input)  # blobs that the user fills, or a data layer
        self._uses: Dict[str, List[int]] = {}
        self._new_names: Set[str] = set()
        self._rules: List[bytes] = []
        self._names: Counter = Counter()
        self._sharing: Dict[str, Set[int]] = {}
        for index, layer in enumerate(model.net.layer):
            copy = type(layer)()
            copy.CopyFrom(layer)
            self.layers.append(copy)
            self._rules.append(_rules(layer))
            self._note(copy, index)
            for name in {*layer.bottom, *layer.top}:
                self._uses.setdefault(name, []).append(index)
            if not layer.bottom:
                self.inputs.update(layer.top)

    def indices(self, *types: str) -> List[int]:
        """Return the indices of the layers of these types, in order."""
        return [index for index, layer in enumerate(self.layers) if layer is not None and layer.type in types]

    def maker(self, index: int, bottom: int = 0) -> Optional[int]:
        """Return the last layer before ``index`` that makes its bottom; None where it is an input of the net."""
        name = self.layers[index].bottom[bottom]
        uses = self._uses[name]
        for use in reversed(uses[:bisect_left(uses, index)]):
            if name in self.layers[use].top:
                return use
        return None

    def readers(self, index: int, top: int = 0) -> List[int]:
        """Return the layers that read this top in some state, before another layer writes over it."""
        name, found = self.layers[index].top[top], []
        for use in self._after(name, index):
            if name in self.layers[use].bottom:
                found.append(use)
            if name in self.layers[use].top and self._rules[use] in (b"", self._rules[index]):
                break
        return found

    def same_rules(self, first: int, second: int) -> bool:
        """True when both layers are in the net in the same states."""
        return self._rules[first] == self._rules[second]

    def has_rules(self, index: int) -> bool:
        """True for a layer that is not in the net in every state."""
        return self._rules[index] != b""

    def has_own_name(self, index: int) -> bool:
        """True when no other layer, in whatever phase, has this one's name, and with it its weights."""
        return self._names[self.layers[index].name] == 1

    def namesakes(self, index: int) -> List[Any]:
        """Return the other layers of the same name."""
        name = self.layers[index].name
        return [one for i, one in enumerate(self.layers) if one is not None and one.name == name and i != index]

    def shares(self, index: int) -> Optional[str]:
        """Return the name of a layer that shares a parameter, or the name and with it the weights, with this one."""
        layer = self.layers[index]
        if not self.has_own_name(index):
            return layer.name
        for spec in layer.param:
            for other in sorted(self._sharing.get(spec.name, ())):
                if other != index:
                    return self.layers[other].name
        return None

    def sharing(self, name: str) -> Set[int]:
        """Return the layers that have a parameter of this name."""
        return self._sharing.get(name, set())

    def unique_name(self, name: str) -> str:
        """Return ``name``, with a number where a layer or blob has it already."""
        candidate, number = name, 2
        while candidate in self._names:
            candidate, number = f"{name}_{number}", number + 1
        self._names[candidate] += 1
        return candidate

    def in_place(self, index: int) -> bool:
        """True for a layer that writes over its first bottom."""
        layer = self.layers[index]
        return bool(layer.bottom) and layer.bottom[0] in layer.top

    def rewritten(self, name: str, first: int, last: int) -> bool:
        """True when a layer between the two makes a blob of this name."""
        return any(name in self.layers[use].top for use in self._between(name, first, last))

    def why_apart(self, first: int, second: int, *, joined: bool = True) -> str:
        """Say why the first layer and the second, which reads it, cannot become one in the first's place.

        The word for the first layer, to stand behind its type; empty where they can. ``joined`` false: only whether the
        second alone reads it.
        """
        one, two = self.layers[first], self.layers[second]
        readers = self.readers(first)
        if len(one.top) != 1:
            return f"with {len(one.top)} tops"
        if not self.same_rules(first, second):
            return "of other phases"
        if len(readers) != 1:
            return f"that {len(readers)} layers read"
        if any(one.loss_weight):
            return "with a loss weight"
        between, top = one.top[0], two.top[0]
        if joined and between != top:
            if self._uses[between][-1] > second or self._uses[top][0] < second:
                return "of whose blobs other phases make their own"
            if self.in_place(first) and between in self.inputs:
                return "that works in place on the net's input"
        return ""

    def absorb(self, first: int, second: int) -> None:
        """Take out the second layer; the first makes its top. For two that ``why_apart`` finds nothing against.

        Where the first works in place, what stands before it takes the new name too: under its old name it would
        stand for other values than before.
        """
        between, top = self.layers[first].top[0], self.layers[second].top[0]
        in_place = self.in_place(first)
        self.remove(second)
        if in_place:
            self.rename(between, top)
        else:
            self.set_top(first, top)

    def remove(self, index: int) -> None:
        """Take a layer out, and its weights with the last layer of its name."""
        layer = self.layers[index]
        for name in {*layer.bottom, *layer.top}:
            self._uses[name].remove(index)
        self.layers[index] = None
        self._forget(layer, index)

    def replace(self, index: int, message: Any) -> None:
        """Put another layer, of the same bottoms and tops, in the place of one."""
        old, self.layers[index] = self.layers[index], message
        self._note(message, index)
        if message.name == old.name:
            self._names[old.name] -= 1
        else:
            self._forget(old, index)

    def set_bottom(self, index: int, name: str, bottom: int = 0) -> None:
        """Let a layer read another blob."""
        self._exchange(index, self.layers[index].bottom, bottom, name)

    def set_top(self, index: int, name: str, top: int = 0) -> None:
        """Give a layer's top another name."""
        self._exchange(index, self.layers[index].top, top, name)

    def rename(self, old: str, new: str) -> None:
        """Call a blob by another name wherever it stands."""
        if old == new:
            return
        for index in list(self._uses.get(old, ())):
            layer = self.layers[index]
            for names in (layer.bottom, layer.top):
                for position, name in enumerate(names):
                    if name == old:
                        self._exchange(index, names, position, new)

    def move_aside(self, index: int) -> bool:
        """Give what a layer in place reads a name of its own; False where that is an input or has other readers."""
        name, moved = self.layers[index].bottom[0], [index]
        if name in self._new_names:  # nobody outside knows what it stood for
            return True
        if name in self.inputs:
            return False
        while len(moved) == 1 or self.in_place(moved[-1]):
            maker = self.maker(moved[-1])
            if maker is None or self.why_apart(maker, moved[-1], joined=False):
                return False
            moved.append(maker)
        new, number = f"{name}/input", 2
        while new in self._uses:
            new, number = f"{name}/input_{number}", number + 1
        self._new_names.add(new)
        for one in moved:
            for names in (self.layers[one].bottom, self.layers[one].top if one != index else ()):
                for position, old in enumerate(names):
                    if old == name:
                        self._exchange(one, names, position, new)
        return True

    def take_output(self, old: str, new: str) -> str:
        """Let the blob ``old`` carry the name of the output ``new``; return why that cannot be, else nothing."""
        if old in self.inputs:
            return "it stands between an input and an output of the net"
        if self.is_output(old):
            return "what it reads is an output of the net, too"
        self.rename(old, new)
        return ""

    def is_output(self, name: str) -> bool:
        """True for a blob that the net as it was given puts out: nothing reads it after it was last written."""
        last = None
        for layer in self._model.net.layer:
            if name in layer.bottom:
                last = "bottom"
            if name in layer.top:
                last = "top"
        return last == "top"

    def model(self, layers: Optional[List[Any]] = None) -> Model:
        """Return the model of the layers that are left, or of ``layers``."""
        kept = [layer for layer in (self.layers if layers is None else layers) if layer is not None]
        net = type(self._model.net)()
        net.CopyFrom(self._model.net)
        del net.layer[:]
        net.layer.extend(kept)
        return replace(self._model, net=net, blobs=self.blobs)

    def _note(self, layer: Any, index: int) -> None:
        self._names[layer.name] += 1
        for spec in layer.param:
            if spec.name:
                self._sharing.setdefault(spec.name, set()).add(index)

    def _forget(self, layer: Any, index: int) -> None:
        for spec in layer.param:
            self._sharing.get(spec.name, set()).discard(index)
        self._names[layer.name] -= 1
        if not self._names[layer.name]:
            del self._names[layer.name]
            self.blobs.pop(layer.name, None)

    def _exchange(self, index: int, names: Any, position: int, new: str) -> None:
        old, layer = names[position], self.layers[index]
        names[position] = new
        if old not in layer.bottom and old not in layer.top:
            self._uses[old].remove(index)
        uses = self._uses.setdefault(new, [])
        at = bisect_left(uses, index)
        if at == len(uses) or uses[at] != index:
            insort(uses, index)

    def _after(self, name: str, index: int) -> List[int]:
        uses = self._uses[name]
        return uses[bisect_right(uses, index):]

    def _between(self, name: str, first: int, last: int) -> List[int]:
        uses = self._uses.get(name, [])
        return uses[bisect_right(uses, first):bisect_left(uses, last)]


def coverage(done: str, counts: Mapping[str, Tuple[int, int]]) -> str:
    """Return a sentence such as 'folded 70 of 107 BN, 3 of 4 Scale' from (done, all) by type; empty for none at all."""
    parts = [f"{some} of {every} {kind}" for kind, (some, every) in counts.items() if every]
    return f"{done} {', '.join(parts)}" if parts else ""


def loss_of(net: Any) -> Optional[str]:
    """Return the name of the loss of a net that can be trained; None for others.

    Such a net has a loss in TRAIN, and all that its layers read. One that says ``state { phase: TEST }`` is for TEST,
    whatever it holds.
    """
    if net.HasField("state") and net.state.HasField("phase") and net.state.phase == TEST:
        return None
    made, loss = set(net.input), None
    for layer in layers_in(net, net_state(TRAIN, net)):
        if not made.issuperset(layer.bottom):
            return None
        made.update(layer.top)
        if layer.type.endswith("Loss") or any(layer.loss_weight):
            loss = loss or layer.name
    return loss


def refuse_training(net: Any, what_differs: str) -> None:
    """Raise Error for a net that can be trained."""
    loss = loss_of(net)
    if loss is not None:
        hint = "--pass train-to-deploy first"
        raise Error(f"the net is for training, and there {what_differs}: it ends in a loss", f"layer '{loss}'", hint)


def refuse_shared_writes(net: Any, phases: Sequence[int] = (TRAIN, TEST)) -> None:
    """Raise Error where a layer changes in place what is read under another name too: no layer can be moved there."""
    for phase in phases:
        for layer, shared in shared_writes(layers_in(net, net_state(phase, net))):
            what = f"it works in place on '{layer.bottom[0]}', and so changes '{shared}', of the same memory"
            raise Error(what, f"layer '{layer.name}'", "give its top a name of its own")


def _rules(layer: Any) -> bytes:
    parts = [b"+" + rule.SerializeToString() for rule in layer.include]
    return b"".join(parts + [b"-" + rule.SerializeToString() for rule in layer.exclude])
