"""Interp inside Caffe: the forms of its size, the second bottom, and what it refuses."""

import pytest

FORMS = "exactly one of a second bottom, zoom_factor, shrink_factor, or height and width"


def text_of(fields="", size=(2, 3, 7, 9), second=None, top="y", first="x"):
    def source(name, shape):
        dims = " ".join(f"dim: {n}" for n in shape)
        return f'layer {{ name: "{name}" type: "Input" top: "{name}" input_param {{ shape {{ {dims} }} }} }}\n'

    bottoms = f'bottom: "{first}"' + (' bottom: "r"' if second else "")
    return (source("x", size) + (source("r", second) if second else "") +
            f'layer {{ name: "resize" type: "Interp" {bottoms} top: "{top}" interp_param {{ {fields} }} }}\n')


@pytest.mark.parametrize("fields, second, expected", [
    ("zoom_factor: 3", None, [2, 3, 19, 25]),
    ("shrink_factor: 2", None, [2, 3, 4, 5]),
    ("height: 1 width: 30", None, [2, 3, 1, 30]),
    ("", (5, 1, 4, 6), [2, 3, 4, 6]),
    ("zoom_factor: 2 pad_beg: -1 pad_end: -2", None, [2, 3, 7, 11]),
])
def test_sizes(in_caffe, fields, second, expected):
    assert in_caffe(f"out = net_of('''{text_of(fields, second=second)}''').blobs['y'].data.shape") == expected


def test_follows_a_reshape_of_either_bottom(in_caffe):
    told = in_caffe(f"""net = net_of('''{text_of(second=(1, 1, 14, 18))}''')
sizes = []
for name, shape in (("x", (1, 4, 5, 5)), ("r", (3, 2, 5, 6))):
    net.blobs[name].reshape(*shape)
    net.blobs["x"].data[...] = np.random.default_rng(0).standard_normal(net.blobs["x"].data.shape)
    net.forward()
    y = net.blobs["y"].data
    sizes.append((y.shape, bool((y[:, :, -1, -1] == net.blobs["x"].data[:, :, -1, -1]).all())))
out = sizes
""")
    assert told == [[[1, 4, 14, 18], True], [[1, 4, 5, 6], True]]


def test_the_second_bottom_gives_its_size_only(in_caffe):
    """Its values do not matter, and its difference stays as it was though what makes it learns."""
    text = text_of(second=(2, 3, 14, 18)).replace(
        'layer { name: "resize"',
        'layer { name: "s" type: "Scale" bottom: "r" top: "r2" scale_param { filler { value: 1 } } }\n'
        'layer { name: "t" type: "Scale" bottom: "x" top: "x2" scale_param { filler { value: 1 } } }\n'
        'layer { name: "resize"').replace('bottom: "x" bottom: "r" top', 'bottom: "x2" bottom: "r2" top')
    loss = 'layer { name: "l" type: "Reduction" bottom: "y" top: "l" loss_weight: 1 }'
    told = in_caffe(f"""net = net_of('''{text}{loss}''')
tops = []
rng = np.random.default_rng(0)
net.blobs["x"].data[...] = rng.standard_normal((2, 3, 7, 9))
for fill in (0, np.nan):
    net.blobs["r"].data[...] = fill
    net.blobs["r2"].diff[...] = 55
    net.clear_param_diffs()
    net.forward()
    net.backward()
    tops.append(net.blobs["y"].data.copy())
out = dict(same=bool((tops[0] == tops[1]).all()), diff=np.unique(net.blobs["r2"].diff),
           learns=bool(net.params["t"][0].diff.any()))
""")
    assert told == {"same": True, "diff": [55], "learns": True}


@pytest.mark.parametrize("text, reason", [
    (text_of(), FORMS),
    (text_of("zoom_factor: 2 shrink_factor: 2"), FORMS),
    (text_of("zoom_factor: 2", second=(2, 3, 4, 4)), FORMS),
    (text_of("height: 4 width: 4 zoom_factor: 1"), FORMS),
    (text_of("height: 4"), "needs both height and width, and positive"),
    (text_of("height: 4 width: 0"), "needs both height and width, and positive"),
    (text_of("zoom_factor: 0"), "zoom_factor must be at least 1"),
    (text_of("shrink_factor: -2"), "shrink_factor must be at least 1"),
    (text_of("zoom_factor: 2 pad_beg: 1"), "must be zero or negative"),
    (text_of("zoom_factor: 2 pad_beg: -4 pad_end: -3"), "pad_beg -4 and pad_end -3 leave nothing of an input of 7 x 9"),
    (text_of("zoom_factor: 2", size=(2, 3, 7)), "needs bottoms of shape (N, C, H, W), not 2 3 7 (42)"),
    (text_of("", second=(2, 5)), "needs bottoms of shape (N, C, H, W), not 2 5 (10)"),
    (text_of("zoom_factor: 2", top="x"), "cannot work in place"),
])
def test_refusals_name_the_layer(refusal, text, reason):
    message = refusal(text)
    assert "layer 'resize': " in message and reason in message
