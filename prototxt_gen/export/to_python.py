"""A net as a Python script in the words of NetSpec; running the script prints an equal net.

Every layer is one statement, in the order of the net, and NetSpec writes layers in the order of naming. Four cases:

1. The layer's tops are blobs that no layer before it makes: ``n.conv1 = L.Convolution(n.data, ...)``. The tops are the
   names; ``name=`` follows where the layer is called otherwise than its first top.
2. It works in place on its only bottom: ``n.relu1 = L.ReLU(n.conv1, in_place=True)``. Whoever reads the blob afterwards
   reads ``n.relu1``.
3. It has no top: ``n.silence = L.Silence(n.label, ntop=0)``.
4. It makes a blob again, as the data layer of a second phase does: ``n.data_test = L.Data(top=["data", "label"],
   ntop=0)``. A NetSpec holds one top of each name, so readers name the first one, which gives the same prototxt.

A bottom that nothing in the net makes is given as a string, ``bottom="data"``. What is not a layer is set on the
message at the end. Repeated blocks of layers become functions.
"""

from __future__ import annotations

from itertools import chain, count
from typing import Any, Dict, Iterator, List, Set, Tuple

from prototxt_gen.core.dialects import DEFAULT_DIALECT, Dialect
from prototxt_gen.core.io import Model
from prototxt_gen.core.upgrade import upgrade_net
from prototxt_gen.export.to_python_functions import with_functions
from prototxt_gen.export.to_python_lines import Statement, source
from prototxt_gen.export.to_python_values import (
    INDENT,
    Group,
    Value,
    constants,
    field_items,
    field_value,
    flat,
    is_attribute,
    named,
    param_name,
    string,
    wrapped,
)
from prototxt_gen.spec.netspec import param_fields

# Fields that the call itself says: the type, the bottoms, and what is assigned to.
_SAID_BY_CALL = ("name", "type", "bottom", "top")


def to_python(model: Model) -> str:
    """Return a script that prints the net; a net of an older age is upgraded first.

    Raises Error where Caffe's upgrade would abort, and for strings that are not UTF-8.
    """
    net = upgrade_net(model.net).message
    enums: Set[Any] = set()
    functions, layers = with_functions(list(statements(net, model.dialect, enums)))
    ending = _ending(net, enums)  # before the constants of enums are written
    lines = _imports(bool(layers), model.dialect, enums)
    for function in functions:
        lines += ["", "", function]
    lines += ["", ""] if functions else [""]
    dialect = "" if model.dialect is DEFAULT_DIALECT else f"DIALECTS[{string(model.dialect.name)}]"
    lines.append(f"n = NetSpec({dialect})")
    return "\n".join([*lines, *map(source, layers), "", *ending, ""])


def statements(net: Any, dialect: Dialect, enums: Set[Any]) -> Iterator[Statement]:
    """Yield the layers of a net as statements; the enums they name are added to ``enums``."""
    first_makers, used = _first_makers(net)
    reading: Dict[str, str] = {}  # blob -> the key whose top stands for it
    for index, layer in enumerate(net.layer):
        tops, fields = tuple(layer.top), list(_layer_fields(layer, dialect, enums))
        known = all(blob in reading for blob in layer.bottom)
        inputs = tuple(reading[blob] for blob in layer.bottom) if known else ()
        if not known:
            fields.insert(0, _strings("bottom", layer.bottom))
        if index in first_makers:  # case 1
            made, own_name = tops, tops[0]
            fields += [f"ntop={len(tops)}"] * (len(tops) > 1)
            reading.update(zip(tops, tops))
        else:
            made = (_free_key(layer, used),)
            used.add(made[0])
            own_name = made[0]
            if len(inputs) == 1 and tops == tuple(layer.bottom):  # case 2
                fields.append("in_place=True")
                reading[tops[0]] = made[0]
            else:  # cases 3 and 4
                fields += [_strings("top", tops)] * bool(tops) + ["ntop=0"]
        if layer.HasField("name") and layer.name != own_name:
            fields.append(f"name={string(layer.name)}")
        if layer.HasField("type") and _maker(layer) != layer.type:
            fields.append(f"type={string(layer.type)}")
        yield Statement(made, _maker(layer), inputs, tuple(fields))


def _first_makers(net: Any) -> Tuple[Set[int], Set[str]]:
    """Return the indices of the layers whose tops are all new, and these tops."""
    makers: Set[int] = set()
    blobs: Set[str] = set()
    for index, layer in enumerate(net.layer):
        tops = set(layer.top)
        if tops and len(tops) == len(layer.top) and not tops & blobs:
            makers.add(index)
            blobs |= tops
    return makers, blobs


def _free_key(layer: Any, used: Set[str]) -> str:
    """Return a key like the layer's name that nothing has yet, with its phase or a number behind where it needs one."""
    name = layer.name or layer.type.lower() or "layer"
    enum = layer.DESCRIPTOR.fields_by_name["phase"].enum_type
    phases = [enum.values_by_number[rule.phase].name.lower() for rule in layer.include if rule.HasField("phase")]
    numbers = (f"{name}_{number}" for number in count(2))
    return next(key for key in chain([name], [f"{name}_{phase}" for phase in phases], numbers) if key not in used)


def _maker(layer: Any) -> str:
    """Return the attribute of ``L`` for a layer: its type, or ``Layer`` where that is no attribute's name."""
    return layer.type if is_attribute(layer.type) and not layer.type.startswith("__") else "Layer"


def _layer_fields(layer: Any, dialect: Dialect, enums: Set[Any]) -> Iterator[Value]:
    """Yield the fields of a layer as keywords: first those of the type's own message, then the layer's own."""
    own = param_fields(dialect.name).get(_maker(layer))
    if own and getattr(layer, own).ListFields():
        yield from field_items(getattr(layer, own), enums)
    for field, value in layer.ListFields():
        if field.name in _SAID_BY_CALL or (field.name == own and value.ListFields()):
            continue
        yield named(field.name, field_value(field, value, enums))


def _strings(name: str, values: Any) -> Value:
    literals = tuple(map(string, values))
    return f"{name}={literals[0]}" if len(literals) == 1 else Group(f"{name}=[", literals, "]")


def _imports(uses_layers: bool, dialect: Dialect, enums: Set[Any]) -> List[str]:
    names = ["NetSpec"] + ["layers as L"] * uses_layers + ["params as P"] * any(map(param_name, enums))
    lines = [f"from prototxt_gen import {', '.join(names)}"]
    if dialect is not DEFAULT_DIALECT:
        lines.append("from prototxt_gen.core.dialects import DIALECTS")
    lines.append("from prototxt_gen.core.io import dumps")
    plain = sorted((one for one in enums if not param_name(one)), key=lambda one: one.full_name)
    return [*lines, *[""] * bool(plain), *map(constants, plain)]


def _ending(net: Any, enums: Set[Any]) -> List[str]:
    """Return the lines that set on the message what is not said by layers, and print it."""
    lines = ["net = n.to_proto()"]
    for field, value in net.ListFields():
        if field.name != "layer":
            lines += _settings("net", field, value, enums)
    for field in ("name", "type"):  # a NetSpec gives every layer both
        lacking = [str(index) for index, layer in enumerate(net.layer) if not layer.HasField(field)]
        if lacking:
            lines.append(wrapped(Group("for index in [", tuple(lacking), "]:")))
            lines.append(f'{INDENT}net.layer[index].ClearField("{field}")')
    return [*lines, 'print(dumps(net), end="")']


def _settings(place: str, field: Any, value: Any, enums: Set[Any]) -> Iterator[str]:
    """Yield the lines that set a field of the message that the expression ``place`` names."""
    name = f"{place}.{field.name}"
    if field.message_type is None:
        source = field_value(field, value, enums)
        if not hasattr(value, "extend"):
            yield f"{name} = {flat(source)}"
        elif len(value) == 1:
            yield f"{name}.append({flat(source)})"
        else:
            yield wrapped(Group(f"{name}.extend([", source.items, "])"))
        return
    for one in value if hasattr(value, "extend") else [value]:
        yield f"{name}.add()" if hasattr(value, "extend") else f"{name}.SetInParent()"
        for inner, inner_value in one.ListFields():
            yield from _settings(f"{name}[-1]" if hasattr(value, "extend") else name, inner, inner_value, enums)
