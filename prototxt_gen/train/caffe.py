"""Finds a Caffe and tells what it can do.

Looked at in this order, and the first that is given or there is taken: the folder given (``--caffe DIR``), the folder
in ``$CAFFE_ROOT``, a build in the cache that was made from what is here now: the one for the CPU before those with
CUDA, where a GPU is to be used after them; of those with CUDA the one made last.

A build made from something else (another Python, a changed layer, a newer library) is named as stale and not taken. A
``caffe`` that happens to be on PATH is not looked at: nothing says where its pycaffe lies, and it seldom has BN and
Interp; it is used by giving its folder. In a folder, the layouts of an installation (``bin/caffe``) and of BVLC's
source tree (``build/tools/caffe``) are known.
"""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Dict, Optional, Tuple

from prototxt_gen.core.dialects import DIALECTS
from prototxt_gen.core.errors import Error
from prototxt_gen.train import caffe_build

BINARIES = ("bin/caffe", "build/tools/caffe", "build/install/bin/caffe", ".build_release/tools/caffe", "tools/caffe")
PYCAFFES = ("python", "../python", "build/install/python", "lib/python*/site-packages", "lib/python3/dist-packages")
# What pycaffe's own modules import.
PYCAFFE_NEEDS = ("google.protobuf", "numpy", "scipy", "six", "skimage")
# Whose layers and solvers a process of our Caffe has: ours by default.
ENGINE_VARIABLE = "PROTOTXT_GEN_ENGINE"
ENGINES = ("own", "caffe")
BUILD_HINT = "prototxt-gen caffe build makes one; --caffe DIR or CAFFE_ROOT names one that you have"
CUDA_HINT = "prototxt-gen caffe build --cuda makes one for GPUs; --caffe DIR names one that you have"

# Runs in a child process, because a library that does not fit aborts the process that loads it. pycaffe's __init__ is
# stepped around: what it imports beside Caffe is not needed here.
PROBE = """
import importlib.util, json, sys, types
folder, needs = sys.argv[1], sys.argv[2:]
sys.path.insert(0, folder)
package = types.ModuleType("caffe")
package.__path__ = [folder + "/caffe"]
sys.modules["caffe"] = package
from caffe import _caffe
try:
    from caffe.proto import caffe_pb2
    fields = {one.name: one.number for one in caffe_pb2.LayerParameter.DESCRIPTOR.fields}
except Exception:
    fields = None
def has(name):
    try:
        return importlib.util.find_spec(name) is not None
    except ImportError:
        return False
print(json.dumps({
    "version": getattr(_caffe, "__version__", None),
    "layers": sorted(_caffe.layer_type_list()),
    "cuda": hasattr(_caffe.Blob, "_gpu_data_ptr"),
    "nccl": bool(_caffe.has_nccl()) if hasattr(_caffe, "has_nccl") else False,
    "fields": fields,
    "missing_modules": [name for name in needs if not has(name)],
}))
"""


class NoCaffe(Error):
    """None was given and none is built."""


# Without this glog leaves a copy of what the program caffe logs in the system's folder for temporary files.
LOG_SETTINGS = {"GLOG_logtostderr": "1"}


@dataclass(frozen=True)
class Caffe:
    """A Caffe on this machine.

    ``pycaffe`` is the folder for PYTHONPATH. ``origin`` is '--caffe', 'CAFFE_ROOT' or 'built'. ``dialect`` names the
    dialect whose numbers its schema uses, None where no dialect fits. ``layers`` are the registered layer types.
    ``missing_modules`` are what this Python lacks for ``import caffe``. ``toolkit`` and ``archs`` are CUDA's version
    and the compute capabilities times ten that it was built for, as far as a record tells.
    """

    root: Path
    binary: Path
    pycaffe: Path
    origin: str
    version: Optional[str]
    dialect: Optional[str]
    cuda: bool
    nccl: bool
    layers: Tuple[str, ...]
    missing_modules: Tuple[str, ...]
    toolkit: Optional[str] = None
    archs: Tuple[int, ...] = ()

    @property
    def is_ours(self) -> bool:
        """Whether it was built here: then it has our engines, and can share memory between blobs."""
        return (self.pycaffe / "caffe" / "lean.so").is_file()

    @property
    def runs_own_engines(self) -> bool:
        """Whether its processes run our engines on the CPU: Caffe's own are there, too, for the environment to ask."""
        return self.is_ours and os.environ.get(ENGINE_VARIABLE) != "caffe"

    def as_json(self) -> Dict[str, Any]:
        """Return everything as plain data, with ``found`` true."""
        return {"found": True, **{name: str(value) if isinstance(value, Path) else value
                                  for name, value in dataclasses.asdict(self).items()}}


def find(given: Optional[str] = None, gpu: bool = False) -> Caffe:
    """Return the Caffe to use; ``given`` is the folder from ``--caffe``, ``gpu`` tells that a GPU is to be used.

    Raises NoCaffe when there is none at all, and Error when the one that is named is none, or cannot be loaded, or
    where the environment names engines that our Caffe does not know.
    """
    engine = os.environ.get(ENGINE_VARIABLE)
    if engine and engine not in ENGINES:
        raise Error(f"{ENGINE_VARIABLE} is '{engine}'", hint=f"it may be {' or '.join(ENGINES)}")
    root, origin = _choose(given, gpu)
    binary, pycaffe = _first_file(root, BINARIES), _first_pycaffe(root)
    if binary is None:
        looked = ", ".join(BINARIES)
        raise Error(f"{origin} names a folder without a caffe program", str(root), f"looked for {looked} in it")
    if pycaffe is None:
        hint = "looked for python/caffe/_caffe*.so in it; make pycaffe builds it"
        raise Error(f"{origin} names a folder without pycaffe", str(root), hint)
    facts = _probe(pycaffe)
    fields = facts.pop("fields")
    facts["layers"], facts["missing_modules"] = tuple(facts["layers"]), tuple(facts["missing_modules"])
    options = caffe_build.record(root).get("options", {}) if facts["cuda"] else {}
    return Caffe(root=root, binary=binary, pycaffe=pycaffe, origin=origin, dialect=_dialect_of(fields),
                 toolkit=options.get("cuda"), archs=tuple(options.get("archs", ())), **facts)


def _choose(given: Optional[str], gpu: bool) -> Tuple[Path, str]:
    for folder, origin in ((given, "--caffe"), (os.environ.get("CAFFE_ROOT"), "CAFFE_ROOT")):
        if folder:
            if not Path(folder).is_dir():
                raise Error(f"{origin} names no folder", folder)
            return Path(folder).absolute(), origin
    parts = caffe_build.ingredients()
    root = caffe_build.cached(parts)
    if gpu or root is None:
        root = next(iter(caffe_build.cached_with_cuda()), root)
    if root is not None:
        return root, "built"
    stale = [f"{path} is stale: {', '.join(changed)} changed since it was made"
             for path, changed in caffe_build.stale(parts).items()]
    looked = f"no Caffe is found; looked at --caffe, CAFFE_ROOT and {caffe_build.cache_dir()}"
    raise NoCaffe("\n".join([looked, *stale]), hint=BUILD_HINT)


def _first_file(root: Path, names: Tuple[str, ...]) -> Optional[Path]:
    candidates = (root / name for name in names)
    return next((path for path in candidates if path.is_file() and os.access(path, os.X_OK)), None)


def _first_pycaffe(root: Path) -> Optional[Path]:
    for pattern in PYCAFFES:
        base = root.parent if pattern.startswith("../") else root
        for folder in sorted(base.glob(pattern.replace("../", ""))):
            if any(folder.glob("caffe/_caffe*.so")):
                return folder
    return None


def _probe(pycaffe: Path) -> Dict[str, Any]:
    command = [sys.executable, "-c", PROBE, str(pycaffe), *PYCAFFE_NEEDS]
    environment = {**os.environ, "GLOG_minloglevel": "2"}
    done = subprocess.run(command, capture_output=True, text=True, errors="replace", env=environment)
    if done.returncode == 0:
        return json.loads(done.stdout.splitlines()[-1])
    said = [line.strip() for line in done.stderr.splitlines() if line.strip()]
    ended = f"signal {-done.returncode}" if done.returncode < 0 else f"status {done.returncode}"
    reason = said[-1] if said else "it said nothing"
    hint = f"{reason}\npycaffe must be built for this Python, {sys.executable}"
    raise Error(f"pycaffe cannot be loaded: the Python that tried ended with {ended}", str(pycaffe), hint)


def _dialect_of(fields: Optional[Dict[str, int]]) -> Optional[str]:
    """Return the dialect that gives every field of LayerParameter the number it has in this Caffe."""
    if fields is None:
        return None
    for name, dialect in DIALECTS.items():
        numbers = {one.name: one.number for one in dialect.message("LayerParameter").DESCRIPTOR.fields}
        if all(numbers.get(field, number) == number for field, number in fields.items()) and (
            ("bn_param" in numbers) == ("bn_param" in fields)
        ):
            return name
    return None


def child_environment(caffe: Caffe) -> Dict[str, str]:
    """Return the environment for a child process that imports pycaffe."""
    rest = os.environ.get("PYTHONPATH")
    path = os.pathsep.join([str(caffe.pycaffe), *([rest] if rest else [])])
    return {**os.environ, **LOG_SETTINGS, "PYTHONPATH": path}
