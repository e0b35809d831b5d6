"""The error type of every floor: what is wrong, where, and what to do next."""

from __future__ import annotations

from typing import Iterable, Optional


class Error(Exception):
    """The question asked has no answer: bad usage, unreadable input, a missing tool.

    ``what`` says what is wrong with the value in quotes, ``where`` names the place (``file:line:column`` or a file) and
    ``hint`` says what to do next. The command line prints all three and leaves with ``exit_code``.
    """

    exit_code = 2

    def __init__(self, what: str, where: str = "", hint: str = "") -> None:
        super().__init__(what)
        self.what = what
        self.where = where
        self.hint = hint

    def __str__(self) -> str:
        text = f"{self.where}: {self.what}" if self.where else self.what
        return f"{text}\nhint: {self.hint}" if self.hint else text


class CaffeError(Error):
    """Caffe itself ran and failed."""

    exit_code = 3


def nearest(name: str, known: Iterable[str]) -> Optional[str]:
    """Return the known name most like ``name``, or None when nothing comes close."""
    import difflib  # needed on the way out of an error only

    known = list(known)
    by_lower = {candidate.lower(): candidate for candidate in known}
    found = difflib.get_close_matches(name.lower(), by_lower, n=1, cutoff=0.6)
    return by_lower[found[0]] if found else None


def did_you_mean(name: str, known: Iterable[str], otherwise: str = "") -> str:
    """Return a hint naming the known name most like ``name``, or ``otherwise`` when nothing comes close."""
    candidate = nearest(name, known)
    return f"did you mean '{candidate}'?" if candidate else otherwise
