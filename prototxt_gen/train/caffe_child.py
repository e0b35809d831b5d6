"""A child process that runs Caffe for ``test`` and ``time``: how it is started, fed and listened to.

A process of its own, because Caffe aborts on what it refuses. It is ``python -m MODULE FOLDER FD``: FOLDER holds
``job.json`` and what the job names, FD is the pipe for its results. Its standard output and error are kept apart for
the message when it fails: Python layers print, and Caffe logs.
"""

from __future__ import annotations

import importlib.util
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import types
from pathlib import Path
from typing import Any, Dict, Optional

from prototxt_gen.core.errors import CaffeError
from prototxt_gen.train.caffe import Caffe, child_environment
from prototxt_gen.train.gpus import check_built, check_usable

MEMORY_HINT = "memory ran out, it seems: a smaller --batch-size needs less"
SAID_BYTES = 1 << 16
EXCEPTION = re.compile(r"[\w.]*(Error|Exception)\b")


def check_device(caffe: Caffe, gpu: Optional[int]) -> None:
    """Raise Error where a GPU is asked for that this Caffe was not built for, or cannot use."""
    if gpu is not None:
        check_built(caffe, str(gpu))
        check_usable(caffe, str(gpu))


class Child:
    """A running child, to be used in a ``with``: at its end nothing of it is left.

    ``stdin`` takes bytes for it, ``results`` gives its own. ``where`` is the net's name in messages.
    """

    def __init__(self, module: str, folder: Path, job: Dict[str, Any], caffe: Caffe, where: str) -> None:
        (folder / "job.json").write_text(json.dumps(job))
        self.where = where
        self._said = tempfile.TemporaryFile()
        read, write = os.pipe()
        environment = {**child_environment(caffe), "GLOG_minloglevel": "2"}
        self._process = subprocess.Popen(
            [sys.executable, "-m", module, str(folder), str(write)], stdin=subprocess.PIPE, stdout=self._said,
            stderr=self._said, env=environment, pass_fds=(write,),
        )
        os.close(write)
        self.stdin: Any = self._process.stdin
        self.results: Any = os.fdopen(read, "rb")

    def __enter__(self) -> Child:
        return self

    def __exit__(self, *exception: Any) -> None:
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait()
        for file in (self.results, self._said, self.stdin):
            try:
                file.close()
            except BrokenPipeError:
                pass  # what the child was not there to take

    def failure(self) -> CaffeError:
        """Return the error for a child that closed its results too early."""
        status = self._process.wait()
        self._said.seek(max(0, self._said.seek(0, os.SEEK_END) - SAID_BYTES))
        lines = [line.strip() for line in self._said.read().decode(errors="replace").splitlines() if line.strip()]
        fatal = [line.partition("] ")[2] for line in lines if line.startswith("F") and "] " in line]
        if fatal:
            return CaffeError(f"Caffe refuses the net: {fatal[0]}", self.where)
        ended = f"was ended by {signal.Signals(-status).name}" if status < 0 else f"ended with exit code {status}"
        # A Python layer's exception comes first, and what boost makes of it last.
        raised = [line for line in lines if EXCEPTION.match(line)]
        said = f": {(raised or lines[-1:])[0]}" if lines else ""
        out_of_memory = status == -signal.SIGKILL or "bad_alloc" in said or "out of memory" in said
        return CaffeError(f"Caffe {ended}{said}", self.where, MEMORY_HINT if out_of_memory else "")


def load_caffe(gpu: Optional[int]) -> Any:
    """Return the compiled half of pycaffe, set to a device; its Python half imports packages that are not needed."""
    package = types.ModuleType("caffe")
    package.__path__ = list(importlib.util.find_spec("caffe").submodule_search_locations)
    sys.modules["caffe"] = package
    from caffe import _caffe

    if gpu is None:
        _caffe.set_mode_cpu()
    else:
        _caffe.set_device(gpu)
        _caffe.set_mode_gpu()
    return _caffe
