"""What a net needs where its blobs share memory (``train --memory shared`` and ``lean``).

The plan is the one that our Caffe makes (tools/caffe/memory/memory_plan.cpp), from the same table of layer types. A
step of L layers has 2 L moments: forward of layer i at i, backward at 2 L - 1 - i. The data or the difference of a blob
lives from the moment that writes it first to the last one that reads it; arrays whose lives do not meet may share a
slot, the largest placed first. With ``lean``, BN's and ReLU's tops are given up after the forward pass and made again.
"""

from __future__ import annotations

import functools
import importlib.util
import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Dict, List, Optional, Set, Tuple

from prototxt_gen.core.graph import TRAIN, loss_weights, shares_memory
from prototxt_gen.spec.backward import Backward, backward_passes
from prototxt_gen.spec.infer import LayerInfo, NetInfo

PLAIN, SHARED, LEAN = SHARING = ("plain", "shared", "lean")
RULE = re.compile(r"^LAYER_RULE\((\w+), k(\w+)\)$", re.MULTILINE)
SIZE_ONLY = ("Interp", "Crop")  # their second bottoms tell a size, and get no difference

Moments = Tuple[int, int]


@dataclass
class Node:
    """A layer with its blobs as numbers, and its backward pass."""

    info: LayerInfo
    bottoms: List[int]
    tops: List[int]
    backward: Backward

    @property
    def type(self) -> str:
        """The layer's type."""
        return self.info.type

    @functools.cached_property
    def reads(self) -> Optional[str]:
        """What its backward pass reads: Nothing, Bottoms, Tops, Both or Metric; None where that is unknown."""
        layer = self.info.layer
        if self.type == "BN":
            return "Nothing" if layer.bn_param.frozen else "Bottoms"
        if self.type == "Pooling":
            return "Tops" if len(self.tops) > 1 else "Nothing"
        if self.type == "Eltwise":
            param = layer.eltwise_param
            return "Nothing" if param.operation != param.PROD else "Bottoms" if param.stable_prod_grad else "Both"
        return layer_rules().get(self.type)

    @functools.cached_property
    def keeps_tops(self) -> bool:
        """True where its tops must have memory of their own."""
        return self.reads in (None, "Metric") or not self.bottoms

    @property
    def repeats(self) -> bool:
        """True where its forward pass can run again for the same result."""
        return self.type == "ReLU" or (self.type == "BN" and self.bottoms[0] != self.tops[0])

    def shares(self, diff: bool) -> bool:
        """True where its tops stand in the memory of its first bottom."""
        return shares_memory(self.info.layer, diff)


@dataclass
class Array:
    """Data or differences that share one memory: lives as pairs of first and last moment."""

    values: int
    lives: List[Moments]


@dataclass(frozen=True)
class Plan:
    """The values of each shared slot, and the blobs whose data or difference stands in one."""

    slots: Tuple[int, ...]
    shared_data: Set[str]
    shared_diff: Set[str]

    @property
    def values(self) -> int:
        """Values of all slots together."""
        return sum(self.slots)


@functools.lru_cache(maxsize=None)
def layer_rules() -> Dict[str, str]:
    """Return what the backward pass of each layer type reads: the table that our Caffe is compiled with."""
    spec = importlib.util.find_spec("prototxt_gen.native")
    path = Path(spec.origin).with_name("memory") / "layer_rules.hpp"
    return dict(RULE.findall(path.read_text(encoding="utf-8")))


def plan(info: NetInfo, sharing: str) -> Plan:
    """Plan the memory of a net in which every layer is known: in TEST for a forward pass alone."""
    return _Planner(info, sharing).plan()


class _Planner:
    """Mirrors the Planner of memory_plan.cpp, step by step."""

    def __init__(self, info: NetInfo, sharing: str) -> None:
        self.trains = info.phase == TRAIN
        self.lean = sharing == LEAN and self.trains
        self.names: List[str] = []
        self.values: List[int] = []
        self._numbers: Dict[str, int] = {}
        self.nodes = [self._node(*both) for both in zip(info.layers, backward_passes(info))]
        self.kept = self._kept()
        self.arrays: List[Array] = []
        self.shared: Tuple[Set[str], Set[str]] = (set(), set())

    def _node(self, layer: LayerInfo, backward: Backward) -> Node:
        bottoms = [self._numbers[name] for name in layer.bottoms]
        tops = []
        for position, (name, shape) in enumerate(zip(layer.tops, layer.top_shapes)):
            if position not in layer.in_place:
                self._numbers[name] = len(self.names)
                self.names.append(name)
                self.values.append(0)
            number = self._numbers[name]
            self.values[number] = max(self.values[number], math.prod(shape or ()))
            tops.append(number)
        return Node(layer, bottoms, tops, backward)

    def _kept(self) -> Set[int]:
        """Return the blobs that are results of the net or carry the weight of a loss."""
        kept: Set[int] = set()
        for node in self.nodes:
            kept.difference_update(node.bottoms)
            kept.update(node.tops)
        return kept.union(*([top for top, weight in zip(node.tops, loss_weights(node.info.layer)) if weight]
                            for node in self.nodes))

    def plan(self) -> Plan:
        self._add_data()
        if self.trains:
            self._add_diffs()
        return Plan(tuple(self._place()), *self.shared)

    def _backward(self, index: int) -> int:
        return 2 * len(self.nodes) - 1 - index

    def _roots(self, diff: bool) -> List[int]:
        roots = list(range(len(self.names)))
        for node in self.nodes:
            if node.shares(diff):
                for top in node.tops:
                    roots[top] = roots[node.bottoms[0]]
        return roots

    def _add_data(self) -> None:
        roots = self._roots(diff=False)
        count = len(self.names)
        writers: List[List[int]] = [[] for _ in range(count)]
        readers: List[List[int]] = [[] for _ in range(count)]
        later: List[List[int]] = [[] for _ in range(count)]  # layers whose backward pass reads it
        apart, aliased = [False] * count, [False] * count
        for index, node in enumerate(self.nodes):
            for bottom in node.bottoms:
                root = roots[bottom]
                readers[root].append(index)
                apart[root] |= node.reads is None
                if self.trains and node.backward.runs and node.reads in ("Bottoms", "Both", "Metric"):
                    later[root].append(index)
            for top in node.tops:
                root = roots[top]
                apart[root] |= node.keeps_tops
                if node.shares(diff=False):
                    aliased[root] = True
                    continue
                writers[root].append(index)
                apart[root] |= aliased[root]
                if self.trains and node.backward.runs and node.reads in ("Tops", "Both"):
                    later[root].append(index)
        for blob in self.kept:
            apart[roots[blob]] = True
        order = [blob for blob in range(count) if roots[blob] == blob]
        wanted = {root: [self._backward(index) for index in later[root]] for root in order}
        repeated = set()
        for root in reversed(order):
            if not self.lean or apart[root] or not later[root]:
                continue
            if not all(self.nodes[index].repeats for index in writers[root]):
                continue
            first = writers[root][0]
            source = roots[self.nodes[first].bottoms[0]]
            if source != root and (apart[source] or first in later[source]):
                repeated.add(root)
                wanted[source].append(min(wanted[root]))
        members: Dict[int, List[int]] = {}
        for blob in range(count):
            members.setdefault(roots[blob], []).append(blob)
        for root in order:
            if apart[root]:
                continue
            moments = wanted[root]
            life = (writers[root][0], max(writers[root][-1], *readers[root]))
            if root in repeated:
                lives = [life, (min(moments), max(moments))]
            else:
                lives = [(life[0], max([life[1], *moments]))]
            self._add(members[root], lives, diff=False)

    def _add_diffs(self) -> None:
        roots = self._roots(diff=True)
        count = len(self.names)
        born, dies, tops = [-1] * count, [-1] * count, [0] * count
        apart, zero = [False] * count, [False] * count
        for index, node in enumerate(self.nodes):
            for position, bottom in enumerate(node.bottoms):
                root = roots[bottom]
                scratch = node.backward.runs and not node.backward.bottoms[position]
                apart[root] |= node.reads in (None, "Metric") or scratch
                zero[root] = not node.backward.runs or (position > 0 and node.type in SIZE_ONLY)
                born[root] = index
            for position, top in enumerate(node.tops):
                root = roots[top]
                in_place = position < len(node.bottoms) and node.bottoms[position] == top
                apart[root] |= node.keeps_tops or (in_place and not node.backward.runs)
                tops[root] += 1
                if dies[root] < 0:
                    dies[root] = index
                    apart[root] |= not node.backward.runs
        for blob in self.kept:
            apart[roots[blob]] = True
        members: Dict[int, List[int]] = {}
        for blob in range(count):
            members.setdefault(roots[blob], []).append(blob)
        for root, blobs in members.items():
            if apart[root] or born[root] < 0 or (zero[root] and (len(blobs) > 1 or tops[root] > 1)):
                continue
            first = dies[root] if zero[root] else born[root]
            self._add(blobs, [(self._backward(first), self._backward(dies[root]))], diff=True)

    def _add(self, blobs: List[int], lives: List[Moments], diff: bool) -> None:
        self.shared[diff].update(self.names[blob] for blob in blobs)
        self.arrays.append(Array(max(self.values[blob] for blob in blobs), lives))

    def _place(self) -> List[int]:
        slots: List[int] = []
        taken: List[int] = []  # by slot: bit m is set where it is in use at moment m
        for array in sorted(self.arrays, key=lambda one: (-one.values, one.lives[0][0])):
            moments = sum((1 << last + 1) - (1 << first) for first, last in array.lives)
            for slot, used in enumerate(taken):
                if not moments & used:
                    taken[slot] |= moments
                    break
            else:
                slots.append(array.values)
                taken.append(moments)
        return slots
