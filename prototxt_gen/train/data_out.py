"""The folder OUT while it is written: it has another name until it is finished, and outlasts a run cut short."""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
from contextlib import contextmanager
from pathlib import Path
from typing import Callable, Iterator, Optional, Sequence, Tuple

from prototxt_gen.core.errors import Error

UNFINISHED = ".partial"
# In an unfinished set: whose beginning it is, and how far it has come.
PROGRESS_FOLDER = ".progress"
FINGERPRINT_FILE = "fingerprint"


def unfinished_name(out: Path) -> Path:
    """Return the name of ``out`` while it is written."""
    out = Path(os.path.abspath(out))
    return out.with_name(out.name + UNFINISHED)


@contextmanager
def unfinished_folder(
    out: Path, members: Sequence[str], force: bool, fingerprint: Optional[str], note: Callable[[str], None]
) -> Iterator[Tuple[Path, Path]]:
    """Yield the folder in which a set is written, and one in it that keeps the progress.

    It is called ``<out>.partial`` and gets the name ``out`` when the block ends well. When it does not, it is kept for
    the next run with the same ``fingerprint``, and deleted where there is no fingerprint or no progress. Two runs at
    the same time are told apart by a lock. ``force`` replaces an existing ``out`` that holds nothing but ``members``.
    Raises Error, also for any OSError of the block.
    """
    out = Path(os.path.abspath(out))
    members = (*members, PROGRESS_FOLDER)
    if os.path.lexists(out):
        _check_replaceable(out, members, force)
    partial = unfinished_name(out)
    hint = f"until it is finished, the set is written into '{partial}'"
    try:
        partial.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(partial, os.O_RDONLY | os.O_DIRECTORY)
    except OSError as error:
        raise Error(f"cannot make the folder: {error.strerror}", str(out), hint) from error
    try:
        _lock(descriptor, partial, out, hint)
        try:
            progress = _take_up(partial, members, fingerprint, note)
            yield partial, progress
            os.fsync(descriptor)
            _rename(partial, out, members, force)
        except BaseException as error:
            _leave(partial, fingerprint, error, out)
            raise
    finally:
        os.close(descriptor)


def _take_up(partial: Path, members: Sequence[str], fingerprint: Optional[str], note: Callable[[str], None]) -> Path:
    """Keep what a run of this fingerprint has left, clear what another one has; return the folder of the progress."""
    progress = partial / PROGRESS_FOLDER
    mark = progress / FINGERPRINT_FILE
    if fingerprint is not None and mark.is_file() and mark.read_text(encoding="ascii", errors="replace") == fingerprint:
        return progress
    found = sorted(os.listdir(partial))
    foreign = [name for name in found if name not in members]
    if foreign:
        hint = "a set has this name until it is finished: move the folder away, or choose another name"
        raise _Foreign(f"'{foreign[0]}' in it is not part of an unfinished set of images", str(partial), hint)
    if mark.is_file():
        note(f"'{partial}', an unfinished set of other images or options, is cleared")
    for name in found:
        path = partial / name
        shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
    progress.mkdir()
    mark.write_text(fingerprint or "", encoding="ascii")
    return progress


class _Foreign(Error):
    """The unfinished set's name is taken by files of somebody else."""


def _leave(partial: Path, fingerprint: Optional[str], error: BaseException, out: Path) -> None:
    """Keep or delete an unfinished set, and tell in ``error`` where it was kept. An OSError is raised as an Error."""
    if isinstance(error, _Foreign):
        return
    progress = partial / PROGRESS_FOLDER
    kept = fingerprint is not None and progress.is_dir() and len(os.listdir(progress)) > 1
    if not kept:
        shutil.rmtree(partial, ignore_errors=True)
    told = error
    if isinstance(error, OSError):
        full = "the disk is full" if error.errno == errno.ENOSPC else error.strerror or str(error)
        told = Error(f"cannot write: {full}", where=str(error.filename or out))
    if kept and isinstance(told, Error):
        goes_on = f"what is finished is kept in '{partial}', and the same command goes on from there"
        told.hint = f"{told.hint}; {goes_on}" if told.hint else goes_on
    if told is not error:
        raise told from error


def _check_replaceable(out: Path, members: Sequence[str], force: bool) -> None:
    if not force:
        raise Error("exists already", where=str(out), hint="choose another name, or replace it with --force")
    if not out.is_dir() or out.is_symlink():
        raise Error("is not a folder", where=str(out), hint="choose another name")
    foreign = sorted(set(os.listdir(out)) - set(members))
    if foreign:
        named = ", ".join(name for name in members if name != PROGRESS_FOLDER)
        hint = f"--force replaces only a folder that holds nothing but {named}"
        raise Error(f"'{foreign[0]}' in it is not part of a set of images", where=str(out), hint=hint)


def _lock(descriptor: int, partial: Path, out: Path, hint: str) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise Error("another run is writing this folder", str(out), hint) from error
    except OSError:
        # Some network file systems have no locks; there two runs at once cannot be told apart.
        return
    if not partial.is_dir() or not os.path.samestat(os.fstat(descriptor), os.stat(partial)):
        raise Error("another run has just finished writing this folder", str(out))


def _rename(partial: Path, out: Path, members: Sequence[str], force: bool) -> None:
    """Give the finished folder its name; what had the name goes only after that, and the progress last."""
    replaced = out.with_name(out.name + ".replaced")
    if force and out.is_dir():
        if replaced.exists():
            _check_replaceable(replaced, members, force)
            shutil.rmtree(replaced)
        os.rename(out, replaced)
    os.rename(partial, out)
    if force and replaced.exists():
        shutil.rmtree(replaced, ignore_errors=True)
    shutil.rmtree(out / PROGRESS_FOLDER, ignore_errors=True)
