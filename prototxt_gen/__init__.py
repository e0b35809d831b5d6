"""Generate, check and convert Caffe prototxts; build and run Caffe itself.

``layers``, ``params``, ``NetSpec``, ``Top`` and ``to_proto`` are those of :mod:`prototxt_gen.spec.netspec`, under the
names that pycaffe gives them: a script written for ``from caffe import layers as L, params as P`` needs its import
changed only.
"""

from typing import Any

__version__ = "0.1.0"
__all__ = ["NetSpec", "Top", "layers", "params", "to_proto"]


def __getattr__(name: str) -> Any:
    # Imported when asked for, so that the command line starts without protobuf.
    if name in __all__:
        from prototxt_gen.spec import netspec

        return getattr(netspec, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
