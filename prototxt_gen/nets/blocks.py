"""The parts of the networks: stem, residual units, attention modules, head.

Blocks are joined by blob names. A blob that an in-place ReLU has changed keeps its name, as it does in Caffe.
"""

from __future__ import annotations

from typing import Any, Dict, List

from prototxt_gen.nets.configs import NetConfig

CONSTANT_ONE = dict(type="constant", value=1)
CONSTANT_ZERO = dict(type="constant", value=0)
MSRA = dict(type="msra")  # He et al. 2015: normal, variance 2 / fan-in
LEARNED = dict(lr_mult=1, decay_mult=1)
FIXED = dict(lr_mult=0, decay_mult=0)


class Blocks:
    """Adds blocks to a net under construction.

    ``spec`` is a module with pycaffe's ``layers``, ``params`` and ``NetSpec``; ``n`` is the NetSpec. ``fillers`` writes
    what training needs: first values, and learning rates for BN's four blobs. ``frozen`` marks every BN as frozen.
    """

    def __init__(self, config: NetConfig, spec: Any, n: Any, *, fillers: bool, frozen: bool) -> None:
        self.config = config
        self.layers = spec.layers
        self.params = spec.params
        self.n = n
        self.fillers = fillers
        self.frozen = frozen
        self._tops: Dict[str, Any] = {}  # blob name -> its newest Top
        self._channels: Dict[str, int] = {}  # blob name -> channels

    def add(self, name: str, top: Any, channels: int, blob: str = "") -> str:
        """Name a layer and the blob it makes (``blob``: the one it changes in place); return the blob's name."""
        self.n[name] = top
        self._tops[blob or name] = top
        self._channels[blob or name] = channels
        return blob or name

    def top(self, blob: str) -> Any:
        """Return the newest Top of a blob."""
        return self._tops[blob]

    # Single layers, each with the fields that the published files write.

    def convolution(self, name: str, x: str, width: int, kernel: int, stride: int = 1, groups: int = 1) -> str:
        """Convolution without bias, padded by half its kernel: (N, C, H, W) -> (N, width, H / stride, W / stride)."""
        fields: Dict[str, Any] = dict(
            num_output=width, pad=kernel // 2, kernel_size=kernel, stride=stride, bias_term=False
        )
        if groups > 1:
            fields["group"] = groups
        if not self.config.preactivation:
            fields["param"] = [LEARNED]
        if self.fillers:
            fields["weight_filler"] = MSRA
        return self.add(name, self.layers.Convolution(self.top(x), **fields), width)

    def batch_norm(self, x: str) -> str:
        """Merged batch normalisation of ``x``, named ``x/bn``; its statistics are kept out of the solver's reach."""
        fields: Dict[str, Any] = {}
        if self.frozen:
            fields["frozen"] = True
        if self.fillers:
            fields.update(
                slope_filler=CONSTANT_ONE, bias_filler=CONSTANT_ZERO, param=[LEARNED, LEARNED, FIXED, FIXED]
            )
        return self.add(f"{x}/bn", self.layers.BN(self.top(x), **fields), self._channels[x])

    def relu(self, x: str) -> str:
        """ReLU of ``x``, in place."""
        return self.add(f"{x}/relu", self.layers.ReLU(self.top(x), in_place=True), self._channels[x], blob=x)

    def pool(self, name: str, x: str) -> str:
        """Max pooling 3x3, stride 2; Caffe rounds the size up."""
        top = self.layers.Pooling(self.top(x), pool=self.params.Pooling.MAX, kernel_size=3, stride=2)
        return self.add(name, top, self._channels[x])

    def resize(self, name: str, x: str, like: str) -> str:
        """Bilinear resize of ``x`` to the height and width of ``like``."""
        return self.add(name, self.layers.Interp(self.top(x), self.top(like)), self._channels[x])

    def sum(self, name: str, first: str, second: str) -> str:
        """Sum of two blobs of one shape."""
        return self._eltwise(name, self.params.Eltwise.SUM, first, second)

    def product(self, name: str, first: str, second: str) -> str:
        """Product of two blobs of one shape."""
        return self._eltwise(name, self.params.Eltwise.PROD, first, second)

    def _eltwise(self, name: str, operation: int, first: str, second: str) -> str:
        top = self.layers.Eltwise(self.top(first), self.top(second), operation=operation)
        return self.add(name, top, self._channels[first])

    # Blocks.

    def activated(self, x: str) -> str:
        """BN and ReLU of ``x``, made once."""
        return f"{x}/bn" if f"{x}/bn" in self._tops else self.relu(self.batch_norm(x))

    def unit_input(self, x: str) -> str:
        """What a convolution reads of ``x``: pre-activation nets normalise it first, ResNeXt nets take it as it is."""
        return self.activated(x) if self.config.preactivation else x

    def stem(self, data: str) -> str:
        """First convolution with BN and ReLU, and the pooling where the network has one."""
        config = self.config
        conv = self.convolution("conv1", data, config.stem_width, config.stem_kernel, config.stem_stride)
        if not config.stem_pooling:
            # A pre-activation unit normalises the blob it reads, so that the stem need not.
            return conv if config.preactivation else self.activated(conv)
        return self.pool("pool1_3x3_s2", self.activated(conv))

    def residual_unit(self, name: str, x: str, width: int, stride: int = 1) -> str:
        """Bottleneck unit of width c: (N, C, H, W) -> (N, 4c, H / stride, W / stride).

        The second branch projects ``x`` where its shape differs from the unit's; else ``x`` itself is added.
        """
        inner = width if self.config.preactivation else 2 * width
        out = 4 * width
        source = self.unit_input(x)
        h = self.activated(self.convolution(f"{name}/branch1/conv1_1x1", source, inner, 1))
        h = self.activated(self.convolution(f"{name}/branch1/conv2_3x3", h, inner, 3, stride, self.config.groups))
        h = self.convolution(f"{name}/branch1/conv3_1x1", h, out, 1)
        if not self.config.preactivation:
            h = self.batch_norm(h)
        if stride == 1 and self._channels[x] == out:
            return self._joined(name, h, x)
        projection = self.convolution(f"{name}/branch2/conv1_1x1", source, out, 1, stride)
        if not self.config.preactivation:
            projection = self.batch_norm(projection)
        return self._joined(name, projection, h)

    def _joined(self, name: str, first: str, second: str) -> str:
        joined = self.sum(name, first, second)
        return joined if self.config.preactivation else self.relu(joined)

    def residual_units(self, names: List[str], x: str, width: int) -> str:
        """A chain of residual units that keep the shape."""
        for name in names:
            x = self.residual_unit(name, x, width)
        return x

    def attention_module(self, name: str, x: str, width: int, levels: int) -> str:
        """Residual attention H = (1 + M) T with trunk T and mask M in (0, 1), between units before and after."""
        config = self.config
        before = [f"{name}/trunk/res{i + 1}" for i in range(config.pre_units)]
        trunk = [f"{name}/trunk/res{i + 1}" for i in range(config.pre_units, config.pre_units + config.trunk_units)]
        after = [f"{name}/post{i + 1}" for i in range(config.pre_units - 1)] + [name]
        start = self.residual_units(before, x, width)
        t = self.residual_units(trunk, start, width)
        m = self.mask(f"{name}/mask", start, t, width, levels)
        product = self.product(f"{name}{config.mask_names.product}", t, m)
        return self.residual_units(after, self.sum(f"{name}/fusion", product, t), width)

    def mask(self, name: str, start: str, trunk: str, width: int, levels: int) -> str:
        """Soft mask: ``levels`` poolings down, as many resizes up with skips between, two 1x1 convolutions, Sigmoid."""
        down, up = f"{name}/{self.config.mask_names.down}", f"{name}/{self.config.mask_names.up}"
        r = self.config.mask_units
        reached = [trunk]  # what each resize goes back to, outermost first
        h = start
        for level in range(1, levels + 1):
            h = self.pool(f"{down}/pool{level}_3x3_s2", h)
            h = self.residual_units([f"{down}/res{level}_{i + 1}" for i in range(r)], h, width)
            reached.append(h)
        h = self.residual_units([f"{down}/res{levels}_{r + i + 1}" for i in range(r)], h, width)
        for level in range(levels, 0, -1):
            h = self.resize(f"{up}/interp_{level}", h, reached[level - 1])
            if level > 1:
                outer = level - 1
                skip = self.residual_unit(f"{name}/skip/res{outer}", reached[outer], width)
                h = self.sum(f"{up}{outer}", skip, h)
                h = self.residual_units([f"{up}/res{outer}_{i + 1}" for i in range(r)], h, width)
        h = self.activated(self.convolution(f"{name}/linear_1", self.unit_input(h), 4 * width, 1))
        h = self.convolution(f"{name}/linear_2", h, 4 * width, 1)
        return self.add(name, self.layers.Sigmoid(self.top(h)), 4 * width)

    def head(self, x: str, window: int, classes: int) -> str:
        """Average over the plane (``window`` pixels wide; 0: whatever its size) and the classifier's scores."""
        area = dict(kernel_size=window, stride=1) if window else dict(global_pooling=True)
        source = self.unit_input(x)
        pooled = self.layers.Pooling(self.top(source), pool=self.params.Pooling.AVE, **area)
        x = self.add("ave_pool", pooled, self._channels[source])
        fields: Dict[str, Any] = dict(num_output=classes)
        if self.fillers:
            fields.update(weight_filler=MSRA, bias_filler=CONSTANT_ZERO)
        return self.add("classifier", self.layers.InnerProduct(self.top(x), **fields), classes)
