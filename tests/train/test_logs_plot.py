"""Pictures and texts of a training: what is drawn, the same each time; numbers as people write them."""

import io
import re
import xml.etree.ElementTree as xml
from pathlib import Path

import numpy
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from prototxt_gen.train import logs_view as view
from prototxt_gen.train.logs_history import History
from prototxt_gen.train.plot import BLUE, VERMILION, render

LOGS = Path(__file__).parent / "logs"


def history(*texts):
    log = History()
    for text in texts:
        for line in text.splitlines():
            log.feed(line)
    return log


def sample(name):
    return history((LOGS / name).read_text())


def displayed(start, losses, thread=7):
    return "".join(f"I0405 10:00:00.000000 {thread} solver.cpp:239] Iteration {start + 10 * place}, loss = {loss}\n"
                   for place, loss in enumerate(losses))


def has_colour(picture, colour):
    pixels = numpy.asarray(Image.open(io.BytesIO(picture)).convert("RGB")).reshape(-1, 3)
    return bool((pixels == tuple(bytes.fromhex(colour[1:]))).all(axis=1).any())


@pytest.mark.parametrize("name", ["form_2013.log", "several_ranks.log"])
def test_the_course_of_every_sample_is_drawn(name):
    picture = render(sample(name), "png")
    assert has_colour(picture, BLUE)
    assert Image.open(io.BytesIO(picture)).size == (1430, 858)


def test_what_is_no_number_is_marked():
    assert has_colour(render(sample("numbers_of_msvc.log"), "png"), VERMILION)
    assert not has_colour(render(history(displayed(0, [2, 1])), "png"), VERMILION)


@pytest.mark.parametrize("form, magic", [("png", b"\x89PNG"), ("svg", b"<?xml"), ("pdf", b"%PDF")])
def test_pictures_are_the_same_each_time(form, magic):
    first, second = (render(history(displayed(0, [2, 1])), form) for _ in range(2))
    assert first == second and first.startswith(magic)


def panels(log):
    picture = render(log, "svg").decode()
    xml.fromstring(picture)
    return {name for name in re.findall(r"<!-- (.*?) -->", picture)}


def test_panels_are_there_for_what_the_log_has():
    bare = panels(history(displayed(0, [2, 1])))
    assert {"Loss", "loss", "iteration"} <= bare and not {"Test scores", "Learning rate", "resumed"} & bare
    head = "I0405 10:00:00.000000 7 solver.cpp:239] "
    tested = panels(history(f"{head}Iteration 10, Testing net (#0)\n{head}    Test net output #0: accuracy = 0.5\n"))
    assert "Test scores" in tested and not {"Loss", "Learning rate"} & tested
    full = panels(sample("form_2014.log"))
    assert {"Loss", "Test scores", "Learning rate", "images/s"} <= full
    assert "two heads" in full and "#1 loss" not in full and "test #1 loss" in full


def test_a_resume_is_marked():
    log = history(displayed(0, [5, 4, 3, 2]), displayed(10, [3, 2, 1], thread=8))
    assert {"resumed", "train, run again later"} <= panels(log)


def test_what_ran_again_does_not_cover_what_counts():
    head = "I0405 10:00:00.000000 {} solver.cpp:239] "
    tested = head + "Iteration {}, Testing net (#0)\n" + head + "    Test net output #0: accuracy = 0.5\n"

    def vermilion(log):
        picture = Image.open(io.BytesIO(render(log, "png"))).convert("RGB")
        return (numpy.asarray(picture) == tuple(bytes.fromhex(VERMILION[1:]))).all(axis=2).sum()

    whole = displayed(0, [5, 4, 3, 2]) + tested.format(7, 30, 7)
    resumed = history(whole, displayed(10, [4, 3, 2], thread=8) + tested.format(8, 30, 8))
    # Only edges mix with what lies below; the marker in the legend alone is about half of all.
    assert len(resumed.replaced) == 4 and vermilion(resumed) > 0.85 * vermilion(history(whole)) > 0


def test_a_loss_of_many_magnitudes_has_a_logarithmic_scale():
    assert "0.01" in panels(history(displayed(0, [50, 5, 0.5, 0.05, 0.01])))
    assert "0.01" not in panels(history(displayed(0, [2, 1.5, 1.2])))


def test_a_name_that_looks_like_a_formula_is_drawn_as_it_stands():
    log = history(displayed(0, [2, 1]))
    log.net_name = r"$\\frac{$ a_1"
    assert has_colour(render(log, "png"), BLUE)


@pytest.mark.parametrize("seconds, text", [
    (None, "-"), (0, "0:00"), (59.6, "1:00"), (3599.4, "59:59"), (3723, "1:02:03"), (349323, "4 d 01:02:03")])
def test_durations(seconds, text):
    assert view.duration(seconds) == text


def test_the_course_in_block_characters():
    assert view.sparkline([8, 4, 2, 1], 10) == "█▆▃▁"
    assert view.sparkline([1, float("nan"), 1], 10) == "▁!▁"
    assert view.sparkline([], 10) == "" and view.sparkline([-3, 4], 10) == "▁█"


@given(st.integers(1, 300), st.integers(1, 40), st.sets(st.integers(0, 299)))
def test_thinned_lines_are_in_order_and_have_both_ends(count, wanted, tested):
    lines = [view.Entry(place, None, None, None, {0: object()} if place in tested else {}) for place in range(count)]
    kept = [line.iteration for line in view.thinned(lines, wanted)]
    assert kept == sorted(set(kept)) and len(kept) == min(count, wanted)
    if wanted > 1:
        assert kept[0] == 0 and (kept[-1] == count - 1 or kept[-1] in tested)


@given(st.integers(20, 200), st.integers(1, 30), st.integers(1, 3))
def test_a_table_keeps_to_its_width_and_loses_no_name(width, count, nets):
    width = max(width, 55)
    head = "I0405 10:00:00.000000 7 solver.cpp:239] "
    text = displayed(0, [1.5])
    names = [f"part/of/name_{place}" for place in range(count)]
    for net in range(nets):
        text += head + f"Iteration 10, Testing net (#{net})\n"
        text += "".join(head + f"    Test net output #0: {name} = 0.5\n" for name in names)
    log = history(text)
    lines = view.table(log, view.entries(log), width)
    rows = [line for line in lines if not line.startswith("not shown: ")]
    assert max(map(len, rows)) <= width
    hidden = next((line for line in lines if line.startswith("not shown: ")), "")
    left_out = hidden.count("name_")
    found = re.search(r" and (\d+) more", hidden)
    assert lines[2].count("0.5") + left_out + int(found[1] if found else 0) == count * nets
