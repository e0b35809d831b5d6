"""Caffe's source: the pinned source distribution, fetched, verified and unpacked.

``native/requirements.txt`` pins it by version and sha256 and is the only place that does. pip checks the hash before it
runs anything of the file; the hash is checked once more here, whoever brought the file, before it is unpacked.
"""

from __future__ import annotations

import hashlib
import re
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path, PurePosixPath
from typing import Tuple

from prototxt_gen import native
from prototxt_gen.core.errors import Error

NATIVE_DIR = Path(native.__file__).resolve().parent
REQUIREMENTS = NATIVE_DIR / "requirements.txt"
# What the build reads of the source tree.
WANTED = ("src", "include", "python", "tools", "LICENSE")


def pin() -> Tuple[str, str, str]:
    """Return the name, version and sha256 of the pinned source distribution."""
    pattern = r"^([\w.-]+)==(\S+) --hash=sha256:([0-9a-f]{64})$"
    return re.search(pattern, REQUIREMENTS.read_text(), re.MULTILINE).groups()


def file_name() -> str:
    """Return the name of the source distribution's file."""
    name, version, _ = pin()
    return f"{name}-{version}.tar.gz"


def verify(path: Path) -> None:
    """Raise Error unless the file is the pinned source distribution."""
    try:
        found = hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as error:
        raise Error(f"cannot be read: {error.strerror}", str(path)) from None
    expected = pin()[2]
    if found != expected:
        hint = f"expected sha256 {expected}, found {found}; nothing of it was used"
        raise Error(f"is not the pinned source {file_name()}", str(path), hint)


def fetch(folder: Path) -> Path:
    """Return the verified source distribution in ``folder``, downloading it with pip when it is not there yet."""
    target = folder / file_name()
    if target.is_file():
        try:
            verify(target)
            return target
        except Error:
            target.unlink()
    download = folder / "download"
    shutil.rmtree(download, ignore_errors=True)
    name = pin()[0]
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps",
               "--no-binary", name, "--require-hashes", "-r", str(REQUIREMENTS), "-d", str(download)]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace")
    try:
        if done.returncode != 0:
            said = [line for line in done.stdout.splitlines() if line.strip()]
            reason = next((line for line in reversed(said) if "error" in line.lower()), said[-1] if said else "")
            hint = f"pip said: {reason.strip()}\nor fetch {file_name()} elsewhere and give it with --source FILE"
            raise Error(f"cannot download Caffe's source: {' '.join(command)}", hint=hint)
        verify(download / file_name())
        (download / file_name()).replace(target)
    finally:
        shutil.rmtree(download, ignore_errors=True)
    return target


def unpack(archive: Path, target: Path) -> None:
    """Write the wanted part of the source distribution to ``target``; its one top folder is left out of the names."""
    with tarfile.open(archive) as tar:
        for member in tar:
            parts = PurePosixPath(member.name).parts[1:]
            if not parts or parts[0] not in WANTED or member.isdir():
                continue
            if not member.isfile() or ".." in parts:
                raise Error(f"'{member.name}' is neither a plain file nor a folder", str(archive))
            path = target.joinpath(*parts)
            path.parent.mkdir(parents=True, exist_ok=True)
            with tar.extractfile(member) as source, path.open("wb") as copy:
                shutil.copyfileobj(source, copy)
