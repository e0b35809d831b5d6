"""Recipes as texts: what they say fits together, for every set of images and network; and how a folder is written."""

import os
import re
import stat

import pytest

from prototxt_gen.check.lint import NOTE, Options, lint, registry
from prototxt_gen.core.dialects import DEFAULT_DIALECT
from prototxt_gen.core.errors import Error
from prototxt_gen.core.io import loads
from prototxt_gen.nets.builder import DEPLOY, DataEnds, build
from prototxt_gen.nets.configs import AUGMENTATIONS, NETWORKS
from prototxt_gen.train.recipe import DEPLOYED, NET, README, RECIPES, SCRIPT, SOLVER, recipe_files, write_recipe

FITTING = [(name, network) for name, recipe in RECIPES.items() for network, config in NETWORKS.items()
           if config.input_size == recipe.input_size and "452" not in network]
SMALL = ("fashion-mnist", "attention56-cifar")


def solver_of(texts):
    return loads(texts[SOLVER], DEFAULT_DIALECT.message("SolverParameter"))


def net_of(texts):
    return loads(texts[NET], DEFAULT_DIALECT.message("NetParameter"))


@pytest.mark.parametrize("name, network", FITTING)
def test_all_files_fit_together(name, network, tmp_path, monkeypatch):
    texts = recipe_files(name, network)
    monkeypatch.chdir(tmp_path)
    write_recipe(".", texts)
    (tmp_path / "snapshots").mkdir()
    found = lint(texts[SOLVER], SOLVER, Options(registry.rules()))
    assert [one for one in found if one.severity != NOTE] == []
    solver, net = solver_of(texts), net_of(texts)
    assert (solver.net, solver.snapshot_prefix) == (NET, f"snapshots/{network}")
    assert [layer.augmented_data_param.source for layer in net.layer[:2]] == ["data/train_lmdb", "data/test_lmdb"]
    assert texts[DEPLOYED] == build(NETWORKS[network], DEPLOY).dumps()
    assert max(map(len, texts[README].splitlines())) <= 120 and "\n\n\n" not in texts[README]


def test_the_recipes_are_the_papers():
    imagenet, cifar = recipe_files("imagenet", "attention56"), recipe_files("cifar", "attention92-cifar")
    assert net_of(imagenet) == build(NETWORKS["attention56"], data=DataEnds(
        "data/train_lmdb", "data/test_lmdb", (104, 117, 123), AUGMENTATIONS["paper"])).net
    solver = solver_of(imagenet)
    assert (solver.max_iter, list(solver.stepvalue), solver.iter_size) == (530000, [200000, 400000, 500000], 8)
    assert solver.solver_mode == solver.GPU and "device=(--gpu 0)" in imagenet[SCRIPT]
    solver = solver_of(cifar)
    assert (solver.max_iter, list(solver.stepvalue), solver.iter_size) == (160000, [64000, 96000], 1)
    assert net_of(cifar).layer[0].augmented_data_param.pad == 4


def test_fashion_mnist_is_for_the_cpu():
    texts = recipe_files(*SMALL)
    solver = solver_of(texts)
    assert solver.solver_mode == solver.CPU and "device=(--cpu)" in texts[SCRIPT] and solver.max_iter == 1000
    assert list(solver.stepvalue) == [680, 900]
    assert [round(one, 3) for one in net_of(texts).layer[0].augmented_data_param.mean_value] == [55.845]


@pytest.mark.parametrize("gpus, batch, iter_size, total", [
    (1, 32, 8, 256), (4, 32, 2, 256), (8, 32, 1, 256), (8, 64, 1, 512), (3, 32, 3, 288), (1, 24, 11, 264),
])
def test_batches_and_gpus_keep_the_images_an_update_as_near_as_they_can(gpus, batch, iter_size, total):
    texts = recipe_files("imagenet", "attention56", gpus=gpus, batch_size=batch)
    assert solver_of(texts).iter_size == iter_size
    assert net_of(texts).layer[0].augmented_data_param.batch_size == batch
    assert f" iterations of {total} images: {batch} on " in texts[README]
    assert ("base_lr` may want to change" in texts[README]) == (total != 256)
    assert ("fewer than 32" in texts[README]) == (batch < 32)
    assert f"device=(--gpu {','.join(map(str, range(gpus)))})" in texts[SCRIPT]


@pytest.mark.parametrize("iterations", [1, 2, 7, 249, 1000, 530000])
def test_steps_tests_and_snapshots_move_with_the_iterations(iterations):
    solver = solver_of(recipe_files("imagenet", "attention56", iterations=iterations))
    assert solver.max_iter == iterations
    assert list(solver.stepvalue) == sorted(solver.stepvalue) and 1 <= min(solver.stepvalue) <= iterations
    assert max(solver.test_interval, solver.snapshot, solver.display) <= max(iterations, 10000)
    assert solver.snapshot <= iterations


def test_without_augmentation_the_layers_are_stock():
    texts = recipe_files(*SMALL, augment="none")
    assert [layer.type for layer in net_of(texts).layer[:2]] == ["Data", "Data"]
    assert "AugmentedData" not in texts[README] and "stock `Data` layer" in texts[README]


def test_the_readme_tells_the_command_that_writes_it():
    command = "prototxt-gen recipe imagenet attention56 DIR --augment none --batch-size 64 --gpus 0 --iterations 9"
    texts = recipe_files("imagenet", "attention56", augment="none", batch_size=64, gpus=0, iterations=9)
    assert f"`{command}`" in texts[README]


@pytest.mark.parametrize("name, network, message, hint", [
    ("imagnet", "attention56", "no recipe is called 'imagnet'", "did you mean 'imagenet'?"),
    ("cifar", "attention56", "made for 224x224 pixels, and CIFAR-10 trains at 32x32", "attention92-cifar"),
    ("imagenet", "attention56-cifar", "made for 32x32 pixels, and ImageNet trains at 224x224", "attention92"),
    ("cifar", "atention56", "no network is called 'atention56'", "did you mean 'attention56'?"),
])
def test_refusals(name, network, message, hint):
    with pytest.raises(Error) as caught:
        recipe_files(name, network)
    assert message in caught.value.what and hint in caught.value.hint


def test_nothing_is_written_where_a_file_differs(tmp_path):
    texts = recipe_files(*SMALL)
    write_recipe(str(tmp_path / "a" / "b"), texts)
    folder = tmp_path / "a" / "b"
    assert {path.name: path.read_text() for path in folder.iterdir()} == texts
    assert os.stat(folder / SCRIPT).st_mode & stat.S_IXUSR and not os.stat(folder / NET).st_mode & stat.S_IXUSR
    write_recipe(str(folder), texts)  # the same once more
    os.remove(folder / DEPLOYED)
    write_recipe(str(folder), texts)  # what is missing
    (folder / NET).write_text("mine")
    os.remove(folder / DEPLOYED)
    with pytest.raises(Error) as caught:
        write_recipe(str(folder), texts)
    assert caught.value.what == f"has {NET} of its own, and it differs"
    assert (folder / NET).read_text() == "mine" and not (folder / DEPLOYED).exists()


def test_what_is_in_the_way_of_the_folder(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(Error, match="cannot make the folder"):
        write_recipe(str(tmp_path / "file" / "in"), recipe_files(*SMALL))
    (tmp_path / "dir" / README).mkdir(parents=True)
    with pytest.raises(Error, match=re.escape(f"has {README} of its own")):
        write_recipe(str(tmp_path / "dir"), recipe_files(*SMALL))
