"""``prototxt-gen solver``: the recipes, batch arithmetic, and fields set by hand."""

import pytest

from prototxt_gen.core.dialects import DEFAULT_DIALECT
from prototxt_gen.core.io import loads


def solver_of(result):
    assert result.returncode == 0, result.stderr
    return loads(result.stdout, DEFAULT_DIALECT.message("SolverParameter"))


@pytest.mark.parametrize("name", ["attention56", "attention92", "attentionnext56", "attentionnext92"])
def test_the_papers_imagenet_recipe(cli, name):
    solver = solver_of(cli("solver", name))
    assert (solver.type, solver.momentum, solver.weight_decay, solver.base_lr) == pytest.approx(
        ("Nesterov", 0.9, 1e-4, 0.1))
    assert (solver.lr_policy, list(solver.stepvalue), solver.max_iter) == ("multistep", [200000, 400000, 500000], 530000)
    assert solver.gamma == pytest.approx(0.1) and solver.iter_size * 32 == 256
    assert solver.test_iter[0] * 25 == 50000


def test_the_papers_cifar_recipe(cli):
    solver = solver_of(cli("solver", "attention236-cifar"))
    assert (list(solver.stepvalue), solver.max_iter, solver.iter_size) == ([64000, 96000], 160000, 1)
    assert solver.test_iter[0] * 100 == 10000


@pytest.mark.parametrize("arguments, iter_size", [
    (["--gpus", "8"], 1), (["--gpus", "2"], 4), (["--batch-size", "64"], 4), (["--total-batch", "64"], 2),
])
def test_iter_size_reaches_the_total_batch(cli, arguments, iter_size):
    assert solver_of(cli("solver", "attention56", *arguments)).iter_size == iter_size


def test_fields_set_by_hand_replace_or_follow(cli):
    solver = solver_of(cli("solver", "attention56", "--set", "base_lr=0.2", "--set", "stepvalue=10,20", "--set", "type=SGD",
                           "--set", "random_seed=3", "--set", "solver_mode=CPU"))
    assert solver.base_lr == pytest.approx(0.2) and list(solver.stepvalue) == [10, 20]
    assert (solver.type, solver.random_seed, solver.solver_mode) == ("SGD", 3, 0)


@pytest.mark.parametrize("settings, lacks", [
    (["lr_policy=fixed"], ["gamma", "stepvalue"]),
    (["lr_policy=poly", "power=2"], ["gamma", "stepvalue"]),
    (["lr_policy=step", "stepsize=10"], ["stepvalue"]),
    (["type=AdaGrad"], ["momentum"]),
    (["base_lr=0", "random_seed=-1", "clip_gradients=-1"], []),
])
def test_no_field_stays_that_the_policy_does_not_read(cli, settings, lacks):
    solver = solver_of(cli("solver", "attention56", *(word for one in settings for word in ("--set", one))))
    given = {field.name for field, _ in solver.ListFields()}
    assert {"gamma", "stepvalue", "momentum"} - given == set(lacks)
    assert solver.max_iter == 530000


def test_a_net_file_gives_its_batch_sizes(cli, tmp_path):
    net = tmp_path / "net.prototxt"
    cli("attention56", "--batch-size", "16", "--test-batch-size", "40", "-o", str(net))
    solver = solver_of(cli("solver", str(net), "--snapshot-prefix", "snap/a"))
    assert (solver.net, solver.iter_size, solver.test_iter[0]) == (str(net), 16, 1250)
    assert solver.snapshot_prefix == "snap/a"


@pytest.mark.parametrize("arguments, message", [
    (["atention56"], "there is no network and no file 'atention56'\nhint: did you mean 'attention56'?"),
    (["attention56", "--gpus", "7"], "256 images an update are no multiple of 32 images x 7 GPUs"),
    (["attention56", "--preset", "imagnet"], "'imagnet' is not one of"),
    (["attention56", "--set", "bas_lr=1"], "a solver has no field 'bas_lr'\nhint: did you mean 'base_lr'?"),
    (["attention56", "--set", "base_lr=fast"], "--set base_lr=fast:1:10: "),
    (["attention56", "--set", "solver_mode=TPU"], "SolverMode has no value 'TPU'"),
    (["attention56", "--set", "base_lr=nan"], "--set base_lr=nan: base_lr is no number"),
    (["attention56", "--set", "clip_gradients=inf"], "clip_gradients is no number"),
    (["attention56", "--set", "weight_decay=1e999"], "weight_decay is no number"),
    (["attention56", "--set", "base_lr=-0.1"], "--set base_lr=-0.1: base_lr is below 0"),
    (["attention56", "--set", "stepvalue=100,-3"], "stepvalue is below 1"),
    (["attention56", "--set", "test_iter=0"], "test_iter is below 1"),
    (["attention56", "--set", "momentum=1"], "momentum is not below 1"),
    (["attention56", "--set", "type=Nestorov"], "Caffe has no solver of the type 'Nestorov'\nhint: did you mean 'Nest"),
    (["attention56", "--set", "solver_type=ADAM"], "solver_type is the old form of type"),
    (["attention56", "--set", "type=RMSProp", "--set", "momentum=0.5"], "RMSProp does not take momentum"),
    (["attention56", "--set", "lr_policy=stp"], "no learning rate policy 'stp'\nhint: did you mean 'step'?"),
    (["attention56", "--set", "lr_policy=step"], "'step' needs stepsize, which is not given\nhint: add --set step"),
    (["-"], "a solver names its net by file\nhint: say which file standard input is: --net FILE"),
    (["attention56", "--snapshot-prefix", ""], "--snapshot-prefix is empty"),
    (["attention56", "--total-batch", "3"], "3 images an update are no multiple of 32 images x 1 GPU\n"),
    (["attention56", "--set", "base_lr"], "--set base_lr has no '='"),
])
def test_mistakes(cli, arguments, message):
    result = cli("solver", *arguments)
    assert result.returncode == 2 and result.stdout == "" and message in result.stderr


def test_files_that_are_no_training_net(cli, tmp_path):
    deploy, broken, stranger = tmp_path / "deploy", tmp_path / "broken", tmp_path / "stranger"
    cli("attention56", "--phase", "deploy", "-o", str(deploy))
    broken.write_text("layer { nmae: 'x' }")
    cli("attention56", "--name", "mine", "-o", str(stranger))
    for path, message in ((deploy, "no Data layer with a batch size in phase TRAIN"),
                          (broken, f"{broken}:1:9: LayerParameter has no field 'nmae'"),
                          (stranger, "no recipe is known for a net called 'mine'")):
        result = cli("solver", str(path))
        assert result.returncode == 2 and message in result.stderr
    assert cli("solver", str(stranger), "--preset", "imagenet").returncode == 0
    assert cli("solver", str(stranger), "--batch-size", "3").returncode == 2


def test_a_solver_is_not_written_over_its_net(cli, tmp_path):
    net = cli("attention56-cifar").stdout
    (tmp_path / "train.prototxt").write_text(net)
    (tmp_path / "link.prototxt").symlink_to("train.prototxt")
    for arguments in (("train.prototxt", "-o", "./link.prototxt"),
                      ("attention56-cifar", "--net", "train.prototxt", "-o", "train.prototxt")):
        done = cli("solver", *arguments, cwd=tmp_path)
        assert done.returncode == 2 and "train.prototxt: -o would write the solver over the net" in done.stderr
    assert (tmp_path / "train.prototxt").read_text() == net
