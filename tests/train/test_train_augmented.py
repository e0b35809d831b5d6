"""A resumed training on augmented images: same images, same crops, same mirrors as one that was never stopped."""

import re

import pytest

from prototxt_gen.train import launch


@pytest.fixture
def augmented(job):
    """The job with its images mirrored, cropped and coloured at random, in an order of their own."""
    net = (job / "net.prototxt").read_text()
    for name, phase, draws in (("train", "TRAIN", "mirror: true brightness: 0.2 min_area: 0.5"), ("test", "TEST", "")):
        old = re.search(rf'  name: "data" type: "Data" .* phase: {phase} .*\n.*\n', net).group(0)
        net = net.replace(old, f'  name: "data" type: "AugmentedData" top: "data" top: "label" '
                               f'include {{ phase: {phase} }} augmented_data_param {{ source: "set/{name}_lmdb" '
                               f'batch_size: 16 crop_size: 28 scale: 0.0078 seed: 3 {draws} }}\n')
    (job / "net.prototxt").write_text(net)
    solver = (job / "solver.prototxt").read_text()
    (job / "solver.prototxt").write_text(
        solver.replace("display: 5", "display: 1").replace("snapshot: 10", "snapshot: 13") + "iter_size: 2\n")
    return job


def curve(text):
    """Every loss and test of a log, in its order, with the iteration."""
    numbers = re.compile(r"Iteration (\d+)(?: .*)?, (loss = \S+)|Iteration (\d+), (lr = \S+)|(Test net output .*)")
    return [match.groups() for match in map(numbers.search, text.splitlines()) if match]


@pytest.mark.parametrize("engine", ["caffe", "pycaffe"])
def test_the_resumed_losses_are_those_of_a_run_that_went_on(caffe_build, cli, augmented, engine):
    """Iteration 13 stands at image 416 of 200, in the third epoch."""
    def train(*arguments):
        result = cli("train", *arguments, "--engine", engine, cwd=augmented)
        assert result.returncode == 0, result.stderr
        return result

    train("solver.prototxt", "--run", "run")
    log = augmented / "run" / "caffe.log"
    whole = log.read_text()
    (augmented / "run/snapshots/tiny_iter_20.solverstate").unlink()
    told = train("--run", "run", "--resume").stderr
    assert "resuming from run/snapshots/tiny_iter_13.solverstate" in told
    figures = curve(whole)
    first = next(i for i, one in enumerate(figures) if int(one[0] or one[2] or -1) >= 13)
    assert curve(log.read_text()[len(whole):]) == figures[first:]
    # The run's own nets stay as they were given: the next resume counts from them.
    assert (augmented / "run/net.prototxt").read_text() == (augmented / "net.prototxt").read_text()
    assert "resumed" not in (augmented / "run/solver.prototxt").read_text()


def test_each_layer_skips_what_its_net_has_read(caffe_build, cli, augmented, monkeypatch):
    monkeypatch.chdir(augmented)
    assert cli("train", "solver.prototxt", cwd=augmented).returncode == 0
    plan = launch.plan("solver.prototxt", caffe_build, snapshot="snap/tiny_iter_13.solverstate")
    ((path, text),) = plan.nets
    assert path == "snap/tiny.resumed-net.prototxt" and plan.solver_file == "snap/tiny.run-solver.prototxt"
    # 13 iterations of 2 batches; two tests, at 0 and at 10, of 2 batches.
    assert [int(one) for one in re.findall(r"skip: (\d+)", text)] == [13 * 2 * 16, 2 * 2 * 16]
    assert 'net: "snap/tiny.resumed-net.prototxt"' in plan.solver_text
