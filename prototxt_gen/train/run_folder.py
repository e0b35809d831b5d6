"""The folder of a run: everything that it was started with, and everything that it makes.

    run.json          how it was started, each time: arguments, command, settings, versions (format 1)
    solver.prototxt   the solver that Caffe gets: the given one with this folder's paths and the settings made
    net.prototxt      the nets as they were given, byte for byte (or train_net.prototxt, test_net.prototxt, ...)
    caffe.log         the log of all starts
    snapshots/        what is resumed from
    .lock             held by the training, and by Caffe itself: one at a time

Nets and solver are written first and run.json last, so that a folder with run.json has all of it.
"""

from __future__ import annotations

import datetime
import fcntl
import json
import os
import platform
import stat
from contextlib import contextmanager
from importlib import metadata
from typing import IO, Any, Dict, Iterator, List, Mapping, Optional, Sequence, Tuple

from prototxt_gen import __version__
from prototxt_gen.core.errors import Error
from prototxt_gen.core.io import read_text, write_text
from prototxt_gen.train.caffe import ENGINE_VARIABLE, ENGINES, Caffe

RECORD, SOLVER, LOG, LOCK, SNAPSHOTS = "run.json", "solver.prototxt", "caffe.log", ".lock", "snapshots"
# What changes a training and may be recorded. No others: an environment holds secrets.
VARIABLES = ("CUDA_VISIBLE_DEVICES", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NCCL_P2P_DISABLE",
             ENGINE_VARIABLE)
_NET_FIELDS = ("net", "train_net", "test_net")


def holds_run(folder: str) -> bool:
    """True when a run was started in a folder; one that holds other things is an Error.

    What a start leaves that was killed before its record was written is no run, and is written over.
    """
    if not os.path.lexists(folder):
        return False
    if not os.path.isdir(folder):
        raise Error("is no folder", folder, "--run names the folder of a run")
    if os.path.isfile(os.path.join(folder, RECORD)):
        return True
    names = sorted(os.listdir(folder))
    others = [name for name in names if not (LOCK in names and _is_left(os.path.join(folder, name), name))]
    if others:
        hint = "name a new folder, or an empty one"
        raise Error(f"is not empty, and no run: it holds '{others[0]}'", folder, hint)
    return False


def _is_left(path: str, name: str) -> bool:
    """Tell whether what lies in a folder may be of a start that came to no record."""
    if name == SNAPSHOTS:
        return os.path.isdir(path) and not os.listdir(path)
    return ".prototxt" in name or name.startswith(RECORD) or (name in (LOCK, LOG) and not os.path.getsize(path))


def check_place(solver: Any, folder: str) -> None:
    """Check that the solver in a run's folder names this folder. Raises Error for a copy, or a folder that was moved.

    Solver states name their weights by the folder's first name, too.
    """
    before = os.path.dirname(os.path.dirname(solver.snapshot_prefix))
    if os.path.realpath(before) == os.path.realpath(folder):
        return
    if os.path.lexists(before):
        hint = f"--run '{before}' goes on with that; a new run starts from weights: SOLVER --run NEW --weights FILE"
        raise Error(f"is a copy of the run '{before}', and names its files", folder, hint)
    raise Error(f"is the run '{before}', moved", folder, f"give it that name again: mv '{folder}' '{before}'")


def read_record(folder: str) -> Dict[str, Any]:
    """Return what run.json says. Raises Error where it is damaged, or the run belongs to another current folder."""
    path = os.path.join(folder, RECORD)
    try:
        with open(path, encoding="utf-8") as file:
            record = json.load(file)
        directory, starts = record["directory"], record["starts"]
    except OSError as error:
        raise Error(f"cannot be read: {error.strerror}", path) from None
    except (ValueError, KeyError, TypeError):
        raise Error("is no record of a run", path) from None
    if not isinstance(starts, list) or not isinstance(directory, str):
        raise Error("is no record of a run", path)
    if not os.path.isdir(directory) or not os.path.samefile(directory, os.getcwd()):
        hint = f"cd '{directory}'"
        raise Error("was started in another folder, and its paths are taken from there", folder, hint)
    return record


def into_folder(solver: Any, folder: str, prefix: str) -> List[Tuple[str, str]]:
    """Point a solver at this folder, in place; return (file, path in the folder) of the nets to copy."""
    copies: List[Tuple[str, str]] = []
    for field in _NET_FIELDS:
        repeated = field == "test_net"
        files = list(solver.test_net) if repeated else [getattr(solver, field)] * solver.HasField(field)
        inside = []
        for index, file in enumerate(files):
            number = f"_{index}" if len(files) > 1 else ""
            inside.append(os.path.join(folder, f"{field}{number}.prototxt"))
            copies.append((file, inside[-1]))
        if repeated:
            solver.test_net[:] = inside
        elif inside:
            setattr(solver, field, inside[0])
    solver.snapshot_prefix = os.path.join(folder, SNAPSHOTS, os.path.basename(prefix))
    return copies


def check_same(given: Any, run: Any, copies: Sequence[Tuple[str, str]], folder: str) -> None:
    """Check that a solver, pointed at the folder, and its nets are the run's. Raises Error naming what differs."""
    names = [field.name for field in run.DESCRIPTOR.fields if _value(given, field.name) != _value(run, field.name)]
    for file, inside in copies:
        names += [] if os.path.isfile(inside) and read_text(file) == read_text(inside) else [f"'{file}'"]
    if names:
        hint = "leave SOLVER out to go on with the run's own, and change it with --set; or name another folder"
        raise Error(f"holds a run of another solver: {', '.join(names)} differ", folder, hint)


def _value(solver: Any, name: str) -> Any:
    value = getattr(solver, name)
    return list(value) if hasattr(value, "extend") else value


@contextmanager
def locked(folder: str) -> Iterator[int]:
    """Make the folder, hold its lock and yield the lock's descriptor."""
    try:
        os.makedirs(os.path.join(folder, SNAPSHOTS), exist_ok=True)
        file = open(os.path.join(folder, LOCK), "w")
    except OSError as error:
        raise Error(f"cannot be written: {error.strerror}", str(error.filename)) from None
    with file:
        take_lock(file, "another training runs in it", folder)
        yield file.fileno()


def take_lock(file: IO[Any], held: str, where: str) -> int:
    """Lock an open file, unless it is a device, and return its descriptor; a child that gets it holds the lock too.

    Raises Error, which says ``held``, where another training has it.
    """
    try:
        if stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise Error(held, where, "wait for it, or stop it") from None
    except OSError:
        pass  # some network file systems have no locks; there two trainings at once cannot be told apart
    return file.fileno()


def is_running(log: str) -> Optional[bool]:
    """Tell whether the training that writes a log in a run's folder is there; None where it cannot be told."""
    folder = os.path.dirname(log)
    if not os.path.isfile(os.path.join(folder, RECORD)):
        return None
    try:
        with open(os.path.join(folder, LOCK)) as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return None
    return False


def last_start(record: Optional[Mapping[str, Any]]) -> Mapping[str, Any]:
    """Return what a run's record says of its last start, nothing for a new run."""
    return record["starts"][-1] if record and record["starts"] else {}


def other_engine(started: Mapping[str, Any]) -> List[str]:
    """Return a note where a run was started with other engines of layers than the environment now names."""
    if not started:
        return []
    before, now = ((where.get(ENGINE_VARIABLE) or ENGINES[0]) for where in (started.get("environment", {}), os.environ))
    return [f"note: the run was last started with {ENGINE_VARIABLE}={before}"] if before != now else []


def record_start(
    folder: str, before: Optional[Mapping[str, Any]], arguments: Sequence[str], command: Sequence[str],
    settings: Mapping[str, str], snapshot: Optional[str], caffe: Caffe, memory: Optional[str], engine: str,
) -> None:
    """Write run.json with one more start. ``before`` is what it said, None for a new run."""
    start = {
        "arguments": list(arguments),
        "caffe": {name: value for name, value in caffe.as_json().items()
                  if name in ("binary", "origin", "version", "dialect", "cuda", "nccl")},
        "command": list(command),
        "engine": engine,
        "environment": {name: os.environ[name] for name in VARIABLES if name in os.environ},
        "memory": memory,
        "settings": dict(settings),
        "snapshot": snapshot,
        "time": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "versions": {"prototxt-gen": __version__, "python": platform.python_version(), "system": platform.platform(),
                     **{name: metadata.version(name) for name in ("numpy", "protobuf")}},
    }
    starts = [*(before["starts"] if before else []), start]
    record = {"format": 1, "directory": os.getcwd(), "starts": starts}
    write_text(os.path.join(folder, RECORD), json.dumps(record, indent=2, sort_keys=True) + "\n")
