"""The numpy forward of Caffe nets: the judge where no engine is installed, and written to be read.

    from prototxt_gen.export.reference import forward

    blobs = forward(model, {"data": images})
"""

from __future__ import annotations

from prototxt_gen.export.reference.run import forward, steps

__all__ = ["forward", "steps"]
