"""``prototxt-gen caffe``: build Caffe from source, and tell which Caffe is used and what it can do."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any, List, Optional

import click

from prototxt_gen.core.errors import Error
from prototxt_gen.train import caffe as finder
from prototxt_gen.train import caffe_build, caffe_cuda
from prototxt_gen.train.preflight import OWN_LAYERS


@click.group("caffe", short_help="Build Caffe from source; show which Caffe is used.")
def caffe() -> None:
    """Build Caffe from source, and show which Caffe is used and what it can do."""


@caffe.command("build", short_help="Build Caffe with BN, Interp and AugmentedData.")
@click.option("--source", type=click.Path(path_type=Path), metavar="FILE",
              help="Caffe's source distribution, where you have it already.  [default: pip downloads it]")
@click.option("--jobs", type=click.IntRange(min=1), metavar="N", help="Compilers at once.  [default: one per core]")
@click.option("--force", is_flag=True, help="Build again, even if a current build is there.")
@click.option("--cuda", is_flag=True, help="Build for NVIDIA's GPUs, too. Needs nvcc, cuBLAS and cuRAND.")
@click.option("--arch", "archs", metavar="LIST", help="With --cuda: compute capabilities, such as 75,80,90. GPUs that "
              f"are newer translate the highest.  [default: {','.join(map(str, caffe_cuda.DEFAULT_ARCHS))}]")
@click.option("--nccl", is_flag=True, help="With --cuda: train on several GPUs.")
@click.option("--cudnn", is_flag=True, help="With --cuda: layers by cuDNN. Such a build needs a GPU for CPU work, too.")
def build(
    source: Optional[Path], jobs: Optional[int], force: bool, cuda: bool, archs: Optional[str], nccl: bool, cudnn: bool
) -> None:
    """Build Caffe with BN, Interp and AugmentedData into the cache, and print its folder.

    Takes some minutes the first time. A later call builds again only when something that goes in has changed: this
    tool's layers or schema, Python, the compiler, a library.

    A build with --cuda lies beside the one for the CPU and is what --gpu uses. What the CUDA toolkit lacks may come
    from PyPI: nvidia-cublas, nvidia-curand and nvidia-nccl-cu13 for CUDA 13.
    """
    options = _cuda_options(cuda, archs, nccl, cudnn)
    progress = ProgressLine()
    try:
        root = caffe_build.build(source=source, jobs=jobs, force=force, cuda=options, progress=progress)
    finally:
        progress.end()
    click.echo(root)


def _cuda_options(cuda: bool, archs: Optional[str], nccl: bool, cudnn: bool) -> Optional[caffe_cuda.CudaOptions]:
    given = [name for name, value in (("--arch", archs), ("--nccl", nccl), ("--cudnn", cudnn)) if value]
    if not cuda:
        if given:
            raise Error(f"{given[0]} wants --cuda")
        return None
    if archs is None:
        return caffe_cuda.CudaOptions(nccl=nccl, cudnn=cudnn)
    if not re.fullmatch(r"\d{2,3}(,\d{2,3})*", archs):
        raise Error(f"--arch {archs} names no compute capabilities", hint="write them without dots, such as 75,80,90")
    return caffe_cuda.CudaOptions(tuple(map(int, archs.split(","))), nccl, cudnn)


@caffe.command("info", short_help="Show which Caffe is used.")
@click.option("--caffe", "given", metavar="DIR", help="A Caffe of your own.  [default: CAFFE_ROOT, else the one built]")
@click.option("--gpu", is_flag=True, help="The one that a GPU would be used with.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def info(given: Optional[str], gpu: bool, as_json: bool) -> int:
    """Show which Caffe is used, where it lies and what it can do; exit 1 if there is none."""
    try:
        found = finder.find(given, gpu)
    except finder.NoCaffe as error:
        if as_json:
            click.echo(_document({"found": False, "reason": error.what, "hint": error.hint}))
        else:
            click.echo(str(error))
        return 1
    click.echo(_document(found.as_json()) if as_json else "\n".join(_lines(found)))
    return 0


def _document(data: Any) -> str:
    return json.dumps(data, indent=2, sort_keys=True)


def _lines(found: finder.Caffe) -> List[str]:
    own = [name for name in OWN_LAYERS if name in found.layers]
    lacks = [name for name in OWN_LAYERS if name not in found.layers]
    rows = [
        ("root", f"{found.root} ({found.origin})"),
        ("binary", str(found.binary)),
        ("pycaffe", str(found.pycaffe)),
        ("version", found.version or "unknown"),
        ("dialect", found.dialect or "unknown"),
        ("CUDA", _cuda(found)),
        ("layers", f"{len(found.layers)} types; " + "; ".join(
            [f"with {', '.join(own)}"] * bool(own) + [f"without {', '.join(lacks)}"] * bool(lacks))),
    ]
    if found.missing_modules:
        rows.append(("missing", f"{', '.join(found.missing_modules)}: import caffe needs "
                                f"them; pip install 'prototxt-gen[pycaffe]'"))
    width = max(len(name) for name, _ in rows)
    return [f"{name:<{width}}  {value}" for name, value in rows]


def _cuda(found: finder.Caffe) -> str:
    if not found.cuda:
        return "no"
    parts = [found.toolkit or "yes", *[f"compute capability {', '.join(map(str, found.archs))}"] * bool(found.archs)]
    return "; ".join([*parts, "with NCCL" if found.nccl else "without NCCL"])


class ProgressLine:
    """Progress on stderr: one line that is rewritten on a terminal, elsewhere a line for every tenth."""

    def __init__(self) -> None:
        self.live = sys.stderr.isatty()
        self.last = ""

    def __call__(self, what: str, done: int, total: int) -> None:
        if self.live:
            count = f" [{done}/{total}]" if total else ""
            click.echo(f"\r\033[K{what}{count}", err=True, nl=False)
            self.last = what
            return
        text = f"{what}: {10 * (10 * done // total)} %" if total else what
        if text != self.last:
            click.echo(text, err=True)
            self.last = text

    def end(self) -> None:
        """Leave the rewritten line behind."""
        if self.live and self.last:
            click.echo(err=True)
