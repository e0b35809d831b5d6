"""The source distribution is verified before anything of it is used, and unpacked without trusting its names."""

import hashlib
import io
import subprocess
import sys
import tarfile

import pytest

from prototxt_gen.core.errors import Error
from prototxt_gen.train import caffe_source


def archive(path, members):
    """Write a tar.gz of (name, type, bytes)."""
    with tarfile.open(path, "w:gz") as tar:
        for name, kind, data in members:
            info = tarfile.TarInfo(name)
            info.type, info.size, info.linkname = kind, len(data), "/etc/passwd"
            tar.addfile(info, io.BytesIO(data))
    return path


def test_the_pin_names_one_file():
    name, version, sha256 = caffe_source.pin()
    assert caffe_source.file_name() == f"{name}-{version}.tar.gz"
    assert len(sha256) == hashlib.sha256().digest_size * 2


def test_another_file_is_refused(tmp_path):
    path = tmp_path / "caffe.tar.gz"
    path.write_bytes(b"something else")
    with pytest.raises(Error) as caught:
        caffe_source.verify(path)
    assert hashlib.sha256(b"something else").hexdigest() in caught.value.hint
    with pytest.raises(Error, match="cannot be read"):
        caffe_source.verify(tmp_path / "absent.tar.gz")


def test_unpack_takes_what_the_build_reads_and_no_more(tmp_path):
    path = archive(tmp_path / "a.tar.gz", [
        ("caffe-1/src/caffe/net.cpp", tarfile.REGTYPE, b"net"),
        ("caffe-1/src/empty", tarfile.DIRTYPE, b""),
        ("caffe-1/LICENSE", tarfile.REGTYPE, b"licence"),
        ("caffe-1/setup.py", tarfile.REGTYPE, b"raise SystemExit"),
        ("caffe-1/docs/link", tarfile.SYMTYPE, b""),
    ])
    caffe_source.unpack(path, tmp_path / "out")
    found = {str(one.relative_to(tmp_path / "out")) for one in (tmp_path / "out").rglob("*") if one.is_file()}
    assert found == {"src/caffe/net.cpp", "LICENSE"}


@pytest.mark.parametrize("member", [
    ("caffe-1/src/../../../escaped", tarfile.REGTYPE, b"x"),
    ("caffe-1/src/link", tarfile.SYMTYPE, b""),
    ("caffe-1/src/hard", tarfile.LNKTYPE, b""),
    ("caffe-1/src/pipe", tarfile.FIFOTYPE, b""),
])
def test_unpack_refuses_links_and_ways_out(tmp_path, member):
    path = archive(tmp_path / "a.tar.gz", [member])
    with pytest.raises(Error, match="neither a plain file nor a folder"):
        caffe_source.unpack(path, tmp_path / "out")
    assert not (tmp_path / "escaped").exists()


@pytest.fixture
def pip(monkeypatch):
    """Stand in for pip: what it leaves in the folder given with -d, its exit status, its words."""
    told = {"leaves": None, "status": 0, "says": "", "calls": 0}

    def run(command, **_options):
        assert command[:3] == [sys.executable, "-m", "pip"] and "--require-hashes" in command
        told["calls"] += 1
        if told["leaves"] is not None:
            folder = caffe_source.Path(command[command.index("-d") + 1])
            folder.mkdir()
            (folder / caffe_source.file_name()).write_bytes(told["leaves"])
        return subprocess.CompletedProcess(command, told["status"], stdout=told["says"])

    monkeypatch.setattr(caffe_source.subprocess, "run", run)
    monkeypatch.setattr(caffe_source, "pin", lambda: ("caffe", "1", hashlib.sha256(b"right").hexdigest()))
    return told


def test_fetch_downloads_once(pip, tmp_path):
    pip["leaves"] = b"right"
    for _ in range(2):
        assert caffe_source.fetch(tmp_path).read_bytes() == b"right"
    assert pip["calls"] == 1
    (tmp_path / caffe_source.file_name()).write_bytes(b"damaged")
    assert caffe_source.fetch(tmp_path).read_bytes() == b"right"
    assert pip["calls"] == 2


def test_fetch_keeps_nothing_of_a_wrong_or_failed_download(pip, tmp_path):
    pip["leaves"] = b"wrong"
    with pytest.raises(Error, match="is not the pinned source"):
        caffe_source.fetch(tmp_path)
    pip.update(leaves=None, status=1, says="Collecting caffe\nERROR: no such host\nsee above\n")
    with pytest.raises(Error) as caught:
        caffe_source.fetch(tmp_path)
    assert "ERROR: no such host" in caught.value.hint and "--source FILE" in caught.value.hint
    assert not list(tmp_path.iterdir())
