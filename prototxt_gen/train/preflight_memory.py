"""The memory that a training will need, beside what is free where it runs.

It is what ``spec.memory`` says of the training net, with the activations of the test nets, which live beside it; on the
CPU without what is never written. It grows with the batch in a straight line, so that two batch sizes tell the largest
that fits. CUDA and its libraries take some 0.5 GiB more of a GPU.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from dataclasses import dataclass
from typing import Any, Iterator, List, NamedTuple, Optional, Sequence

from prototxt_gen.core.errors import Error
from prototxt_gen.core.solvers import HISTORY_ARRAYS
from prototxt_gen.spec.lean import LEAN, PLAIN, SHARED, SHARING
from prototxt_gen.spec.memory import memory
from prototxt_gen.spec.rules import CAFFE, GPU, OWN
from prototxt_gen.train.caffe import Caffe
from prototxt_gen.train.preflight import UsedNet
from prototxt_gen.train.preflight_nets import look_at, train_batch

MEMORY_VARIABLE = "PROTOTXT_GEN_MEMORY"  # what our Caffe reads


class Place(NamedTuple):
    """Memory that a training will use: of a GPU by its number, or the computer's. ``free`` in bytes.

    ``runs`` tells how nets run there: ``rules.GPU``, OWN or CAFFE.
    """

    name: str
    free: int
    runs: str


@dataclass(frozen=True)
class Need:
    """Bytes of memory for a training step with batch b: ``fixed`` + b ``per_image``. ``batch`` is the net's own b."""

    batch: int
    fixed: int
    per_image: int

    @property
    def total(self) -> int:
        """Bytes at the net's own batch."""
        return self.fixed + self.batch * self.per_image

    def largest_batch(self, free: int) -> int:
        """Return the largest batch that fits, 0 where none does."""
        return max(0, (free - self.fixed) // max(self.per_image, 1))


def gpu_places(gpu: str) -> List[Place]:
    """Return the GPUs that 'all' or ids such as '0,1' name, with their free memory; none without nvidia-smi."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return []
    query = [program, "--query-gpu=index,memory.free", "--format=csv,noheader,nounits"]
    done = subprocess.run(query, capture_output=True, text=True, errors="replace")
    places = []
    for line in done.stdout.splitlines() if done.returncode == 0 else []:
        index, _, mebibytes = line.partition(",")
        if mebibytes.strip().isdigit() and (gpu == "all" or index.strip() in gpu.split(",")):
            places.append(Place(f"GPU {index.strip()}", int(mebibytes) << 20, GPU))
    return places


def computer(caffe: Caffe) -> Place:
    """Return the computer's memory that a process of a Caffe can have, a container's limit included."""
    with open("/proc/meminfo", encoding="ascii") as file:
        fields = dict(line.split(":", 1) for line in file)
    free = int(fields["MemAvailable"].split()[0]) << 10
    limit, used = (_number(f"/sys/fs/cgroup/memory.{name}") for name in ("max", "current"))
    if limit is not None and used is not None:
        free = min(free, max(0, limit - used))
    return Place("this computer", free, OWN if caffe.runs_own_engines else CAFFE)


def _number(path: str) -> Optional[int]:
    try:
        with open(path, encoding="ascii") as file:
            text = file.read().strip()
    except OSError:
        return None
    return int(text) if text.isdigit() else None


def memory_asked(asked: Optional[str], recorded: Optional[str]) -> Optional[str]:
    """Return how blobs are to share memory: as asked for, else as the environment says, else as a run was started."""
    word = os.environ.get(MEMORY_VARIABLE) or None
    if word is not None and word not in SHARING:
        raise Error(f"{MEMORY_VARIABLE} is '{word}'", hint=f"it may be {', '.join(SHARING[:-1])} or {SHARING[-1]}")
    return asked or word or recorded


def memory_word(caffe: Caffe, asked: Optional[str], on_gpu: bool) -> str:
    """Return how blobs share memory where ``asked`` may leave it open: on the CPU they do, on a GPU they do not.

    Sharing changes no result and takes no time; on a GPU it has not been tried. Raises Error for a Caffe that cannot.
    """
    if asked is None:
        return SHARED if caffe.is_ours and not on_gpu else PLAIN
    if asked != PLAIN and not caffe.is_ours:
        raise Error(f"this Caffe knows no --memory {asked}", str(caffe.binary),
                    "prototxt-gen caffe build builds one that does")
    return asked


def need(nets: Sequence[UsedNet], solver: Any, runs: str, sharing: str = PLAIN) -> Need:
    """Return what a training needs where nets run as ``Place.runs`` tells. Raises Error where that is unknown.

    ``nets`` are the training net and the test nets.
    """
    kind = solver.type if solver.type in HISTORY_ARRAYS else "SGD"
    one, two = (memory(look_at(nets[0], batch), kind, sharing).held(runs) for batch in (1, 2))
    tests = [memory(look_at(net), kind, sharing) for net in nets[1:]]
    beside = sum(each.activations + each.shared + each.prefetch + each.buffers - each.spared.get(runs, 0)
                 for each in tests)
    return Need(train_batch(nets[0]), 2 * one - two + beside, two - one)


def memory_lines(
    nets: Sequence[UsedNet], solver: Any, places: Sequence[Place], sharing: str = PLAIN
) -> Iterator[str]:
    """Say what a training needs beside what is free, and the largest batch that fits."""
    for place in places:
        try:
            wanted = need(nets, solver, place.runs, sharing)
        except Error as error:
            yield f"memory: not known: {error.what}"
            return
        fits = wanted.largest_batch(place.free)
        text = f"{amount(wanted.total)} of {amount(place.free)} free on {place.name}; batches of up to {fits} fit"
        if wanted.batch <= fits:
            yield f"memory: {text}"
            continue
        images = wanted.batch * max(solver.iter_size, 1)
        smaller = max((size for size in range(1, fits + 1) if images % size == 0), default=0)
        advice = f"; batch_size: {smaller} with iter_size: {images // smaller} sees as many images an update"
        lean = need(nets, solver, place.runs, LEAN).total
        other = f"; --memory lean needs {amount(lean)}" if sharing != LEAN and lean <= place.free else ""
        yield f"warning: memory: batch {wanted.batch} needs {text}{advice if smaller else ''}{other}"


def amount(size: int) -> str:
    """Return bytes as people read them."""
    for unit, scale in (("GiB", 2**30), ("MiB", 2**20)):
        if size >= scale:
            return f"{size / scale:.1f} {unit}"
    return f"{size / 1024:.1f} KiB"
