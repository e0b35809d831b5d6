"""Logs on disk: whole lines as they come, encodings, folders, the order of several."""

import gzip
import os
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prototxt_gen.core.errors import Error
from prototxt_gen.train.logs_files import LogReader, find_logs, open_log, read_log
from prototxt_gen.train.logs_history import History

TEXT = "".join(
    f"I0405 10:00:{place:02}.000000 7 solver.cpp:239] Iteration {place}, loss = {place}.5\n" for place in range(50))


def losses(path):
    history = History()
    with open_log(str(path)) as file:
        read_log(history, LogReader(file), str(path))
    return [row.loss for row in history.train]


@pytest.mark.parametrize("encoding, breaks", [
    ("utf-8", "\n"), ("utf-8", "\r\n"), ("utf-8-sig", "\r\n"), ("utf-16", "\r\n"), ("utf-16", "\n")])
def test_encodings_and_line_breaks(tmp_path, encoding, breaks):
    path = tmp_path / "a.log"
    path.write_bytes(TEXT.replace("\n", breaks).encode(encoding))
    assert losses(path) == [place + 0.5 for place in range(50)]


def test_bytes_that_are_no_text_cost_only_their_line(tmp_path):
    path = tmp_path / "a.log"
    lines = TEXT.encode().splitlines(keepends=True)
    path.write_bytes(b"\xff\xfebad\x00"[2:] + b"\n" + b"".join(lines[:5]) + b"\x80\x81\n" + b"".join(lines[5:]))
    assert len(losses(path)) == 50


@pytest.mark.parametrize("cut", [1, 2, 3, 40])
def test_a_last_line_that_is_cut_is_left_out(tmp_path, cut):
    path = tmp_path / "a.log"
    path.write_text(TEXT[:-cut])
    assert losses(path) == [place + 0.5 for place in range(49)]
    with open(path, "rb") as file:
        reader = LogReader(file)
        assert sum(len(lines) for lines in reader.lines()) == 49
        assert reader.rest == TEXT[:-cut].splitlines()[-1]


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(1, 700), max_size=12), st.sampled_from(["utf-8", "utf-16"]))
def test_lines_are_the_same_in_whatever_pieces_they_come(tmp_path_factory, sizes, encoding):
    path = tmp_path_factory.mktemp("grows") / "a.log"
    data, got = TEXT.encode(encoding), []
    path.write_bytes(b"")
    with open(path, "rb") as file, open(path, "ab", buffering=0) as writer:
        reader, place = LogReader(file), 0
        for size in [2, *sizes, len(data)]:  # a byte order mark comes whole
            writer.write(data[place:place + size])
            place += size
            got += [line for lines in reader.lines() for line in lines]
    assert got == TEXT.splitlines() and reader.rest == ""


def test_compressed_logs(tmp_path):
    folder, whole = tmp_path / "run", gzip.compress(TEXT.encode())
    folder.mkdir()
    at(folder, "b.log", "0406")
    (folder / "a.log.1.gz").write_bytes(whole)
    assert [os.path.basename(path) for path in find_logs([str(folder)])] == ["a.log.1.gz", "b.log"]
    assert losses(folder / "a.log.1.gz") == losses(folder / "b.log")
    for damaged in (whole[:-9], whole[:40] + bytes(20) + whole[60:], TEXT.encode()):
        (folder / "a.log.1.gz").write_bytes(damaged)
        for read in (losses, lambda path: find_logs([str(folder)])):
            with pytest.raises(Error, match="a.log.1.gz: is no whole gzip file"):
                read(folder / "a.log.1.gz")


def test_a_file_that_was_begun_anew(tmp_path):
    path = tmp_path / "a.log"
    path.write_text(TEXT)
    with open(path, "rb") as file:
        reader = LogReader(file)
        assert sum(len(lines) for lines in reader.lines()) == 50 and not reader.was_cut()
        path.write_text("")
        assert reader.was_cut()


def at(folder, name, date):
    path = folder / name
    path.write_text(f"a shell says hello\n{TEXT}".replace("I0405", f"I{date}"))
    return str(path)


@pytest.mark.parametrize("dates", [
    ["0405", "0406", "0501"], ["1130", "1231", "0102"], ["1231", "0101"], ["20251231", "20260101", "20261122"]])
def test_several_logs_are_joined_in_the_order_of_their_times(tmp_path, dates):
    paths = [at(tmp_path, f"{place}.log", date) for place, date in enumerate(dates)]
    for _ in range(5):
        assert find_logs(random.sample(paths, len(paths))) == paths


def test_a_year_that_glog_wrote_at_the_top_of_its_file_orders(tmp_path):
    first, second = at(tmp_path, "b.log", "0601"), at(tmp_path, "a.log", "0301")
    for path, year in ((first, 2014), (second, 2015)):
        with open(path) as file:
            text = file.read()
        with open(path, "w") as file:
            file.write(f"Log file created at: {year}/01/01 10:00:00\n{text}")
    assert find_logs([second, first]) == [first, second]


def test_logs_without_times_stay_in_the_order_given(tmp_path):
    path = tmp_path / "bare.log"
    path.write_text("Iteration 0, loss = 1\n")
    timed = at(tmp_path, "timed.log", "0405")
    assert find_logs([timed, str(path)]) == [timed, str(path)]
    assert find_logs([str(path), timed]) == [str(path), timed]
    assert find_logs(["-", timed]) == ["-", timed]


def test_the_logs_of_a_folder(tmp_path):
    later, earlier = at(tmp_path, "a.log", "0407"), at(tmp_path, "b.log.1", "0405")
    glog = at(tmp_path, "caffe.machine.me.log.INFO.20150406-100000.42", "0406")
    at(tmp_path, "caffe.machine.me.log.WARNING.20150406-100000.42", "0406")
    os.symlink(glog, tmp_path / "caffe.INFO.x")
    (tmp_path / "build.log").write_text("make: all done\n")
    (tmp_path / "solver.prototxt").write_text("max_iter: 10\n")
    assert find_logs([str(tmp_path)]) == [earlier, glog, later]


def test_the_logs_of_a_recipe_lie_with_its_snapshots(tmp_path):
    (tmp_path / "snapshots").mkdir()
    (tmp_path / "solver.prototxt").write_text("max_iter: 10\n")
    with pytest.raises(Error, match="no log of Caffe in this folder, nor in its folder snapshots"):
        find_logs([str(tmp_path)])
    inside = at(tmp_path / "snapshots", "net.log", "0405")
    assert find_logs([str(tmp_path)]) == [inside]
    own = at(tmp_path, "caffe.log", "0406")
    assert find_logs([str(tmp_path)]) == [own]


def test_what_is_no_log(tmp_path):
    empty, other = tmp_path / "empty.log", tmp_path / "other.log"
    empty.write_text("")
    other.write_text("epoch 1: loss 0.5\n")
    for path, message in ((empty, "the log is empty"), (other, "holds no line of a log of caffe train")):
        with pytest.raises(Error, match=message):
            losses(path)
    with pytest.raises(Error, match="there is no log of Caffe in this folder"):
        find_logs([str(tmp_path)])
    with pytest.raises(Error, match="there is no such log"):
        find_logs([str(tmp_path / "none.log")])
