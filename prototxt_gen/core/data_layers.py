"""The layers that bring data into a net, and where the schema keeps what they read and what they do to it.

AugmentedData has both in one message; for other images ``transform_param`` holds crop, mean and scale.
"""

from __future__ import annotations

from typing import Any

# By type, the message that holds batch_size and, but for MemoryData, source.
SOURCE_FIELDS = {
    "AugmentedData": "augmented_data_param",
    "Data": "data_param",
    "ImageData": "image_data_param",
    "HDF5Data": "hdf5_data_param",
    "MemoryData": "memory_data_param",
    "WindowData": "window_data_param",
}
# Read images from a source, cut them, take a mean off and scale them, in batches made ahead.
IMAGE_TYPES = ("AugmentedData", "Data", "ImageData", "WindowData")
# Those of them that bring a label with each whole image.
LABELLED_TYPES = ("Data", "AugmentedData", "ImageData")


def source_of(layer: Any) -> Any:
    """Return the message of a data layer that holds source and batch_size."""
    return getattr(layer, SOURCE_FIELDS[layer.type])


def transform_field(layer: Any) -> str:
    """Return the name of the message of a data layer that holds crop_size, mean and scale."""
    return "augmented_data_param" if layer.type == "AugmentedData" else "transform_param"


def transform_of(layer: Any) -> Any:
    """Return the message of a data layer that holds crop_size, mean and scale."""
    return getattr(layer, transform_field(layer))
