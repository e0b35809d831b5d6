"""Builds Caffe from source into the cache.

A build lies in ``<cache>/caffe/<key>``, its key a hash of everything that goes in. It is made in a sibling folder and
renamed when it is whole, so that a build that was killed leaves nothing that could be taken for one; a lock lets one
build run at a time. ``build.json`` says what went in, ``build.log`` what the tools said.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import platform
import re
import shutil
import signal
import subprocess
import sys
import sysconfig
from importlib import metadata
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List, Optional

from prototxt_gen.core.dialects import PROTO_FILE
from prototxt_gen.core.errors import Error
from prototxt_gen.train import caffe_cuda, caffe_needs, caffe_source
from prototxt_gen.train.caffe_cuda import CudaOptions, Toolkit

# Called with what is being done, and how many of how many steps of it are done; both are 0 where nobody counts.
Progress = Callable[[str, int, int], None]
NINJA_COUNT = re.compile(r"\[(\d+)/(\d+)\] ")
RECORD = "build.json"
LOG = "build.log"


def cache_dir() -> Path:
    """Return the folder of all builds: below $PROTOTXT_GEN_CACHE, else $XDG_CACHE_HOME, else ~/.cache."""
    own = os.environ.get("PROTOTXT_GEN_CACHE")
    if own:
        return Path(own) / "caffe"
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(home) / "prototxt-gen" / "caffe"


def ingredients(cuda: Optional[CudaOptions] = None) -> Dict[str, Any]:
    """Return everything that goes into a build here and now. Raises Error where CUDA is asked for and is not there."""
    return _ingredients(cuda, None if cuda is None else caffe_cuda.find(cuda))


def _ingredients(cuda: Optional[CudaOptions], toolkit: Optional[Toolkit]) -> Dict[str, Any]:
    options = {"cuda": False} if cuda is None else caffe_cuda.ingredients(cuda, toolkit)
    return {**_common(cuda is not None), "options": options}


def _common(with_kernels: bool) -> Dict[str, Any]:
    """Return the ingredients without the options."""
    native = caffe_source.NATIVE_DIR
    sources = [native / "CMakeLists.txt"]
    for folder in ("layers", "memory", "solvers"):
        sources += sorted(native.glob(f"{folder}/*.?pp"))
    if with_kernels:
        sources += [*sorted(native.glob("layers/*.cu")), *sorted(native.glob("cuda/*"))]
    code = hashlib.sha256()
    for path in sources:
        code.update(path.name.encode() + b"\0" + path.read_bytes() + b"\0")
    return {
        "source": caffe_source.pin()[2],
        "schema": hashlib.sha256(PROTO_FILE.read_bytes()).hexdigest(),
        "native": code.hexdigest(),
        "python": [platform.python_version(), sysconfig.get_config_var("SOABI"), sysconfig.get_path("include")],
        "numpy": metadata.version("numpy").partition(".")[0],
        "compiler": caffe_needs.compiler_version(),
        "machine": platform.machine(),
        "packages": caffe_needs.versions(),
    }


def key_of(parts: Dict[str, Any]) -> str:
    """Return the name of the folder of a build with these ingredients."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]


def cached(parts: Dict[str, Any]) -> Optional[Path]:
    """Return the finished build with exactly these ingredients."""
    root = cache_dir() / key_of(parts)
    return root if _is_whole(root) else None


def _is_whole(root: Path) -> bool:
    return all((root / name).is_file() for name in (RECORD, "bin/caffe"))


def cached_with_cuda() -> List[Path]:
    """Return the finished builds with CUDA that are current whatever their options are, the newest first.

    What they were compiled with is not asked for: a machine that only runs them needs no nvcc.
    """
    common = _common(with_kernels=True)
    found = []
    for path in cache_dir().glob(f"*/{RECORD}"):
        was = record(path.parent)
        options = was.get("options", {})
        if options.get("cuda") and was == {**common, "options": options} and _is_whole(path.parent):
            found.append((path.stat().st_mtime_ns, path.parent))
    return [root for _, root in sorted(found, reverse=True)]


def record(root: Path) -> Dict[str, Any]:
    """Return the ingredients of the build in a folder, nothing where they are not to be read."""
    try:
        was = json.loads((root / RECORD).read_text())
    except (OSError, ValueError):
        return {}
    return was if isinstance(was, dict) else {}


def stale(parts: Dict[str, Any]) -> Dict[Path, List[str]]:
    """Return every other finished build with the names of the ingredients that differ from ``parts``."""
    found = {}
    for path in sorted(cache_dir().glob(f"*/{RECORD}")):
        was = record(path.parent)
        changed = [name for name in parts if was.get(name) != parts[name]] if was else [RECORD]
        if changed:
            found[path.parent] = changed
    return found


def build(
    source: Optional[Path] = None,
    jobs: Optional[int] = None,
    force: bool = False,
    cuda: Optional[CudaOptions] = None,
    progress: Progress = lambda what, done, total: None,
) -> Path:
    """Return the root of a current build, making it first unless it is there and ``force`` is off.

    ``source`` is the source distribution where it is at hand; else pip downloads it. ``jobs`` defaults to one for each
    core, and at most one for each GiB of memory. Without ``cuda`` the build is for the CPU only.
    """
    if source is not None:
        caffe_source.verify(source)
    toolkit = None if cuda is None else caffe_cuda.find(cuda)
    parts = _ingredients(cuda, toolkit)
    found = cached(parts)
    if found and not force:
        return found
    caffe_needs.check()
    folder = cache_dir()
    folder.mkdir(parents=True, exist_ok=True)
    with _lock(folder, progress) as lock:
        found = cached(parts)
        if found and not force:
            return found
        for left in folder.glob("*.partial"):
            shutil.rmtree(left)
        if source is None:
            progress("fetching Caffe's source", 0, 0)
            source = caffe_source.fetch(folder)
        wanted = {"CPU_ONLY": "ON"} if cuda is None else caffe_cuda.settings(cuda, toolkit)
        return _build(folder / key_of(parts), parts, source, jobs or default_jobs(), wanted, lock, progress)


def default_jobs() -> int:
    """Return how many compilers to run at once."""
    memory_gib = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2**30
    return max(1, min(len(os.sched_getaffinity(0)), memory_gib))


@contextlib.contextmanager
def _lock(folder: Path, progress: Progress) -> Iterator[int]:
    """Hold the lock and yield its descriptor, for the tools: killed without them, this process leaves it to them."""
    with (folder / "lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            progress("waiting for another build of Caffe to end", 0, 0)
            fcntl.flock(file, fcntl.LOCK_EX)
        yield file.fileno()


def _build(
    root: Path, parts: Dict[str, Any], source: Path, jobs: int, wanted: Dict[str, Any], lock: int, progress: Progress
) -> Path:
    work = root.with_name(f"{root.name}.partial")
    install = work / "install"
    # The log of a build that failed must outlive its folder.
    log = root.with_name(f"{root.name}.log")
    log.unlink(missing_ok=True)
    try:
        caffe_source.unpack(source, work / "source")
        progress("configuring Caffe", 0, 0)
        _run(_configure_command(work, wanted), log, lock, progress)
        _run(["cmake", "--build", str(work / "build"), "--parallel", str(jobs)], log, lock, progress)
        _run(["cmake", "--install", str(work / "build"), "--prefix", str(install)], log, lock, progress)
        shutil.copyfile(log, install / LOG)
        (install / RECORD).write_text(json.dumps(parts, indent=2, sort_keys=True) + "\n")
        if root.exists():
            root.rename(work / "replaced")
        install.rename(root)
        log.unlink()
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return root


def _configure_command(work: Path, wanted: Dict[str, Any]) -> List[str]:
    settings = {
        "CAFFE_SOURCE": work / "source",
        "CAFFE_PROTO": PROTO_FILE,
        "CMAKE_BUILD_TYPE": "Release",
        "Python_EXECUTABLE": sys.executable,
        **wanted,
    }
    defined = [f"-D{name}={value}" for name, value in settings.items()]
    return ["cmake", "-G", "Ninja", "-S", str(caffe_source.NATIVE_DIR), "-B", str(work / "build"), *defined]


def _run(command: List[str], log: Path, lock: int, progress: Progress) -> None:
    """Run one step, its output in the log and ninja's count as progress. Raises Error when it fails."""
    environment = {**os.environ, "LC_ALL": "C", "NINJA_STATUS": "[%f/%t] "}
    with log.open("a", encoding="utf-8", errors="replace") as file:
        file.write(f"$ {' '.join(command)}\n")
        file.flush()
        child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace",
                                 env=environment, start_new_session=True, pass_fds=(lock,))
        try:
            with child.stdout:
                for line in child.stdout:
                    file.write(line)
                    count = NINJA_COUNT.match(line)
                    if count:
                        progress("building Caffe", int(count.group(1)), int(count.group(2)))
            status = child.wait()
        except BaseException:
            # Ctrl-C reaches this process alone: the step has a session of its own, and its compilers go with it.
            os.killpg(child.pid, signal.SIGTERM)
            child.wait()
            raise
    if status != 0:
        raise _failure(command, status, log)


def _failure(command: List[str], status: int, log: Path) -> Error:
    text = log.read_text(encoding="utf-8", errors="replace")
    package = caffe_needs.package_for(text)
    if package:
        hint = caffe_needs.install_hint([package])
    elif "Killed signal terminated program" in text:
        hint = "the compiler was killed, probably for want of memory: --jobs 1 needs the least"
    elif "No space left on device" in text:
        hint = "the disk is full: $PROTOTXT_GEN_CACHE moves the cache elsewhere"
    else:
        errors = [line.strip() for line in text.splitlines() if re.search(r"\berror\b", line, re.IGNORECASE)]
        hint = f"the first error: {errors[0]}" if errors else "the log ends with what went wrong"
    return Error(f"a step of the build of Caffe failed with status {status}: {' '.join(command)}", str(log), hint)
