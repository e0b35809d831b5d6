"""What must be in order before Caffe starts: solver, nets, data, weights. Caffe itself would abort on each of these.

Paths inside prototxts are taken from the current directory, as Caffe takes them.
"""

from __future__ import annotations

import importlib.util
import os
from typing import Any, Collection, List, NamedTuple, Sequence

from google.protobuf.message import DecodeError

from prototxt_gen.core.caffemodel import NotBinary, open_bytes, parse_weights, refuse_state
from prototxt_gen.core.data_layers import source_of
from prototxt_gen.core.dialects import DEFAULT_DIALECT
from prototxt_gen.core.errors import Error, did_you_mean
from prototxt_gen.core.graph import layers_in
from prototxt_gen.core.io import read_message
from prototxt_gen.core.solvers import POLICIES, SOLVER_TYPES, net_uses, used_state
from prototxt_gen.core.solverstate import read_solverstate
from prototxt_gen.train.lmdb_file import check_lockable, inspect_lmdb

# SolverParameter.SolverMode and DataParameter.DB as the schema numbers them.
CPU, GPU = 0, 1
LEVELDB, LMDB = 0, 1
AUGMENTED_LIST = 1  # AugmentedDataParameter.Backend

# Layer types that stock Caffe does not have.
OWN_LAYERS = ("AugmentedData", "BN", "Interp")
BUILD_HINT = "prototxt-gen caffe build builds a Caffe that has it"
# The ``source`` of these is a text file that lists what to read.
LISTS = ("ImageData", "HDF5Data", "WindowData")


class UsedNet(NamedTuple):
    """A net as the solver instantiates it: ``state`` is its NetState, ``where`` its file."""

    net: Any
    state: Any
    where: str


def read_solver(path: str) -> Any:
    """Read a solver file as a SolverParameter that names a net."""
    if path == "-":
        raise Error("the solver must be a file: Caffe reads it itself")
    solver = read_message(path, DEFAULT_DIALECT.message("SolverParameter"))
    ways = ("net", "net_param", "train_net", "train_net_param")
    named = [way for way in ways if solver.HasField(way)]
    if len(named) != 1:
        what = f"names its training net twice: {', '.join(named)}" if named else "names no training net"
        raise Error(what, path, f"give one of {', '.join(ways)}")
    return solver


def check_method(solver: Any, path: str) -> None:
    """Check that Caffe has the solver's type and its policy of the learning rate, with the fields that policy reads."""
    if solver.HasField("type") and solver.type not in SOLVER_TYPES:
        hint = did_you_mean(solver.type, SOLVER_TYPES, f"types: {', '.join(SOLVER_TYPES)}")
        raise Error(f"Caffe has no solver of the type '{solver.type}'", path, hint)
    policy = solver.lr_policy
    if policy not in POLICIES:
        what = f"Caffe has no learning rate policy '{policy}'" if policy else "the solver has no lr_policy"
        raise Error(what, path, did_you_mean(policy, POLICIES, f"policies: {', '.join(POLICIES)}"))
    for field in POLICIES[policy]:
        if not (len(solver.stepvalue) if field == "stepvalue" else solver.HasField(field)):
            raise Error(f"lr_policy '{policy}' needs {field}, which is not given", path, f"write {field}: ...")


def snapshot_prefix(solver: Any, path: str) -> str:
    """Return what the names of snapshots begin with, as Caffe's UpgradeSnapshotPrefixProperty settles it."""
    if not solver.HasField("snapshot_prefix"):
        return os.path.splitext(path)[0]
    prefix = solver.snapshot_prefix
    if os.path.isdir(prefix) or prefix.endswith("/"):
        return os.path.join(prefix, os.path.splitext(os.path.basename(path))[0])
    return prefix


def used_nets(solver: Any, path: str) -> List[UsedNet]:
    """Read the nets that Caffe will instantiate: the training net, then the test nets."""
    nets = []
    for use in net_uses(solver):
        inline = not isinstance(use.value, str)
        net = use.value if inline else _read_net(use.value, path)
        state = used_state(use.phase, net, use.state, phase_is_fixed=False)
        nets.append(UsedNet(net, state, f"{path}: {use.path}" if inline else use.value))
    return nets


def _read_net(net_file: str, path: str) -> Any:
    check_net_file(net_file, path)
    return read_message(net_file, DEFAULT_DIALECT.message("NetParameter"))


def check_net_file(net_file: str, path: str) -> None:
    """Check that the net which the solver ``path`` names is a file."""
    if os.path.isdir(net_file):
        raise Error(f"the net '{net_file}' is a folder", path)
    if not os.path.isfile(net_file):
        raise Error(f"there is no net '{net_file}'", path, _place_hint(net_file, os.path.dirname(path)))


def _place_hint(path: str, beside: str) -> str:
    """Say where to run when ``path``, missing here, is there from the folder of the file that names it or above it."""
    if os.path.isabs(path):
        return ""
    here, folder = os.getcwd(), os.path.abspath(beside)
    while folder != os.path.dirname(folder):
        if folder != here and os.path.exists(os.path.join(folder, path)):
            shown = beside if folder == os.path.abspath(beside) else folder
            return f"Caffe takes paths from the current directory: run it in '{shown}'"
        folder = os.path.dirname(folder)
    return ""


def check_net(used: UsedNet, solver_path: str, layer_types: Collection[str]) -> None:
    """Check that this Caffe has every layer of a net, and that the data its layers read is there and whole.

    ``layer_types`` are those of the Caffe that will run; when empty they are not known and not checked.
    """
    beside = os.path.dirname(solver_path)
    for layer in layers_in(used.net, used.state):
        if layer_types and layer.type not in layer_types:
            hint = BUILD_HINT if layer.type in OWN_LAYERS else did_you_mean(layer.type, layer_types)
            raise Error(f"layer '{layer.name}' has the type '{layer.type}', which this Caffe lacks", used.where, hint)
        if layer.type == "Data":
            _check_database(layer, used.where, beside)
        elif layer.type == "AugmentedData":
            _check_augmented(layer, used.where, beside)
        elif layer.type in LISTS:
            _check_file(layer, source_of(layer).source, used.where, beside)
        for param in (layer.transform_param, layer.data_param, layer.augmented_data_param):
            if param.mean_file:
                _check_file(layer, param.mean_file, used.where, beside)


def _check_file(layer: Any, path: str, where: str, beside: str) -> None:
    if not os.path.isfile(path):
        raise Error(f"layer '{layer.name}' reads '{path}', which is no file", where, _place_hint(path, beside))


def _check_database(layer: Any, where: str, beside: str) -> None:
    data = layer.data_param
    if data.backend == LEVELDB:
        if os.path.exists(os.path.join(data.source, "data.mdb")):
            what = f"layer '{layer.name}' reads the LMDB '{data.source}' as a LevelDB, Caffe's default"
            raise Error(what, where, "write 'backend: LMDB' in its data_param")
        if not os.path.isdir(data.source):
            what = f"layer '{layer.name}' reads '{data.source}', which is no folder"
            raise Error(what, where, _place_hint(data.source, beside))
        return
    _check_first_image(layer, _first_image(layer, data.source, where, beside), where)


def _check_augmented(layer: Any, where: str, beside: str) -> None:
    """Check that the images are there. Any size and number of channels will do: the layer makes them fit."""
    param = layer.augmented_data_param
    if not param.source:
        raise Error(f"layer '{layer.name}' has no source", where, "write source: ... in its augmented_data_param")
    if param.backend != AUGMENTED_LIST:
        _first_image(layer, param.source, where, beside)
        return
    _check_file(layer, param.source, where, beside)
    with open(param.source, encoding="utf-8", errors="surrogateescape") as file:
        first = next((line for line in file if line.strip()), "")
    image, _, label = first.strip().rpartition(" ")
    if not image or not label.lstrip("-").isdigit():
        what = f"layer '{layer.name}' reads the list '{param.source}', which does not begin with an image and its label"
        raise Error(what, where, "a line is 'path label'; an LMDB is read with 'backend: LMDB'")
    if not os.path.isfile(param.root_folder + image):
        what = f"the list '{param.source}' names '{param.root_folder + image}', which is no file"
        hint = "root_folder goes before each name as it stands, its last '/' included"
        raise Error(what, where, _place_hint(param.root_folder + image, beside) or hint)


def _first_image(layer: Any, source: str, where: str, beside: str) -> Any:
    """Return the first Datum of the LMDB that a layer reads, which must be whole and readable."""
    try:
        value = inspect_lmdb(source).first_value
        check_lockable(source)
    except Error as error:
        hint = _place_hint(source, beside) or error.hint
        raise Error(f"layer '{layer.name}' cannot read '{source}': {error.what}", where, hint) from None
    try:
        return DEFAULT_DIALECT.message("Datum").FromString(value)
    except DecodeError:
        raise Error(f"layer '{layer.name}': '{source}' does not hold Datum records", where) from None


def _check_first_image(layer: Any, datum: Any, where: str) -> None:
    """Check crop and mean against the first image; an encoded one that does not tell its size passes."""
    crop, means = layer.transform_param.crop_size, len(layer.transform_param.mean_value)
    if datum.height and crop > min(datum.height, datum.width):
        what = f"layer '{layer.name}' crops {crop}x{crop} out of images of {datum.width}x{datum.height}"
        raise Error(what, where, "write a smaller crop_size")
    if datum.channels and means > 1 and means != datum.channels:
        what = f"layer '{layer.name}' has {means} values of mean_value for images of {datum.channels} channels"
        raise Error(what, where, "give one, or one for each channel")


def lacks_h5py() -> bool:
    """True where HDF5 files cannot be read here."""
    return importlib.util.find_spec("h5py") is None


def check_snapshot(path: str) -> None:
    """Check that a solver state is whole and that the weights it names are there."""
    if os.path.isdir(path):
        raise Error("is a folder, not a snapshot", path, "name the .solverstate in it")
    if not os.path.isfile(path):
        raise Error("there is no such snapshot", path)
    if path.endswith(".caffemodel"):
        hint = "to resume, name the .solverstate; to start from weights, use --weights"
        raise Error("holds weights only", path, hint)
    if path.endswith(".h5") and lacks_h5py():
        return  # left to Caffe
    state = read_solverstate(path)
    if state.learned_net and not os.path.isfile(state.learned_net):
        hint = "resume in the folder where the training was started"
        raise Error(f"the weights it names are not there: '{state.learned_net}'", path, hint)


def check_weights(weights: str, net: UsedNet) -> None:
    """Check that each file of weights, separated by commas as Caffe wants them, has weights for a layer of the net.

    Caffe would pass over a file without any, and train from random weights. HDF5 files are left to Caffe.
    """
    wanted = {layer.name for layer in layers_in(net.net, net.state)}
    for path in (one.strip() for one in weights.split(",")):
        if os.path.isdir(path):
            raise Error("is a folder, not weights", path, "name the .caffemodel in it")
        if not os.path.isfile(path):
            raise Error("there are no such weights", path)
        refuse_state(path)
        if path.endswith(".h5"):
            continue
        names = _layers_with_weights(path)
        if wanted.isdisjoint(names):
            hint = f"it has {', '.join(names[:3])}{', ...' if len(names) > 3 else ''}"
            raise Error(f"holds weights for no layer of the net '{net.where}'", path, hint)


def _layers_with_weights(path: str) -> List[str]:
    """Return the names of a caffemodel's layers that have weights: there is at least one."""
    # Not checked for the fork that wrote it: Caffe takes blobs by the layers' names.
    try:
        weights = parse_weights(open_bytes(path), DEFAULT_DIALECT, path, checked=False)
    except NotBinary:
        hint = "a .caffemodel that Caffe has written is wanted"
        raise Error("is no caffemodel, or is truncated", path, hint) from None
    if not weights.blobs:
        raise Error("holds no weights", path, "a .caffemodel that Caffe has written is wanted")
    return list(weights.blobs)


def check_hdf5(solver: Any, path: str, files: Sequence[str]) -> None:
    """Check that our Caffe is to read no HDF5: its pinned source loads no weights from it, and does not say so.

    ``files`` are solver states or weights, each one name or several with commas, as Caffe takes them.
    """
    for file in (one.strip() for several in files for one in several.split(",")):
        if file.endswith(".h5"):
            hint = "prototxt-gen convert reads them with --weights, and --out-weights writes a .caffemodel"
            raise Error("this Caffe loads no weights from HDF5, and would go on from random ones", file, hint)
    if solver.snapshot_format == solver.HDF5:
        raise Error("this Caffe cannot resume from HDF5 snapshots: it loads no weights from them", path,
                    "leave snapshot_format at BINARYPROTO, Caffe's default")


def check_results(prefix: str, log: str) -> None:
    """Check, creating nothing, that the folders of snapshots and log can be made and written, and the log itself."""
    for path in (prefix, log):
        folder = os.path.abspath(os.path.dirname(path))
        while not os.path.lexists(folder):
            folder = os.path.dirname(folder)
        if not os.path.isdir(folder):
            raise Error(f"cannot be written: '{folder}' is no folder", path)
        # A log that is there already, such as a device, is written to without touching its folder.
        if not os.access(folder, os.W_OK | os.X_OK, effective_ids=True) and (path is prefix or not os.path.exists(log)):
            raise Error(f"cannot be written: the folder '{folder}' is not writable", path)
    if os.path.isdir(log):
        raise Error("is a folder, not a file for the log", log)
    if os.path.exists(log) and not os.access(log, os.W_OK, effective_ids=True):
        raise Error("the log cannot be written: permission denied", log)
