"""Logs of all of Caffe's versions, resumed runs, several solvers: what counts, and when it was."""

import math
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prototxt_gen.train import logs_figures as figures
from prototxt_gen.train.logs_history import History, TestRow
from prototxt_gen.train.logs_lines import number, seconds_between, split_line

LOGS = Path(__file__).parent / "logs"


def read(*texts):
    history = History()
    for text in texts:
        history.start_file()
        for line in text.splitlines():
            history.feed(line)
    return history


def sample(name):
    return read((LOGS / name).read_text())


def displayed(iterations, losses=None, thread=7, minute=0):
    """Lines of Caffe 1.0: a second between displays, the loss 1 / (iteration + 1) unless it is given."""
    lines = []
    for place, iteration in enumerate(iterations):
        loss = losses[place] if losses else 1 / (iteration + 1)
        head = f"I0405 10:{minute + place // 60:02}:{place % 60:02}.000000 {thread} solver.cpp:239]"
        lines += [f"{head} Iteration {iteration} (1 iter/s, 1s/10 iters), loss = {loss}",
                  f"{head}     Train net output #0: loss = {loss} (* 1 = {loss} loss)",
                  f"{head} Iteration {iteration}, lr = 0.1"]
    return "\n".join(lines) + "\n"


def resume(iteration, minute=0, thread=8):
    head = f"I0405 10:{minute:02}:00.000000 {thread}"
    return (f"{head} solver.cpp:45] Initializing solver from parameters: \nmax_iter: 100\n"
            f"{head} caffe.cpp:235] Resuming from snap/a_iter_{iteration}.solverstate\n"
            f"{head} solver.cpp:289] Solving net\n")


def test_the_form_of_2013_over_new_year():
    log = sample("form_2013.log")
    assert [(row.iteration, row.loss, row.lr) for row in log.train] == [
        (100, 1.75, 0.001), (200, 1.5, 0.0005), (300, 1.25, 0.0005)]
    assert [test.outputs for test in log.tests] == [
        {"score #0": 0.1005, "score #1": 2.3026}, {"score #0": 0.4521, "score #1": 1.4802}]
    assert [round(row.seconds, 3) for row in log.train] == [60.1, 120.1, 200.1]
    # A minute for 100 iterations, and of the last 80 seconds 20 are a test.
    assert figures.speeds(log.train) == [None, pytest.approx(100 / 60), pytest.approx(100 / 60)]
    assert log.done and log.net_name == "CIFAR10_quick_train" and figures.remaining_seconds(log) == 0


def test_the_form_of_2014_with_two_test_nets_and_several_outputs():
    log = sample("form_2014.log")
    assert log.settings == {"test_interval": 40, "max_iter": 100, "iter_size": 2}
    assert (log.batch_size, log.gpus, figures.images_per_iteration(log)) == (16, 1, 32)
    assert log.train[0].outputs == {"loss1": 2, "loss2": 2, "probs": 0.1, "probs[1]": 0.2, "probs[2]": 0.7}
    assert log.loss_outputs == {"loss", "loss1", "loss2"}
    assert [(test.iteration, test.net, test.outputs, test.duration) for test in log.tests] == [
        (0, 0, {"accuracy": 0.5}, 1), (0, 1, {"accuracy": 0.25, "loss": 0.75}, 2),
        (40, 0, {"accuracy": 0.75}, 2), (40, 1, {"accuracy": 0.5, "loss": 0.5}, 4)]
    assert figures.best_tests(log) == [(0, "accuracy", 0.75, 40), (1, "accuracy", 0.5, 40), (1, "loss", 0.5, 40)]
    # 20 iterations in 10 s, tests of 3 and 6 s taken out; 60 iterations and one round of tests are left.
    assert figures.speeds(log.train) == [None, 2, 2]
    assert figures.remaining_seconds(log) == pytest.approx(60 / 2 + (3 + 6) / 2)


def test_one_of_several_solvers_counts_and_other_programs_do_not():
    log = sample("several_ranks.log")
    assert [(row.iteration, row.loss, row.lr) for row in log.train] == [(0, 2.3, 0.1), (10, 2.2, 0.1), (20, 2.1, None)]
    assert [row.outputs for row in log.train] == [{}, {"loss": 2.2}, {}]
    assert log.other_solvers == 1 and len(log.sessions) == 1
    assert figures.images_per_iteration(log) == 64
    assert [note.kind for note in figures.notes(log)] == ["several solvers"]


def test_a_log_whose_heads_are_cut_off():
    log = read("Iteration 0 (0 iter/s, 0s/10 iters), loss = 2\n"
               "    Train net output #0: loss = 2 (* 1 = 2 loss)\nIteration 0, lr = 0.1\n"
               "Iteration 10 (4 iter/s, 2.5s/10 iters), loss = 1\n")
    assert [(row.loss, row.lr, row.outputs, row.seconds) for row in log.train] == [
        (2, 0.1, {"loss": 2}, None), (1, None, {}, None)]
    assert figures.speeds(log.train) == [None, 4] and figures.elapsed_seconds(log) is None


def test_the_later_of_two_runs_counts():
    log = read(displayed(range(0, 70, 10)) + resume(40, minute=30) + displayed(range(40, 110, 10), [5] * 7, 8, 30))
    assert [row.iteration for row in log.train] == list(range(0, 110, 10))
    assert [row.loss for row in log.train[4:]] == [5] * 7
    assert [row.iteration for row in log.replaced] == [40, 50, 60]
    assert [(one.first, one.last, one.replaced) for one in log.sessions] == [(0, 60, None), (40, 100, (40, 60))]
    assert [row.iteration for row in log.train if figures.ran_again(log, row)] == [40, 50, 60]
    assert log.train[4].seconds == 6  # the half hour between the runs is no time of training
    assert [note.text for note in figures.notes(log)] == [
        "resumed at iteration 40; iterations 40 to 60 ran again, and the later run counts"]


def test_a_resume_from_between_displayed_iterations_replaces_from_there():
    log = read(displayed(range(0, 70, 10)) + resume(35) + displayed([40, 50], thread=8))
    assert [row.iteration for row in log.train] == [0, 10, 20, 30, 40, 50]
    assert log.sessions[1].first == 35 and [row.iteration for row in log.replaced] == [40, 50, 60]


def test_a_run_that_never_displayed_replaces_nothing():
    failure = "F0405 11:00:00.000000 8 io.cpp:1] Check failed: x\n    more of it\n"
    log = read(displayed([0, 10, 20]) + resume(10) + failure)
    assert [row.iteration for row in log.train] == [0, 10, 20] and not log.replaced
    assert log.fatal == ["Check failed: x", "    more of it"]


def test_a_resume_is_seen_without_its_set_up_lines():
    for thread in (7, 8):
        log = read(displayed([0, 10, 20, 30, 40]), displayed([20, 30], [7, 8], thread, minute=5))
        assert [row.loss for row in log.train[2:]] == [7, 8] and len(log.sessions) == 2


def test_a_process_that_follows_another_without_repeating_it_goes_on():
    log = read(displayed([0, 10]) + displayed([20, 30], thread=8))
    assert [row.iteration for row in log.train] == [0, 10, 20, 30] and not log.replaced


def test_an_interrupted_test_gives_no_row():
    head = "I0405 11:00:00.000000 7 solver.cpp:347] "
    log = read(displayed([0]) + head + "Iteration 10, Testing net (#0)\n" + head + "Test interrupted.\n"
               + head + "Optimization stopped early.\n")
    assert not log.tests and log.stopped_early and log.iteration == 10


@pytest.mark.parametrize("said", [("Optimization stopped early.", "Optimization Done."), ("Optimization Done.",)])
def test_caffe_says_done_of_what_was_stopped_too(said):
    log = read(displayed([0, 10]) + "".join(f"I0405 11:00:00.000000 7 caffe.cpp:250] {line}\n" for line in said))
    assert (log.done, log.stopped_early) == (len(said) == 1, len(said) == 2)


SOLVER = "I0405 10:00:00.000000 7 solver.cpp:45] Initializing solver from parameters: \nmax_iter: 20\n"
CLOSING = "I0405 10:05:00.000000 7 solver.cpp:327] Iteration 20, loss = 0.5\n"
TEST = ("I0405 10:05:01.000000 7 solver.cpp:347] Iteration 20, Testing net (#0)\n"
        "I0405 10:05:02.000000 7 solver.cpp:414]     Test net output #0: accuracy = 0.5\n")


@pytest.mark.parametrize("head", [SOLVER, ""])
def test_a_closing_forward_pass_has_no_speed_and_is_not_run_again(head):
    """Its time holds a snapshot, and no backward pass; a resumed training runs its iteration for the first time."""
    log = read(head + displayed([0, 10]) + CLOSING + TEST)
    assert [row.closing for row in log.train] == [False, False, True]
    assert figures.speeds(log.train) == [None, 10, None] and figures.speed_now(log) == 10
    log = read(head + displayed([0, 10]) + CLOSING + TEST, resume(20, minute=6) + displayed([20, 30], thread=8, minute=6))
    assert [row.iteration for row in log.train] == [0, 10, 20, 30] and not log.replaced
    assert [session.replaced for session in log.sessions] == [None, None]
    assert [test.iteration for test in log.tests] == [20] and not figures.ran_again(log, log.tests[0])


def test_a_total_test_loss_belongs_to_its_test():
    head = "I0405 11:00:00.000000 7 solver.cpp:347] "
    log = read(head + "Iteration 10, Testing net (#0)\n" + head + "Test loss: 0.25\n"
               + head + "    Test net output #0: accuracy = 1\n")
    assert log.tests == [TestRow(10, 0, 0, 0.0, 0.0, 0.25, {"accuracy": 1})]


def test_numbers_that_are_none():
    log = sample("numbers_of_msvc.log")
    assert [str(row.loss) for row in log.train] == ["87.3365", "nan", "inf", "nan", "nan"]
    kinds = {note.kind: note.iteration for note in figures.notes(log)}
    assert kinds == {"not finite": 5, "diverged": 0}
    assert [number(text) for text in ("-1.#INF", "-inf", "1e-05")] == [-math.inf, -math.inf, 1e-5]


def test_a_perfect_score_of_nan_is_not_the_best():
    head = "I0405 11:00:00.000000 7 solver.cpp:347] "
    log = read("".join(
        head + f"Iteration {iteration}, Testing net (#0)\n" + head + f"    Test net output #0: accuracy = {accuracy}\n"
        + head + f"    Test net output #1: loss = {loss} (* 1 = {loss} loss)\n"
        for iteration, accuracy, loss in ((0, 0.25, 1.5), (10, 1, "-nan"))))
    assert figures.best_tests(log) == [(0, "accuracy", 0.25, 0), (0, "loss", 1.5, 0)]


@pytest.mark.parametrize("after, flat", [(0.992, True), (0.988, False), (1.5, True)])
def test_a_plateau_is_less_than_one_percent_over_a_fifth(after, flat):
    log = read(displayed(range(0, 1000, 10), [2] * 60 + [1] * 20 + [after] * 20))
    assert bool(figures.plateau(log)) == flat
    if flat:
        assert figures.plateau(log) == (800, 990, 1, after)


def test_no_plateau_is_seen_in_fewer_than_twenty_losses():
    assert figures.plateau(read(displayed(range(19), [1] * 19))) is None
    assert figures.plateau(read(displayed(range(20), [1] * 20))) is not None


@given(st.lists(st.one_of(st.floats(-1e6, 1e6), st.just(math.nan)), max_size=40), st.integers(1, 12))
def test_smoothing_is_the_mean_of_the_finite_values_in_the_window(values, window):
    for place, mean in enumerate(figures.smoothed(values, window)):
        finite = [one for one in values[max(0, place - window + 1):place + 1] if math.isfinite(one)]
        if math.isfinite(values[place]):
            assert mean == pytest.approx(sum(finite) / len(finite), abs=1e-6)
        else:
            assert math.isnan(mean)


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(1, 6)), min_size=1, max_size=6))
def test_whatever_runs_follow_one_another_iterations_rise_and_the_last_run_counts(runs):
    text, expected = "", {}
    for place, (start, count) in enumerate(runs):
        start = min(start, max(expected, default=0) + 1)
        iterations = list(range(start, start + count))
        text += resume(start, thread=place) + displayed(iterations, [place] * count, thread=place)
        expected = {key: value for key, value in expected.items() if key < start}
        expected.update(dict.fromkeys(iterations, place))
    log = read(text)
    assert {row.iteration: row.loss for row in log.train} == expected
    assert [row.iteration for row in log.train] == sorted(expected)
    assert len(log.train) + len(log.replaced) == sum(count for _, count in runs)


def test_time_between_stamps():
    assert seconds_between(("0228", 86399), ("0301", 1)) == 2
    assert seconds_between(("20280228", 86399), ("20280301", 1)) == 86402
    assert seconds_between(("0229", 86399), ("0301", 1)) == 2
    assert seconds_between(("1231", 86399), ("0101", 1)) == 2
    assert seconds_between(("20261231", 0), ("20280101", 0)) == 366 * 86400
    assert seconds_between(("0405", 10), ("0405", 7)) == -3


def test_the_head_of_newer_glog_has_the_year():
    log = read("I20261122 10:00:00.123456 21 solver.cpp:218] Iteration 200 (1 iter/s, 100s/100 iters), loss = 0.5\n")
    assert [(row.iteration, row.loss) for row in log.train] == [(200, 0.5)]


def test_a_head_without_its_time():
    assert split_line("I1203 solver.cpp:66] Iteration 100, loss = 0.26") == (
        ("I", None, None), "Iteration 100, loss = 0.26")


def test_the_iteration_reached_is_the_one_saved_or_asked_for():
    """A display every tenth iteration tells of the last one only where it is a multiple of ten."""
    head = "I0405 10:59:00.000000 7 solver.cpp:464] "
    text = f"{head}Initializing solver from parameters: \nmax_iter: 25\n\n" + displayed([0, 10, 20])
    assert read(text).reached == 20
    saved = f"{head}Snapshotting to binary proto file a_iter_23.caffemodel\n"
    assert read(text + saved).reached == 23 == figures.document(read(text + saved), 3)["iteration"]
    log = read(f"{text}{head}Optimization Done.\n")
    assert log.done and log.reached == 25 and log.iteration == 20
    log = read(f"{text}{saved}{head}Optimization stopped early.\n{head}Optimization Done.\n")
    assert not log.done and log.reached == 23
    # Another process that resumes from before has come as far as it says itself.
    log = read(text + saved + f"{head}Resuming from a_iter_5.solverstate\n" + displayed([10], minute=1))
    assert log.reached == 10
