"""Files made to hurt: each is an Error of ours, in bounded memory and time."""

import subprocess
import sys
import textwrap

import numpy as np
import pytest

from prototxt_gen.core import wire
from prototxt_gen.core.caffemodel import parse_weights, read_weights
from prototxt_gen.core.dialects import DEFAULT_DIALECT
from prototxt_gen.core.errors import Error
from prototxt_gen.core.io import loads
from prototxt_gen.core.solverstate import read_solverstate

NetParameter = DEFAULT_DIALECT.message("NetParameter")
TIMES = 250_000


def framed(number, *parts):
    data = b"".join(parts)
    return wire.encode_head(number, len(data)) + data


def number(field, value):
    return wire.encode_tag(field, wire.VARINT) + wire.encode_varint(value)


NAME = framed(1, b"x")
ONE = framed(5, bytes(4))  # a float
NESTED = b""
for _ in range(20_000):
    NESTED = framed(3, NESTED)
SIZES = {
    "a top field": wire.encode_head(100, 2**40) + b"x",
    "a top field behind a layer": framed(100, NAME) + wire.encode_head(100, 2**40) + b"x",
    "a blob": framed(100, NAME, wire.encode_head(7, 2**40) + b"x"),
    "values": framed(100, NAME, framed(7, wire.encode_head(5, 2**40) + b"x")),
    "the largest number": framed(100, NAME) + wire.encode_head(2, 2**64 - 1),
    "a number without end": framed(100, NAME) + b"\xff" * 1000,
    "dims of 2**60": framed(100, NAME, framed(7, ONE, framed(7, framed(1, wire.encode_varint(2**60) * 4)))),
    "dims that overflow to 1": framed(100, NAME, framed(7, ONE, framed(7, framed(
        1, *(wire.encode_varint(2**31 - 1) for _ in range(32)))))),
    "a negative dim": framed(100, NAME, framed(7, ONE, framed(7, number(1, -1)))),
    "old sizes of 2**31 - 1": framed(2, framed(4, b"x"), framed(6, ONE, *(number(n, 2**31 - 1) for n in (1, 2, 3, 4)))),
    "a group": framed(100, NAME, wire.encode_tag(900, 3) * 10_000),
    "the field 0": framed(100, NAME) + b"\x00\x00",
    "values as a string of three bytes": framed(100, NAME, framed(7, framed(5, b"abc"))),
    "values as varints": framed(100, NAME, framed(7, number(5, 1))),
    "a shape as a number": framed(100, NAME, framed(7, number(7, 1))),
    "a shape of strings": framed(100, NAME, framed(7, ONE, framed(7, framed(2, b"x")))),
    "sizes as strings": framed(100, NAME, framed(7, ONE, framed(1, b"x"))),
    "a deep field of a layer": framed(100, NAME, framed(106, NESTED), b"\x00"),
    "a V0 layer cut short": framed(2, framed(1, wire.encode_head(50, 9))),
}
MANY = {
    "empty layers": framed(100) * TIMES,
    "empty V1 layers": framed(2) * TIMES,
    "empty V0 layers": framed(2, framed(1)) * TIMES,
    "empty strings": framed(100, NAME) + framed(3) * TIMES,
    "input_dim": framed(100, NAME) + number(4, 1) * TIMES,
    "param": framed(100, NAME, framed(6) * TIMES),
    "shapes, in one message": framed(100, NAME, framed(109, framed(6) * (4 * TIMES))),
    "unknown fields": framed(100, NAME, number(999, 1) * TIMES),
    "empty blobs": framed(100, NAME, framed(7) * TIMES),
    "blobs of one value": framed(100, NAME, framed(7, ONE) * TIMES),
    "pieces of one value": framed(100, NAME, framed(7, ONE * TIMES)),
    "values and differences in turn": framed(100, NAME, framed(7, (b"\x2d" + bytes(4) + b"\x35" + bytes(4)) * TIMES)),
    "empty shapes": framed(100, NAME, framed(7, framed(7) * TIMES)),
    "empty lists of sizes": framed(100, NAME, framed(7, framed(7, framed(1) * TIMES))),
    "old sizes": framed(100, NAME, framed(7, number(1, 1) * TIMES)),
}


@pytest.mark.parametrize("name", SIZES)
def test_sizes_and_kinds_that_lie(name):
    with pytest.raises(Error) as caught:
        parse_weights(SIZES[name], where="f")
    assert str(caught.value).startswith("f: ")


READ_ALL = """
    import resource, sys, time
    from pathlib import Path
    from prototxt_gen.cli.arguments import load_net
    from prototxt_gen.core.errors import Error
    import numpy
    size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    limit = size + int(sys.argv[1]) * 2**20
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    for path in sorted(Path(sys.argv[2]).iterdir()):
        start = time.process_time()
        try:
            load_net(str(path))
            print(path.name, "was read")
        except Error as error:
            assert error.what and error.where == str(path), error
        if time.process_time() - start > 10:
            print(path.name, "took", time.process_time() - start)
    """


def read_in_little_memory(folder, mebibytes):
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(READ_ALL), str(mebibytes), str(folder)],
                          capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout.splitlines()


def test_very_many_tiny_things(tmp_path):
    for name, data in MANY.items():
        (tmp_path / name).write_bytes(data)
    # Valid, if odd.
    assert read_in_little_memory(tmp_path, 300) == ["shapes, in one message was read"]


def test_sizes_cost_no_memory(tmp_path):
    for name, data in SIZES.items():
        (tmp_path / name).write_bytes(data)
    with open(tmp_path / "zeros", "wb") as file:
        file.truncate(2**28)
    with open(tmp_path / "more than 2 GiB", "wb") as file:
        file.write(framed(100, NAME))
        file.truncate(2**31)
    # Both are mapped whole, which is no memory.
    assert read_in_little_memory(tmp_path, 2**11 + 100) == []


def test_cut_short_anywhere():
    text = """name: "n" layer { name: "a" type: "Convolution" blobs { shape { dim: [2, 2] } data: [1, 2, 3, 4] }
              blobs { shape { dim: 1 } double_data: 1 } }"""
    data = loads(text, NetParameter).SerializeToString()
    for end in range(3, len(data)):
        with pytest.raises(Error):
            parse_weights(data[:end])
    assert len(parse_weights(data).blobs["a"]) == 2


@pytest.mark.parametrize("content, what", [
    (b"", "is no caffemodel"),
    (b"layer { }", "is no caffemodel"),
    (b"\x89PNG\r\n\x1a\n" + bytes(100), "is no caffemodel"),
    (b"\x89HDF\r\n\x1a\n" + bytes(100), "is damaged or truncated"),
])
def test_files_of_another_kind(tmp_path, content, what):
    path = tmp_path / "w"
    path.write_bytes(content)
    with pytest.raises(Error, match=f"w: {what}"):
        read_weights(str(path))
    with pytest.raises(Error):
        read_solverstate(str(path))
    for wrong, complaint in ((tmp_path, "Is a directory"), (tmp_path / "none", "No such file")):
        with pytest.raises(Error, match=complaint):
            read_weights(str(wrong))


def test_hdf5_that_lies(tmp_path):
    import h5py

    def made(fill):
        path = tmp_path / "w.h5"
        with h5py.File(path, "w") as file:
            fill(file)
        with pytest.raises(Error) as caught:
            read_weights(str(path))
        return str(caught.value)

    assert "no group 'data'" in made(lambda file: file.create_group("other"))
    assert "no group 'data'" in made(lambda file: file.create_dataset("data", data=1))
    huge = dict(shape=(2**30, 2**10), dtype="f4", chunks=(1, 2**10))
    assert "does not hold what its shape says" in made(lambda file: file.create_dataset("data/x/0", **huge))
    assert "is of type int64" in made(lambda file: file.create_dataset("data/x/0", data=np.arange(3)))
    gap = made(lambda file: file.create_dataset("data/x/1", data=np.ones(3)))
    assert "blob 0 of layer 'x' is not in the file" in gap

    path = tmp_path / "loop.h5"
    with h5py.File(path, "w") as file:
        file.create_dataset("data/a/b/0", data=np.ones(3, ">f4"))
        file["data/a/again"] = file["data"]
        file["data/elsewhere"] = h5py.ExternalLink("/etc/passwd", "/")
        file["data/soft"] = h5py.SoftLink("/data/a")
    model = read_weights(str(path))
    assert {name: [one.tolist() for one in some] for name, some in model.blobs.items()} == {"a/b": [[1, 1, 1]]}
    assert model.blobs["a/b"][0].dtype == np.float32


def test_solver_states_that_lie(tmp_path):
    path = tmp_path / "s.solverstate"
    for data in (SIZES["a blob"], framed(3, ONE + number(1, 2)), framed(3) * TIMES, framed(2, b"\xff") + number(1, 1)):
        path.write_bytes(data)
        with pytest.raises(Error, match="s.solverstate: "):
            read_solverstate(str(path))
