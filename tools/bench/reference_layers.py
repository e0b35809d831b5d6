"""The layers that only the benches have: BN and Interp in the manner of the authors' fork, beside libcaffe.

Loaded into a process before its first net (``ctypes.CDLL(path, ctypes.RTLD_GLOBAL)``), it registers the layer types
ReferenceBN and ReferenceInterp, with bn_param and interp_param, and offers ``copy_bytes`` and ``multiply``. libcaffe
itself stays as it is. It is compiled once for each build of Caffe, into the cache.
"""

from __future__ import annotations

import hashlib
import subprocess
import sysconfig
import tempfile
from pathlib import Path

import click

from prototxt_gen.core.dialects import PROTO_FILE
from prototxt_gen.train import caffe_build, caffe_needs, caffe_source

SOURCES = sorted((Path(__file__).resolve().parent / "reference").glob("*.cpp"))
FLAGS = ["-std=c++17", "-O3", "-fPIC", "-shared", "-pthread", "-w", "-DCPU_ONLY"]
# Debian's places of headers that lie in a folder of their own.
INCLUDES = ["/usr/include/openblas", f"/usr/include/{sysconfig.get_config_var('MULTIARCH')}"]


def compiled(root: Path) -> Path:
    """Return the library for the Caffe below ``root``, compiled when it is not there yet."""
    code = hashlib.sha256(str(root).encode() + b"".join(path.read_bytes() for path in SOURCES)).hexdigest()[:16]
    target = caffe_build.cache_dir().parent / "bench" / f"reference-{code}.so"
    if target.is_file():
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        caffe_source.unpack(caffe_source.fetch(caffe_build.cache_dir()), folder)
        schema = folder / "schema/caffe/proto"
        schema.mkdir(parents=True)
        made = folder / "reference.so"
        commands = [
            ["protoc", f"--proto_path={PROTO_FILE.parent}", f"--cpp_out={schema}", str(PROTO_FILE)],
            [*caffe_needs.compiler(), *FLAGS, f"-I{folder}/schema", f"-I{folder}/include",
             f"-I{caffe_source.NATIVE_DIR}/layers", *(f"-isystem{one}" for one in INCLUDES), *map(str, SOURCES),
             f"-L{root}/lib", "-lcaffe", "-lglog", "-lboost_system", f"-Wl,-rpath,{root}/lib", "-o", str(made)],
        ]
        for command in commands:
            done = subprocess.run(command, capture_output=True, text=True)
            if done.returncode != 0:
                raise click.ClickException(f"{' '.join(command)}\n{done.stderr[-2000:]}")
        made.replace(target.with_suffix(".partial"))
        target.with_suffix(".partial").replace(target)
    return target
