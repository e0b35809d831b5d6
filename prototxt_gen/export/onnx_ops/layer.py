"""What a converter works with: one layer, its tensors and weights, and the ONNX nodes that it becomes."""

from __future__ import annotations

import importlib
import math
import pkgutil
from typing import Any, Callable, Dict, List, NamedTuple, Optional, Sequence, Set, Tuple, Union

from prototxt_gen.core.errors import Error
from prototxt_gen.spec.shapes import Shape

Dim = Union[int, str]  # a size, or the name of one that only a run tells, such as 'N'
Dims = Tuple[Dim, ...]
FIX_BATCH = "--batch N exports one batch size"


class Tensor(NamedTuple):
    """A bottom or top: its name in the ONNX graph, its shape at the batch of the file, and its dims in the graph."""

    name: str
    shape: Shape
    dims: Dims


def merged(dims: Sequence[Dim]) -> Dim:
    """Return several dims as one, such as 12 of (3, 4) and '3*N' of ('N', 3)."""
    number = math.prod(one for one in dims if isinstance(one, int))
    names = [one for one in dims if isinstance(one, str)]
    if not names:
        return number
    return "*".join(names if number == 1 else [str(number), *names])


class Initializer(NamedTuple):
    """A constant of the graph; ``array`` is a numpy array of float32 or int64."""

    name: str
    array: Any


class Names:
    """Names of tensors and nodes, each given once."""

    def __init__(self, taken: Sequence[str] = ()) -> None:
        self._taken: Set[str] = set(taken)

    def unique(self, name: str) -> str:
        """Return ``name``, with a number behind it where it is taken."""
        free, number = name, 1
        while free in self._taken:
            number += 1
            free = f"{name}_{number}"
        self._taken.add(free)
        return free


class Layer:
    """One layer on its way to ONNX.

    A converter reads ``proto``, ``bottoms``, ``tops`` and ``blobs`` (numpy arrays of the shapes that ``spec.infer``
    gives), adds nodes with ``op`` and returns the names of the tensors that become its tops.
    """

    def __init__(
        self, proto: Any, bottoms: Sequence[Tensor], tops: Sequence[Tensor], blobs: Sequence[Any],
        tensor_names: Names, node_names: Names, bn_statistic: Optional[str],
    ) -> None:
        self.proto = proto
        self.bottoms = tuple(bottoms)
        self.tops = tuple(tops)
        self.blobs = tuple(blobs)
        self.bn_statistic = bn_statistic
        self.nodes: List[Any] = []
        self.initializers: List[Initializer] = []
        self._tensor_names = tensor_names
        self._node_names = node_names

    @property
    def x(self) -> str:
        """Name of the first bottom's tensor."""
        return self.bottoms[0].name

    @property
    def shape(self) -> Shape:
        """Shape of the first bottom."""
        return self.bottoms[0].shape

    def op(self, kind: str, *inputs: str, **attributes: Any) -> str:
        """Add a node with one output and return the output's name."""
        return self.ops(kind, inputs, 1, **attributes)[0]

    def ops(self, kind: str, inputs: Sequence[str], outputs: int, **attributes: Any) -> List[str]:
        """Add a node with several outputs and return their names."""
        from onnx import helper

        made = [self._tensor_names.unique(f"{self.proto.name}/{kind}") for _ in range(outputs)]
        self.nodes.append(helper.make_node(kind, list(inputs), made, **attributes))
        return made

    def floats(self, role: str, values: Any) -> str:
        """Add a constant of float32, called ``layer/role``, and return its name."""
        import numpy

        return self._constant(role, numpy.asarray(values, numpy.float32))

    def integers(self, role: str, values: Any) -> str:
        """Add a constant of int64, called ``layer/role``, and return its name."""
        import numpy

        return self._constant(role, numpy.asarray(values, numpy.int64))

    def reshape(self, x: str, dims: Dims, wanted: Dims) -> str:
        """Reshape ``x`` from ``dims`` to ``wanted``; nothing is added where they agree."""
        if dims == wanted:
            return x
        # 0 copies the dimension in the same place, and one -1 takes what is left.
        target = [one if isinstance(one, int) else 0 if dims[i: i + 1] == (one,) else -1
                  for i, one in enumerate(wanted)]
        if target.count(-1) > 1:
            raise self.error("the batch cannot be dynamic here: it stands in several axes", FIX_BATCH)
        return self.op("Reshape", x, self.integers("shape", target))

    def multiply(self, x: str, factor: float, role: str = "factor") -> str:
        """Multiply by a number; nothing is added for 1."""
        return x if factor == 1 else self.op("Mul", x, self.floats(role, factor))

    def plus(self, x: str, summand: float, role: str = "summand") -> str:
        """Add a number; nothing is added for 0."""
        return x if summand == 0 else self.op("Add", x, self.floats(role, summand))

    def fixed(self, tensor: Tensor, first: int, last: Optional[int] = None) -> Shape:
        """Return sizes of a bottom or top, from axis ``first`` up to ``last``; Error where the open batch is one."""
        if any(isinstance(one, str) for one in tensor.dims[first:last]):
            raise self.error("the batch cannot be dynamic here: it stands in an axis that the layer works along",
                             FIX_BATCH)
        return tensor.shape[first:last]

    def error(self, what: str, hint: str = "") -> Error:
        """Return an Error that names the layer."""
        return Error(what, f"layer '{self.proto.name}' ({self.proto.type})", hint)

    def finish(self, results: Sequence[str]) -> None:
        """Give the tensors that a converter returned the names of the tops, and the nodes behind them the layer's."""
        renamed: Dict[str, str] = {}
        made = {name for node in self.nodes for name in node.output}
        for name, top in zip(results, self.tops):
            if name in made and name not in renamed:
                renamed[name] = top.name
            else:
                # A bottom or constant handed on, or one tensor under two names.
                renamed[self.op("Identity", name)] = top.name
        for node in self.nodes:
            makes_top = any(name in renamed for name in node.output)
            node.name = self._node_names.unique(self.proto.name if makes_top else node.output[0])
            for names in (node.input, node.output):
                for i, name in enumerate(names):
                    names[i] = renamed.get(name, name)

    def _constant(self, role: str, array: Any) -> str:
        name = self._tensor_names.unique(f"{self.proto.name}/{role}")
        self.initializers.append(Initializer(name, array))
        return name


Converter = Callable[[Layer], Union[str, Sequence[str]]]


class Converters:
    """The converters by layer type: one owner each."""

    def __init__(self) -> None:
        self._owners: Dict[str, Converter] = {}
        self._complete = False

    def add(self, *types: str) -> Callable[[Converter], Converter]:
        """Register a converter for one or more layer types; it returns the name of the top's tensor, or of several."""
        def register(function: Converter) -> Converter:
            for name in types:
                if name in self._owners:
                    raise ValueError(f"layer type '{name}' has a converter already")
                self._owners[name] = function
            return function

        return register

    def __contains__(self, name: str) -> bool:
        return name in self._all()

    def types(self) -> List[str]:
        """Return the names of all layer types with a converter."""
        return sorted(self._all())

    def run(self, layer: Layer) -> None:
        """Fill a layer's nodes and initializers."""
        results = self._all()[layer.proto.type](layer)
        layer.finish([results] if isinstance(results, str) else results)

    def _all(self) -> Dict[str, Converter]:
        if not self._complete:
            from prototxt_gen.export import onnx_ops

            for module in pkgutil.iter_modules(onnx_ops.__path__):
                importlib.import_module(f"{onnx_ops.__name__}.{module.name}")
            self._complete = True
        return self._owners


converters = Converters()
