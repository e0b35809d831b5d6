"""What tests of image sets share: small pictures as bytes, tar files of them, and what is read back."""

import io
import tarfile

import numpy
from PIL import Image

from prototxt_gen.train.data_images import ImageForm

RAW = ImageForm(size_px=(4, 4), encoded=False)


def picture(shade=7, kind="PNG", mode="RGB", size=(4, 4)):
    buffer = io.BytesIO()
    Image.new("RGB", size, (shade, shade, shade)).convert(mode).save(buffer, kind)
    return buffer.getvalue()


def pixels_of(record):
    return numpy.frombuffer(record.data, numpy.uint8).reshape(record.channels, record.height, record.width)


def tar_of(files, path=None, compress=""):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=f"w:{compress}") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    if path is not None:
        path.write_bytes(buffer.getvalue())
    return buffer.getvalue()
