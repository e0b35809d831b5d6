"""What a build of Caffe with CUDA needs, and where it lies.

nvcc is ``$CUDACXX``, else the one on PATH, else ``/usr/local/cuda/bin/nvcc``. cuBLAS, cuRAND, NCCL and cuDNN are taken
from its toolkit, else from the system, else from PyPI's nvidia wheels in this Python's site-packages. The build finds
them there when it runs (by its run path), so where they lie is one of its ingredients.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Dict, Iterator, List, Optional, Set, Tuple

from prototxt_gen.core.errors import Error
from prototxt_gen.train.caffe_needs import compiler, output

DEFAULT_NVCC = "/usr/local/cuda/bin/nvcc"
# Compute capability 7.5: CUDA 13 compiles for nothing older.
DEFAULT_ARCHS = (75,)
CXX17_SINCE = 11
# What it is -> the libraries to link, a header
LIBRARIES = {
    "cuBLAS": (("cublas", "cublasLt"), "cublas_v2.h"),
    "cuRAND": (("curand",), "curand.h"),
    "NCCL": (("nccl",), "nccl.h"),
    "cuDNN": (("cudnn",), "cudnn.h"),
}
# What it is -> the wheel; from CUDA 13 on, the toolkit's own libraries have names without its number.
WHEELS = {"cuBLAS": "nvidia-cublas", "cuRAND": "nvidia-curand", "NCCL": "nvidia-nccl", "cuDNN": "nvidia-cudnn"}


@dataclass(frozen=True)
class CudaOptions:
    """How to build with CUDA. ``archs`` are compute capabilities times ten; newer GPUs translate the highest."""

    archs: Tuple[int, ...] = DEFAULT_ARCHS
    nccl: bool = False
    cudnn: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "archs", tuple(sorted(set(self.archs))))


@dataclass(frozen=True)
class Toolkit:
    """nvcc, its version, and the files and folders that the build needs beside it."""

    nvcc: str
    version: str
    libraries: Tuple[str, ...]
    includes: Tuple[str, ...]


def ingredients(options: CudaOptions, toolkit: Toolkit) -> Dict[str, Any]:
    """Return what the options of a build with CUDA come to, for its key and its record."""
    return {"cuda": toolkit.version, "archs": list(options.archs), "nccl": options.nccl, "cudnn": options.cudnn,
            "libraries": list(toolkit.libraries)}


def settings(options: CudaOptions, toolkit: Toolkit) -> Dict[str, Any]:
    """Return what CMake is told: machine code for every architecture, of the highest the portable code, too."""
    *lower, highest = options.archs
    found = {
        "CPU_ONLY": "OFF",
        "CMAKE_CUDA_COMPILER": toolkit.nvcc,
        "CMAKE_CUDA_ARCHITECTURES": ";".join([*(f"{arch}-real" for arch in lower), str(highest)]),
        "CUDA_LIBRARIES": ";".join(toolkit.libraries),
        "CUDA_INCLUDES": ";".join(toolkit.includes),
        "USE_NCCL": "ON" if options.nccl else "OFF",
        "USE_CUDNN": "ON" if options.cudnn else "OFF",
    }
    if os.environ.get("CXX") and not os.environ.get("CUDAHOSTCXX"):
        found["CMAKE_CUDA_HOST_COMPILER"] = shutil.which(compiler()[0])
    return found


def find(options: CudaOptions) -> Toolkit:
    """Return where everything lies. Raises Error naming all that is missing, and how to install it."""
    nvcc = _nvcc()
    version = _version(nvcc)
    major = int(version.partition(".")[0])
    if major < CXX17_SINCE:
        hint = f"CUDA {CXX17_SINCE} or newer is needed"
        raise Error(f"nvcc {version} is too old: Caffe's layers are C++17", nvcc, hint)
    _check_archs(nvcc, version, options.archs)
    places = list(_places(nvcc, major))
    libraries: List[str] = []
    includes: List[str] = []
    missing = []
    for what in ["cuBLAS", "cuRAND", *["NCCL"] * options.nccl, *["cuDNN"] * options.cudnn]:
        names, header = LIBRARIES[what]
        files, folder = _first(places, names, header, major if what == "cuBLAS" else None)
        if folder is None:
            missing.append(what)
        libraries += files
        includes += [folder] if folder is not None and folder not in includes else []
    if missing:
        wheels = " ".join(WHEELS[what] + _wheel_ending(what, major) for what in missing)
        hint = f"install them with the CUDA toolkit, or for {sys.executable}: pip install {wheels}"
        raise Error(f"the build with CUDA needs {', '.join(missing)}: headers and libraries of CUDA {major}", hint=hint)
    return Toolkit(nvcc, version, tuple(libraries), tuple(includes))


def _wheel_ending(what: str, major: int) -> str:
    return f"-cu{major}" if what in ("NCCL", "cuDNN") or major < 13 else ""


def _nvcc() -> str:
    named = os.environ.get("CUDACXX")
    found = shutil.which(named or "nvcc") or (None if named else shutil.which(DEFAULT_NVCC))
    if found is None:
        looked = f"CUDACXX names no program: '{named}'" if named else f"looked at CUDACXX, PATH and {DEFAULT_NVCC}"
        hint = f"{looked}; NVIDIA's CUDA toolkit has it, on Debian its package nvidia-cuda-toolkit"
        raise Error("the build with CUDA needs nvcc, and there is none", hint=hint)
    return found


def _version(nvcc: str) -> str:
    done = subprocess.run([nvcc, "--version"], capture_output=True, text=True, errors="replace")
    found = re.search(r"\bV(\d+\.\d+\.\d+)", done.stdout)
    if done.returncode != 0 or found is None:
        raise Error("nvcc does not tell its version", nvcc, (done.stderr or done.stdout).strip()[-400:])
    return found.group(1)


def _check_archs(nvcc: str, version: str, archs: Tuple[int, ...]) -> None:
    done = subprocess.run([nvcc, "--list-gpu-arch"], capture_output=True, text=True, errors="replace")
    known = {int(number) for number in re.findall(r"compute_(\d+)\b", done.stdout)}
    wrong = [str(arch) for arch in archs if known and arch not in known]
    if wrong:
        raise Error(f"nvcc {version} does not compile for {', '.join(wrong)}", nvcc,
                    f"it does for {', '.join(map(str, sorted(known)))}")


def _places(nvcc: str, major: int) -> Iterator[Tuple[Path, Path]]:
    """Yield (folder of libraries, folder of headers) in the order in which they are looked at."""
    root = Path(_root(nvcc))
    for folder in ("lib64", "targets/x86_64-linux/lib", "targets/sbsa-linux/lib", "lib"):
        yield root / folder, root / "include"
    for name in ("nccl", "cudnn", "cublas"):
        found = output([*compiler(), f"-print-file-name=lib{name}.so"]).strip()
        if os.path.isabs(found):
            yield Path(found).parent, Path("/usr/include")
    seen: Set[Path] = set()
    for packages in _package_folders():
        # The toolkit's own major version first: those of others may lie beside it.
        wheels = sorted(packages.glob("nvidia/*/lib"), key=lambda path: (path.parent.name != f"cu{major}", path))
        for folder in wheels:
            if folder not in seen:
                seen.add(folder)
                yield folder, folder.parent / "include"


def _package_folders() -> List[Path]:
    return [Path(folder) for folder in sys.path]


def _root(nvcc: str) -> str:
    """Return the toolkit's folder as nvcc itself sees it, which may be started by a script elsewhere."""
    done = subprocess.run([nvcc, "--dryrun", "-x", "cu", "-c", os.devnull], capture_output=True, text=True,
                          errors="replace")
    found = re.search(r"^#\$ TOP=(.*)$", done.stderr, re.MULTILINE)
    return os.path.realpath(found.group(1).strip()) if found else str(Path(nvcc).resolve().parent.parent)


def _first(
    places: List[Tuple[Path, Path]], names: Tuple[str, ...], header: str, major: Optional[int]
) -> Tuple[List[str], Optional[str]]:
    """Return the libraries and the folder of headers of the first place that has both."""
    for folder, include in places:
        files = [_file(folder, name, major) for name in names]
        if all(files) and (include / header).is_file():
            return [str(path) for path in files], str(include)
    return [], None


def _file(folder: Path, name: str, major: Optional[int]) -> Optional[Path]:
    """Return a library's file. Wheels hold names with versions only, such as libcublas.so.13."""
    plain = folder / f"lib{name}.so"
    if plain.is_file():
        return plain
    found = {}
    for path in folder.glob(f"lib{name}.so.*"):
        version = path.name.partition(".so.")[2]
        if version.isdigit() and major in (None, int(version)):
            found[int(version)] = path
    return found[max(found)] if found else None
