"""Nets written in Python, with the names and the meaning of pycaffe's ``net_spec`` and without Caffe.

    from prototxt_gen import layers as L, params as P, NetSpec

    n = NetSpec()
    n.data, n.label = L.Data(batch_size=64, backend=P.Data.LMDB, source="train_lmdb", ntop=2)
    n.conv1 = L.Convolution(n.data, kernel_size=5, num_output=20, weight_filler=dict(type="xavier"))
    n.relu1 = L.ReLU(n.conv1, in_place=True)
    print(n.to_proto())

The schema is the registry: ``L`` makes any layer type, and a keyword goes to the parameter message of that type, or to
the layer itself when it ends in ``param`` or when the type's message has no such field.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any, Dict, Iterable, Iterator, List, Mapping, NoReturn, Set, Tuple, Union

from prototxt_gen.core.dialects import DEFAULT_DIALECT, Dialect, find_dialect
from prototxt_gen.core.errors import Error, did_you_mean, nearest

# Layer types that read the parameter message of another type; their options are written as that message.
_READS_PARAM_OF = {
    "Deconvolution": ("convolution_param",),
    "Im2col": ("convolution_param",),
    "LSTM": ("recurrent_param",),
    "RNN": ("recurrent_param",),
    "SoftmaxWithLoss": ("softmax_param", "loss_param"),
    "SigmoidCrossEntropyLoss": ("loss_param",),
}


class SpecTypeError(Error, TypeError):
    """Something other than a Top stands where a Top belongs."""


class UnknownBlobError(Error, AttributeError, KeyError):
    """A NetSpec has no top of this name: pycaffe's KeyError, and what ``hasattr`` and ``copy`` need besides."""


class Top:
    """One output blob of a layer."""

    def __init__(self, fn: Function, n: int) -> None:
        self.fn = fn
        self.n = n

    def __iter__(self) -> NoReturn:
        raise SpecTypeError(
            f"a layer of type {self.fn.type_name} gives one top, which is no sequence of tops",
            hint=f"a layer with two tops is written L.{self.fn.type_name}(..., ntop=2)",
        )

    def to_proto(self) -> Any:
        """Return a NetParameter of all the layers this top needs, with automatic names."""
        return to_proto(self)


class Function:
    """One layer: its type, the tops it reads, its parameters, the tops it makes."""

    def __init__(self, type_name: str, inputs: Iterable[Top], params: Mapping[str, Any]) -> None:
        params = dict(params)
        self.type_name = type_name
        self.inputs = tuple(inputs)
        self.ntop = params.pop("ntop", 1)
        self.in_place = params.pop("in_place", False)
        self.params = params
        for index, bottom in enumerate(self.inputs):
            if not isinstance(bottom, Top):
                raise SpecTypeError(
                    f"bottom {index} of a layer of type {type_name} is of type {type(bottom).__name__}, not a Top",
                    hint="pass what L.<Type>(...) or a NetSpec name returns; a layer with several tops returns a tuple",
                )
        if self.in_place and len(self.inputs) != 1:
            raise SpecTypeError(f"a layer of type {type_name} with {len(self.inputs)} bottoms cannot work in place")
        self.tops = tuple(Top(self, n) for n in range(self.ntop))

    def __iter__(self) -> NoReturn:
        raise SpecTypeError(f"a layer of type {self.type_name} with ntop=0 gives no tops")


class NetSpec:
    """A net under construction: assign tops to names, by attribute or by item, then call ``to_proto``."""

    tops: Dict[str, Union[Top, Function]]

    def __init__(self, dialect: Dialect = DEFAULT_DIALECT) -> None:
        super().__setattr__("tops", {})
        super().__setattr__("_dialect", dialect)

    def __setattr__(self, name: str, value: Union[Top, Function]) -> None:
        if not isinstance(value, (Top, Function)):
            several = isinstance(value, tuple)
            hint = f"give each of its {len(value)} tops a name" if several else "assign what L.<Type>(...) returns"
            raise SpecTypeError(f"'{name}' is assigned a value of type {type(value).__name__}, not a Top", hint=hint)
        self.tops[name] = value

    def __getattr__(self, name: str) -> Union[Top, Function]:
        # Only reached for names that are no attribute; "tops" is missing while copy or pickle rebuilds an object.
        if name != "tops" and name in self.tops:
            return self.tops[name]
        if name.startswith("__") or name == "tops":
            raise AttributeError(name)
        return self[name]

    def __setitem__(self, name: str, value: Union[Top, Function]) -> None:
        setattr(self, name, value)

    def __getitem__(self, name: str) -> Union[Top, Function]:
        if name in self.tops:
            return self.tops[name]
        raise UnknownBlobError(f"the net has no top '{name}' yet", hint=did_you_mean(name, self.tops))

    def __contains__(self, name: str) -> bool:
        return name in self.tops

    def to_proto(self) -> Any:
        """Return a NetParameter of all named tops and of what they need, in order of naming."""
        names = {top: name for name, top in self.tops.items()}
        return _emit((top if isinstance(top, Function) else top.fn for top in self.tops.values()), names, self._dialect)


class Layers:
    """``L``: every attribute makes layers of that type."""

    def __getattr__(self, type_name: str) -> Any:
        if type_name.startswith("__"):
            raise AttributeError(type_name)

        def layer(*bottoms: Top, **params: Any) -> Any:
            fn = Function(type_name, bottoms, params)
            return fn if fn.ntop == 0 else fn.tops[0] if fn.ntop == 1 else fn.tops

        return layer


class Parameters:
    """``P``: the constants of parameter messages, such as ``P.Pooling.MAX``."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        messages = DEFAULT_DIALECT.message("NetParameter").DESCRIPTOR.file.message_types_by_name
        if name + "Parameter" not in messages:
            known = [one[: -len("Parameter")] for one in messages if one.endswith("Parameter")]
            raise AttributeError(str(Error(f"the schema has no {name}Parameter", hint=did_you_mean(name, known))))
        return _Constants(DEFAULT_DIALECT.message(name + "Parameter"))


class _Constants:
    """The enum values of one parameter message."""

    def __init__(self, message: Any) -> None:
        self._message = message

    def __getattr__(self, name: str) -> int:
        values = {value.name: value.number for enum in self._message.DESCRIPTOR.enum_types for value in enum.values}
        if name not in values:
            message = self._message.DESCRIPTOR.name
            hint = did_you_mean(name, values, f"its constants are {', '.join(values)}" if values else "")
            raise AttributeError(str(Error(f"{message} has no constant '{name}'", hint=hint)))
        return values[name]


layers = Layers()
params = Parameters()


def to_proto(*tops: Top) -> Any:
    """Return a NetParameter of all the layers that the given tops need, with automatic names."""
    return _emit((top.fn for top in tops), {}, DEFAULT_DIALECT)


def _emit(functions: Iterable[Function], names: Dict[Union[Top, Function], str], dialect: Dialect) -> Any:
    """Write each function after all it reads, depth first; on a stack of our own, for nets of any depth."""
    net = dialect.message("NetParameter")()
    namer = _Namer(names)
    done: Dict[Function, Any] = {}
    waiting: Set[Function] = set()
    for root in functions:
        stack: List[Tuple[Function, Iterator[Top]]] = [] if root in done else [(root, iter(root.inputs))]
        while stack:
            fn, rest = stack[-1]
            waiting.add(fn)
            missing = next((top.fn for top in rest if top.fn not in done), None)
            if missing in waiting:
                named = [f"'{namer.names[top]}'" for top in missing.tops if top in namer.names]
                raise SpecTypeError(f"a layer of type {missing.type_name} reads what is made of its own top"
                                    + f" {' or '.join(named)}" * bool(named))
            if missing is not None:
                stack.append((missing, iter(missing.inputs)))
                continue
            layer = net.layer.add()
            _write_layer(layer, fn, [done[top.fn].top[top.n] for top in fn.inputs], namer, dialect)
            done[fn] = layer
            waiting.discard(fn)
            stack.pop()
    return net


class _Namer:
    """Names given by the user, and pycaffe's automatic ones: the type and a running number."""

    def __init__(self, names: Dict[Union[Top, Function], str]) -> None:
        self.names = names
        self.counts: Dict[str, int] = {}

    def name(self, thing: Union[Top, Function], type_name: str) -> str:
        if thing not in self.names:
            self.counts[type_name] = self.counts.get(type_name, 0) + 1
            self.names[thing] = f"{type_name}{self.counts[type_name]}"
        return self.names[thing]


def _write_layer(layer: Any, fn: Function, bottoms: List[str], namer: _Namer, dialect: Dialect) -> None:
    layer.type = fn.type_name
    layer.bottom.extend(bottoms)
    layer.top.extend(bottoms if fn.in_place else [namer.name(top, fn.type_name) for top in fn.tops])
    layer.name = namer.name(fn.tops[0] if fn.ntop and fn not in namer.names else fn, fn.type_name)
    own_field = param_fields(dialect.name).get(fn.type_name)
    own_names = layer.DESCRIPTOR.fields_by_name[own_field].message_type.fields_by_name if own_field else {}
    for name, value in fn.params.items():
        place = f"layer '{layer.name}' ({fn.type_name})"
        if name in own_names and not name.endswith("param"):
            _assign(getattr(layer, own_field), name, value, place)
        elif name in layer.DESCRIPTOR.fields_by_name:
            _assign(layer, name, value, place)
        else:
            hint = _field_hint(fn.type_name, name, own_names, layer.DESCRIPTOR)
            raise Error(f"{place} has no field '{name}'", hint=hint)


@lru_cache(maxsize=None)
def param_fields(dialect_name: str) -> Dict[str, str]:
    """Map each layer type to its field of LayerParameter: the message is named after the type."""
    fields = find_dialect(dialect_name).message("LayerParameter").DESCRIPTOR.fields
    return {
        one.message_type.name[: -len("Parameter")]: one.name
        for one in fields
        if one.name.endswith("_param")
    }


def _assign(message: Any, name: str, value: Any, place: str) -> None:
    """Set a field from a Python value: dicts are messages, lists repeated fields; one value may stand for a list."""
    field = message.DESCRIPTOR.fields_by_name[name]
    repeated = hasattr(getattr(message, name), "extend")
    try:
        if repeated:
            for item in value if isinstance(value, (list, tuple)) else [value]:
                if isinstance(item, dict):
                    _assign_fields(getattr(message, name).add(), item, f"'{name}' of {place}")
                else:
                    getattr(message, name).append(item)
        elif isinstance(value, dict) and field.message_type is not None:
            getattr(message, name).SetInParent()  # an empty dict writes an empty message
            _assign_fields(getattr(message, name), value, f"'{name}' of {place}")
        elif field.message_type is not None:
            raise TypeError("it is a message: pass a dict")
        else:
            setattr(message, name, value)
    except (TypeError, ValueError, AttributeError) as error:
        hint = f"its values are {', '.join(field.enum_type.values_by_name)}" if field.enum_type else str(error)
        raise Error(f"field '{name}' of {place} does not take {value!r}", hint=hint) from None


def _assign_fields(message: Any, values: Mapping[str, Any], place: str) -> None:
    for name, value in values.items():
        if name not in message.DESCRIPTOR.fields_by_name:
            hint = did_you_mean(name, message.DESCRIPTOR.fields_by_name)
            raise Error(f"{place} has no field '{name}'", hint=hint)
        _assign(message, name, value, place)


def _field_hint(type_name: str, name: str, own_names: Iterable[str], layer_descriptor: Any) -> str:
    """Say where the field belongs: nearby spelling, a borrowed parameter message, or a misspelt layer type."""
    for borrowed in _READS_PARAM_OF.get(type_name, ()):
        names = layer_descriptor.fields_by_name[borrowed].message_type.fields_by_name
        candidate = nearest(name, names)
        if candidate:
            return f"{type_name} reads {borrowed}: write {borrowed}=dict({candidate}=...)"
    types = param_fields(DEFAULT_DIALECT.name)
    if not own_names and type_name not in types:
        return did_you_mean(type_name, types, f"{type_name} has no parameter message in this schema")
    return did_you_mean(name, [*own_names, *layer_descriptor.fields_by_name])
