"""``python -m prototxt_gen`` is the console script ``prototxt-gen``."""

from prototxt_gen.cli.main import run

if __name__ == "__main__":
    run()
