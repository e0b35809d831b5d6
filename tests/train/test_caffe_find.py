"""Which Caffe is used, what is told of it, and what ``caffe info`` and ``caffe build`` make of that."""

import json
import subprocess

import pytest

from prototxt_gen.core.errors import Error
from prototxt_gen.train import caffe
from prototxt_gen.train import caffe_build as builder
from prototxt_gen.train.caffe_needs import compiler

# An extension module that takes its process with it when it is loaded, as one built for another Python may.
ABORTS = '#include <cstdlib>\nextern "C" void* PyInit__caffe() { std::abort(); }\n'


@pytest.fixture(autouse=True)
def no_caffe_root(monkeypatch):
    monkeypatch.delenv("CAFFE_ROOT", raising=False)


@pytest.fixture
def empty_cache(monkeypatch, tmp_path):
    monkeypatch.setenv("PROTOTXT_GEN_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def bvlc_tree(caffe_build, tmp_path):
    """The built Caffe laid out as BVLC's source tree is after make."""
    root = tmp_path / "caffe"
    (root / "build/tools").mkdir(parents=True)
    (root / "build/tools/caffe").symlink_to(caffe_build.binary)
    (root / "python").symlink_to(caffe_build.pycaffe)
    (root / "tools").mkdir()
    (root / "tools/caffe.cpp").write_text("not a program")
    return root


def test_the_build_and_what_it_can_do(caffe_build):
    found = caffe.find()
    assert (found.root, found.origin) == (caffe_build.root, "built")
    assert {"BN", "Interp", "Convolution", "Python", "Data", "HDF5Data"} <= set(found.layers)
    assert list(found.layers) == sorted(found.layers)
    assert (found.version, found.dialect, found.cuda, found.nccl) == ("1.0.0", "attention", False, False)
    assert found.missing_modules == ()


def test_a_build_can_be_moved(caffe_build, tmp_path):
    moved = tmp_path / "moved"
    subprocess.run(["cp", "-r", str(caffe_build.root), str(moved)], check=True)
    found = caffe.find(str(moved))
    assert found.layers == caffe_build.layers
    needed = subprocess.run(["ldd", str(found.binary), str(found.pycaffe / "caffe/_caffe.so")], capture_output=True,
                            text=True, check=True).stdout
    libraries = [line.split("=>")[1].split()[0] for line in needed.splitlines() if "libcaffe.so" in line]
    assert len(libraries) == 2
    assert all(str(moved) in path for path in libraries)
    assert "not found" not in needed


def test_every_program_starts(caffe_build):
    names = {path.name for path in (caffe_build.root / "bin").iterdir()}
    assert names == {"caffe", "upgrade_net_proto_text", "upgrade_net_proto_binary", "upgrade_solver_proto_text",
                     "compute_image_mean", "convert_imageset"}
    for name in names:
        # Without arguments each says how it is used.
        done = subprocess.run([str(caffe_build.root / "bin" / name)], capture_output=True, text=True)
        assert "usage" in (done.stdout + done.stderr).lower(), name


def test_order(caffe_build, bvlc_tree, empty_cache, monkeypatch, tmp_path):
    monkeypatch.setenv("CAFFE_ROOT", str(bvlc_tree))
    assert caffe.find().origin == "CAFFE_ROOT"
    assert caffe.find(str(caffe_build.root)).origin == "--caffe"


def test_the_layout_of_bvlc(bvlc_tree):
    found = caffe.find(str(bvlc_tree))
    assert found.binary == bvlc_tree / "build/tools/caffe" and found.pycaffe == bvlc_tree / "python"
    assert "BN" in found.layers
    assert caffe.find(str(bvlc_tree / "build")).pycaffe == bvlc_tree / "python"


def test_none(empty_cache):
    with pytest.raises(caffe.NoCaffe) as caught:
        caffe.find()
    assert str(empty_cache) in caught.value.what and "caffe build" in caught.value.hint


def test_a_stale_build_is_named_and_not_taken(empty_cache):
    old = empty_cache / "caffe" / "0123"
    old.mkdir(parents=True)
    (old / "build.json").write_text(json.dumps({**builder.ingredients(), "native": "older"}))
    with pytest.raises(caffe.NoCaffe) as caught:
        caffe.find()
    assert f"{old} is stale: native changed since it was made" in caught.value.what


@pytest.mark.parametrize("record", ["", "[]", "{", "null"])
def test_a_damaged_record_is_stale(empty_cache, record):
    old = empty_cache / "caffe" / "0123"
    old.mkdir(parents=True)
    (old / "build.json").write_text(record)
    with pytest.raises(caffe.NoCaffe) as caught:
        caffe.find()
    assert f"{old} is stale: build.json changed" in caught.value.what


def test_a_build_without_its_program_is_none(empty_cache):
    root = empty_cache / "caffe" / builder.key_of(builder.ingredients())
    root.mkdir(parents=True)
    (root / "build.json").write_text(json.dumps(builder.ingredients()))
    with pytest.raises(caffe.NoCaffe):
        caffe.find()


@pytest.mark.parametrize("make, reason", [
    ([], "without a caffe program"),
    (["bin/caffe"], "without pycaffe"),
])
def test_folders_that_hold_no_caffe(tmp_path, make, reason):
    for name in make:
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).touch(0o755)
    with pytest.raises(Error, match=reason) as caught:
        caffe.find(str(tmp_path))
    assert caught.value.where == str(tmp_path) and caught.value.exit_code == 2


def test_a_folder_that_is_not_there(tmp_path, monkeypatch):
    monkeypatch.setenv("CAFFE_ROOT", str(tmp_path / "gone"))
    with pytest.raises(Error, match="CAFFE_ROOT names no folder"):
        caffe.find()


def fake(folder, library):
    (folder / "bin").mkdir()
    (folder / "bin/caffe").touch(0o755)
    (folder / "python/caffe").mkdir(parents=True)
    library(folder / "python/caffe/_caffe.so")


def test_a_pycaffe_that_does_not_load(tmp_path):
    fake(tmp_path, lambda path: path.write_bytes(b"not a library"))
    with pytest.raises(Error, match="status 1") as caught:
        caffe.find(str(tmp_path))
    assert "ImportError" in caught.value.hint


def test_a_pycaffe_that_aborts(tmp_path):
    source = tmp_path / "aborts.cpp"
    source.write_text(ABORTS)
    fake(tmp_path, lambda path: subprocess.run([*compiler(), "-shared", "-fPIC", str(source), "-o", str(path)],
                                               check=True))
    with pytest.raises(Error, match="signal 6"):
        caffe.find(str(tmp_path))


@pytest.mark.parametrize("fields, dialect", [
    ({"interp_param": 147, "bn_param": 148}, "attention"),
    ({"swish_param": 147, "clip_param": 148}, "bvlc"),
    ({"relu_param": 123}, "bvlc"),
    ({"bn_param": 200}, "happynear"),
    ({"interp_param": 143, "bn_param": 152}, "pspnet"),
    ({"bn_param": 999}, None),
    (None, None),
])
def test_dialects_are_known_by_their_numbers(fields, dialect):
    assert caffe._dialect_of(fields) == dialect


# ---- The command line ----------------------------------------------------------------------------------------------


def test_info_as_json(cli, caffe_build):
    done = cli("caffe", "info", "--json", "--caffe", caffe_build.root)
    told = json.loads(done.stdout)
    assert done.returncode == 0 and list(told) == sorted(told)
    assert told["found"] is True and told["cuda"] is False
    assert told["root"] == str(caffe_build.root) and told["layers"] == list(caffe_build.layers)
    assert told["binary"] == str(caffe_build.binary) and told["pycaffe"] == str(caffe_build.pycaffe)


def test_info_for_people(cli, caffe_build):
    done = cli("caffe", "info", "--caffe", caffe_build.root)
    assert done.returncode == 0 and done.stderr == ""
    assert "with AugmentedData, BN, Interp" in done.stdout and str(caffe_build.pycaffe) in done.stdout


def test_info_when_there_is_none(cli, tmp_path):
    nowhere = {"PROTOTXT_GEN_CACHE": str(tmp_path), "CAFFE_ROOT": ""}
    done = cli("caffe", "info", environment=nowhere)
    assert done.returncode == 1 and "no Caffe is found" in done.stdout and str(tmp_path) in done.stdout
    done = cli("caffe", "info", "--json", environment=nowhere)
    told = json.loads(done.stdout)
    assert done.returncode == 1 and told["found"] is False and "no Caffe is found" in told["reason"]


def test_info_of_a_wrong_folder_is_no_answer(cli, tmp_path):
    done = cli("caffe", "info", "--caffe", tmp_path)
    assert done.returncode == 2 and done.stdout == "" and "without a caffe program" in done.stderr


def test_build_prints_the_folder_of_a_current_build(cli, caffe_build):
    done = cli("caffe", "build")
    assert (done.returncode, done.stdout, done.stderr) == (0, f"{caffe_build.root}\n", "")


def test_build_refuses_another_source(cli, tmp_path):
    other = tmp_path / "caffe.tar.gz"
    other.write_bytes(b"other")
    done = cli("caffe", "build", "--source", other, environment={"PROTOTXT_GEN_CACHE": str(tmp_path / "cache")})
    assert done.returncode == 2 and "is not the pinned source" in done.stderr
    assert not (tmp_path / "cache").exists()
