"""AugmentedData once more, from its definition: Philox in Python, resizing by OpenCV, colour in numpy."""

import math

import cv2
import numpy as np

CROP, MIRROR, COLOUR, NOISE = range(4)
AUTO, AREA, LINEAR, CUBIC = range(4)
CV_METHODS = {AREA: cv2.INTER_AREA, LINEAR: cv2.INTER_LINEAR, CUBIC: cv2.INTER_CUBIC}
# fb.resnet.torch, datasets/imagenet.lua; rows are B, G, R.
PCA_VALUES = np.array([0.2175, 0.0188, 0.0045])
PCA_VECTORS = np.array([[-0.5836, -0.6948, 0.4203], [-0.5808, -0.0045, -0.8140], [-0.5675, 0.7192, 0.4009]])
GREY = np.array([0.114, 0.587, 0.299])


def philox(counter, key):
    """Philox 4x32-10: four words."""
    low, high = key & 0xFFFFFFFF, key >> 32
    for _ in range(10):
        a, b = 0xD2511F53 * counter[0], 0xCD9E8D57 * counter[2]
        counter = ((b >> 32) ^ counter[1] ^ low, b & 0xFFFFFFFF, (a >> 32) ^ counter[3] ^ high, a & 0xFFFFFFFF)
        low, high = (low + 0x9E3779B9) & 0xFFFFFFFF, (high + 0xBB67AE85) & 0xFFFFFFFF
    return counter


def words(seed, epoch, image, purpose):
    """Endless words of one stream."""
    block = 0
    while True:
        yield from philox((block, epoch, image, purpose << 24), seed)
        block += 1


class Draws:
    def __init__(self, *key):
        self.words = words(*key)

    def uniform(self, low=0.0, high=1.0):
        return low + (high - low) * (next(self.words) + 0.5) / 2 ** 32

    def below(self, count):
        return next(self.words) * count >> 32

    def normal(self):
        radius = math.sqrt(-2 * math.log(self.uniform()))
        return radius * math.cos(2 * math.pi * self.uniform())


def random_window(width, height, draws, area=(0.08, 1), aspect=(0.75, 4 / 3)):
    """(x, y, w, h) of GoogLeNet's crop."""
    for _ in range(10):
        wanted = width * height * draws.uniform(*area)
        ratio = math.exp(draws.uniform(math.log(aspect[0]), math.log(aspect[1])))
        w, h = math.floor(math.sqrt(wanted * ratio) + 0.5), math.floor(math.sqrt(wanted / ratio) + 0.5)
        if 1 <= w <= width and 1 <= h <= height:
            return draws.below(width - w + 1), draws.below(height - h + 1), w, h
    w = min(width, math.floor(height * aspect[1] + 0.5))
    h = min(height, math.floor(width / aspect[0] + 0.5))
    return (width - w) // 2, (height - h) // 2, w, h


def resize(image, width, height, method=AUTO):
    """Resize (H, W, C) to float, each direction by its own method, by OpenCV."""
    image = image.astype(np.float32)
    for shrinking in (True, False):
        h, w = image.shape[:2]
        to_w = width if (width <= w) == shrinking else w
        to_h = height if (height <= h) == shrinking else h
        used = method
        if method in (AUTO, AREA):
            used = AREA if shrinking else LINEAR if method == AREA else CUBIC
        if (to_w, to_h) != (w, h):
            image = cv2.resize(image, (to_w, to_h), interpolation=CV_METHODS[used]).reshape(to_h, to_w, -1)
    return np.clip(image, 0, 255)


def padded_window(image, x, y, size):
    """The (size, size) window of an image (H, W, C) at (x, y), black outside."""
    border = max(abs(x), abs(y)) + size
    wide = np.pad(image, ((border, border), (border, border), (0, 0)))
    return wide[border + y:border + y + size, border + x:border + x + size]


def colour(image, brightness, contrast, saturation, noise):
    """The three changes one after the other, and the noise, over (H, W, 3)."""
    image = image.astype(np.float64) * brightness
    image = contrast * image + (1 - contrast) * (image @ GREY).mean()
    image = saturation * image + (1 - saturation) * (image @ GREY)[:, :, None]
    return image + np.asarray(noise)


def draw_colour(seed, epoch, image, brightness=0, contrast=0, saturation=0, pca_std=0):
    """The arguments that ``colour`` takes after the image."""
    factors, noise = Draws(seed, epoch, image, COLOUR), Draws(seed, epoch, image, NOISE)
    drawn = [factors.uniform(max(0, 1 - s), 1 + s) for s in (brightness, contrast, saturation)]
    alphas = np.array([pca_std * noise.normal() for _ in range(3)])
    return (*drawn, 255 * PCA_VECTORS @ (alphas * PCA_VALUES))
