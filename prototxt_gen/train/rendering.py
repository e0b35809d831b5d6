"""Texts from the templates that the package ships."""

from __future__ import annotations

import json
from typing import Any, Mapping


def render(template: str, values: Mapping[str, Any]) -> str:
    """Return a template's text. A value that it names must be given; the filter ``quoted`` writes prototxt strings."""
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("prototxt_gen.templates", ""),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["quoted"] = json.dumps
    return environment.get_template(template).render(values)
