"""``prototxt-gen compare``: run two nets on the same input and name the first blob that differs."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Any, Dict, List, Mapping, Optional

import click

from prototxt_gen.cli.arguments import add_weights, dialect_option, load_net
from prototxt_gen.cli.output import write_stdout
from prototxt_gen.core.dialects import DIALECTS, find_dialect
from prototxt_gen.core.errors import Error
from prototxt_gen.core.io import Model, display_name
from prototxt_gen.export import engines
from prototxt_gen.export.compare import BlobPair, Comparison, compare_blobs
from prototxt_gen.spec.infer import format_shape

ENGINE = click.Choice(engines.ENGINES)


@dataclass
class Side:
    """One of the two nets. ``model`` is None for an ONNX file."""

    argument: str
    engine: str
    model: Optional[Model]
    bn_statistic: Optional[str]

    @property
    def where(self) -> str:
        """The name by which messages call it."""
        return display_name(self.argument)


@click.command("compare", short_help="Run two nets in engines and name the first blob that differs.")
@click.argument("a", metavar="A")
@click.argument("b", metavar="B")
@click.option("--weights", metavar="FILE", help="The weights of both nets, a caffemodel.")
@click.option("--weights-a", metavar="FILE", help="The weights of A.")
@click.option("--weights-b", metavar="FILE", help="The weights of B.")
@click.option("--input", "input_file", metavar="FILE",
              help="What both nets read: an .npy of the input's shape, or an .npz of arrays by blob.")
@click.option("--seed", type=click.IntRange(0, 2**32 - 1), default=0, show_default=True, metavar="N",
              help="Where the draw of the inputs starts (standard normal), without --input.")
@click.option("--engine", type=ENGINE, help="The engine of both nets.  [default: caffe where one is found, else numpy]")
@click.option("--engine-a", type=ENGINE, help="The engine of A.")
@click.option("--engine-b", type=ENGINE, help="The engine of B.")
@click.option("--tolerance", type=click.FloatRange(min=0), default=1e-5, show_default=True, metavar="X",
              help="The largest difference that is none, relative to the largest magnitude in A's blob.")
@dialect_option("The fork that wrote both weights.")
@click.option("--dialect-b", type=click.Choice(list(DIALECTS)), help="The fork that wrote B's weights.")
@click.option("--bn-statistic", type=click.Choice(["inv-std", "variance"]), help="What BN's fourth blob holds.")
@click.option("--caffe", "root", metavar="DIR", help="The Caffe to run.  [default: as caffe info finds it]")
@click.option("--all", "show_all", is_flag=True, help="List every blob.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def compare(
    a: str, b: str, weights: Optional[str], weights_a: Optional[str], weights_b: Optional[str],
    input_file: Optional[str], seed: int, engine: Optional[str], engine_a: Optional[str], engine_b: Optional[str],
    tolerance: float, dialect: str, dialect_b: Optional[str], bn_statistic: Optional[str], root: Optional[str],
    show_all: bool, as_json: bool,
) -> int:
    """Run the nets A and B on the same input and compare all blobs that both make, in A's order; exit 1 if one differs.

    A and B are deploy nets, or caffemodels that hold their structure; either may be an ONNX file. The engines caffe,
    numpy (float64, the judge where nothing is installed), onnx (onnxruntime) and opencv run in processes of their own.
    """
    if not (engine or (engine_a and engine_b)):
        engine = _default_engine(root)
    first = _side(a, weights_a or weights, engine_a or engine, dialect, bn_statistic)
    second = _side(b, weights_b or weights, engine_b or engine, dialect_b or dialect, bn_statistic)
    inputs = _inputs(first, second, input_file, seed)
    blobs_a, blobs_b = (_run(side, inputs, root) for side in (first, second))
    found = compare_blobs(blobs_a, blobs_b, _outputs(first, blobs_a), _outputs(second, blobs_b))
    differs = found.first_difference(tolerance)
    if as_json:
        write_stdout(json.dumps(_document(found, tolerance, first, second), indent=2, sort_keys=True) + "\n")
    else:
        write_stdout("".join(line + "\n" for line in _lines(found, differs, tolerance, show_all)))
    return 0 if differs is None else 1


def _default_engine(root: Optional[str]) -> str:
    from prototxt_gen.train import caffe

    try:
        caffe.find(root)
        return "caffe"
    except caffe.NoCaffe:
        click.echo("note: no Caffe is found; the nets run in numpy", err=True)
        return "numpy"


def _side(
    argument: str, weights: Optional[str], engine: Optional[str], dialect: str, bn_statistic: Optional[str]
) -> Side:
    if argument.endswith(".onnx"):
        return Side(argument, "onnx", None, None)
    model = load_net(argument, dialect=find_dialect(dialect))
    if weights is not None:
        model = add_weights(model, weights)
    return Side(argument, engine or "numpy", model, bn_statistic)


def _inputs(first: Side, second: Side, path: Optional[str], seed: int) -> Dict[str, Any]:
    """Return the arrays that both nets read, by the names of A's inputs (or B's, where A is an ONNX file)."""
    import numpy as np

    known = [engines.input_shapes_of(side.model, side.where) for side in (first, second) if side.model is not None]
    if not known:
        raise Error("A and B are both ONNX files", hint="one of the two must be a net of Caffe's")
    for shapes in known[1:]:
        if shapes != known[0]:
            texts = [", ".join(f"'{name}' {format_shape(shape)}" for name, shape in one.items()) for one in known]
            hint = "convert --pass rename or resize-input makes them alike"
            raise Error(f"the inputs differ: A takes {texts[0]}, B takes {texts[1]}", hint=hint)
    shapes = known[0]
    if path is None:
        draw = np.random.RandomState(seed)
        return {name: draw.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}
    return _read_arrays(path, shapes)


def _read_arrays(path: str, shapes: Mapping[str, Any]) -> Dict[str, Any]:
    import numpy as np

    try:
        stored = np.load(path, allow_pickle=False)
    except OSError as error:
        raise Error(f"cannot be read: {error.strerror or error}", path) from None
    except Exception as error:  # zipfile's, numpy's and others': whatever the bytes provoke
        raise Error(f"is no array file: {error}", path, "numpy.save and numpy.savez write them") from None
    try:
        if isinstance(stored, np.ndarray):
            if len(shapes) != 1:
                what = f"holds one array, and the nets take {len(shapes)}"
                raise Error(what, path, "give an .npz with a name for each")
            stored = {next(iter(shapes)): stored}
        lacking = [name for name in shapes if name not in stored]
        if lacking:
            raise Error(f"holds no array '{lacking[0]}'", path, f"its arrays are {', '.join(stored)}")
        arrays = {name: stored[name] for name in shapes}
    except ValueError as error:
        raise Error(f"is no array file: {error}", path) from None
    for name, values in arrays.items():
        if values.shape != shapes[name] or values.dtype.kind not in "fiu":
            what = f"array '{name}' is {format_shape(values.shape)} of {values.dtype}"
            raise Error(f"{what}, and the input is {format_shape(shapes[name])}", path)
    return {name: values.astype(np.float32) for name, values in arrays.items()}


def _run(side: Side, inputs: Mapping[str, Any], root: Optional[str]) -> Dict[str, Any]:
    if side.model is None:
        return engines.run_onnx_file(side.argument, inputs)
    environment = None
    if side.engine == "caffe":
        from prototxt_gen.train import caffe

        environment = {**caffe.child_environment(caffe.find(root)), "GLOG_minloglevel": "2"}
    return engines.run(side.engine, side.model, inputs, environment=environment, bn_statistic=side.bn_statistic,
                       where=side.where)


def _outputs(side: Side, blobs: Mapping[str, Any]) -> List[str]:
    return list(blobs)[-1:] if side.model is None else engines.outputs_of(side.model)


def _lines(found: Comparison, differs: Optional[BlobPair], tolerance: float, show_all: bool) -> List[str]:
    apart = sum(not one.agrees(tolerance) for one in found.pairs)
    lines = [_line(one) for one in found.pairs] if show_all else []
    if differs is None:
        lines.append(f"{len(found.pairs)} blobs agree within {tolerance:g}")
    else:
        lines += [f"{apart} of {len(found.pairs)} blobs differ by more than {tolerance:g}; the first:", _line(differs)]
        if differs.at is not None:
            at = ",".join(map(str, differs.at))
            lines.append(f"  at {at}: {differs.value_a:.9g} in A, {differs.value_b:.9g} in B")
    lines += [f"output {_line(one)}" for one in found.outputs]
    for label, lone in (("A", found.only_a), ("B", found.only_b)):
        if lone:
            lines.append(f"only in {label}: {', '.join(lone[:3])}" + (f" and {len(lone) - 3} more" * (len(lone) > 3)))
    return lines


def _line(pair: BlobPair) -> str:
    name = f"'{pair.a}'" if pair.a == pair.b else f"'{pair.a}' ('{pair.b}' in B)"
    if pair.relative is None:
        return f"{name}: {format_shape(pair.shape_a)} in A, {format_shape(pair.shape_b)} in B"
    return f"{name} {format_shape(pair.shape_a)}: largest difference {pair.max_abs:.3g}, relative {pair.relative:.3g}"


def _document(found: Comparison, tolerance: float, first: Side, second: Side) -> Dict[str, Any]:
    differs = found.first_difference(tolerance)

    def pair(one: BlobPair) -> Dict[str, Any]:
        # JSON has no infinity.
        fields = {name: str(value) if value in (float("inf"), float("-inf")) or value != value else value
                  for name, value in asdict(one).items()}
        return {**fields, "agrees": one.agrees(tolerance)}

    return {
        "agree": differs is None,
        "blobs": [pair(one) for one in found.pairs],
        "engines": [first.engine, second.engine],
        "first_difference": None if differs is None else pair(differs),
        "only_a": list(found.only_a),
        "only_b": list(found.only_b),
        "outputs": [pair(one) for one in found.outputs],
        "tolerance": tolerance,
    }
