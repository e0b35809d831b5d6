"""How commands read their arguments: NET, and ``--set FIELD=VALUE``."""

from __future__ import annotations

import os
from typing import Dict, Iterable

from prototxt_gen.core.errors import Error, did_you_mean
from prototxt_gen.core.io import Model, read_model
from prototxt_gen.nets.configs import NETWORKS


def read_net_file(net: str) -> Model:
    """Read the net file that a NET argument names, once it is known to be no network's name."""
    if net != "-" and not os.path.exists(net):
        hint = did_you_mean(net, NETWORKS, "prototxt-gen list shows the networks")
        raise Error(f"there is no network and no file '{net}'", hint=hint)
    return read_model(net)


def assignments(settings: Iterable[str]) -> Dict[str, str]:
    """Read the values of ``--set FIELD=VALUE``."""
    values = {}
    for text in settings:
        name, equals, value = text.partition("=")
        if not equals:
            raise Error(f"--set {text} has no '='", hint="write --set FIELD=VALUE")
        values[name.strip()] = value.strip()
    return values
