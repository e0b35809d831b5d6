"""What the tests of training share: reading LMDBs with the lmdb package."""

import lmdb
import pytest

from prototxt_gen.core.dialects import DEFAULT_DIALECT

Datum = DEFAULT_DIALECT.message("Datum")


@pytest.fixture
def read_lmdb():
    """Return the (key, Datum) pairs of an LMDB in the order Caffe's cursor meets them."""

    def read(folder):
        environment = lmdb.open(str(folder), readonly=True, lock=False)
        with environment.begin() as transaction:
            pairs = [(key.decode(), Datum.FromString(value)) for key, value in transaction.cursor()]
        environment.close()
        return pairs

    return read
