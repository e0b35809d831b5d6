"""The passes know AugmentedData as the data layer that it is."""

import pytest

from prototxt_gen.core.dialects import DIALECTS
from prototxt_gen.core.errors import Error
from prototxt_gen.core.graph import TEST
from prototxt_gen.core.io import Model, loads
from prototxt_gen.nets.builder import DEPLOY, DataEnds, build
from prototxt_gen.nets.configs import AUGMENTATIONS, NETWORKS
from prototxt_gen.passes.deploy import train_to_deploy
from prototxt_gen.passes.dialect import dialect
from prototxt_gen.passes.inputs import batch, resize_input
from prototxt_gen.spec.infer import infer

NETS = [("attention56", "paper"), ("attention56-cifar", "cifar")]


def augmented(name, kind, **changes):
    config = NETWORKS[name]
    return build(config, data=DataEnds(mean=config.mean, augmentation=AUGMENTATIONS[kind]), **changes)


@pytest.mark.parametrize("name, kind", NETS)
def test_train_to_deploy_gives_the_deploy_net(name, kind):
    done = train_to_deploy(augmented(name, kind))
    wanted, found = build(NETWORKS[name], DEPLOY).net, done.model.net
    assert infer(found, TEST).blobs["data"] == infer(wanted, TEST).blobs["data"]
    assert [(layer.name, layer.type) for layer in found.layer] == [(layer.name, layer.type) for layer in wanted.layer]
    assert done.notes and done.notes[0].startswith("give the net its images as layer 'data' did: ")


def test_grey_images_stay_grey():
    text = """layer { name: "data" type: "AugmentedData" top: "data" top: "label"
                      augmented_data_param { source: "x" batch_size: 4 crop_size: 8 channels: 1 } }
              layer { name: "ip" type: "InnerProduct" bottom: "data" top: "ip" inner_product_param { num_output: 2 } }
              layer { name: "loss" type: "SoftmaxWithLoss" bottom: "ip" bottom: "label" top: "loss" }"""
    model = Model(loads(text, DIALECTS["attention"].message("NetParameter")))
    assert list(train_to_deploy(model).model.net.layer[0].input_param.shape[0].dim) == [1, 1, 8, 8]


@pytest.mark.parametrize("name, kind", NETS)
def test_batch_and_size_are_those_of_the_builder(name, kind):
    assert batch(augmented(name, kind), batch_size=6).model.net == augmented(
        name, kind, batch_size=6, test_batch_size=6).net
    size = NETWORKS[name].input_size + 32
    resized = resize_input(augmented(name, kind), input_shapes={"data": (1, 3, size, size)}).model.net
    assert {layer.augmented_data_param.crop_size for layer in resized.layer[:2]} == {size}
    with pytest.raises(Error, match="cuts out squares"):
        resize_input(augmented(name, kind), input_shapes={"data": (1, 3, size, size + 1)})


@pytest.mark.parametrize("to", ["bvlc", "happynear", "pspnet"])
def test_other_forks_lack_the_layer_and_the_way_out_is_named(to):
    text = 'layer { name: "data" type: "AugmentedData" top: "data" augmented_data_param { source: "x" } }'
    with pytest.raises(Error) as caught:
        dialect(Model(loads(text, DIALECTS["attention"].message("NetParameter"))), to=to)
    assert f"dialect '{to}' has no layer AugmentedData" in caught.value.what
    assert caught.value.hint == "--pass train-to-deploy first"
