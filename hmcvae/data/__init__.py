"""Image data sets as NumPy arrays of whole-number pixels, read from disk.

    data = load("mnist", "path/to/data", num_validation=10_000)
    pixels = data.train / data.max_value        # [n, h, w, c], in [0, 1]

`load` takes the first that it finds of: local files (idx, npz, amat, the CIFAR-10 Python batches); a copy
prepared by tensorflow-datasets in its array_record format, which is read without TensorFlow; and, only with
`download=True`, a download through tensorflow-datasets. `digits` comes with scikit-learn. A path in place of a name
loads your own: `load("images.npz")`, `load("folder/of/images")`.

The split of `digits` and the choice of validation images are drawn from fixed seeds with
`numpy.random.RandomState`, whose stream is frozen (NEP 19): they are the same in every NumPy version. They do
depend on the order of the images, and tensorflow-datasets shuffles them: `Dataset.source` belongs in a run's
record.
"""

from hmcvae.data.dataset import NAMES, Dataset, check_pixels
from hmcvae.data.idx import read_idx
from hmcvae.data.loading import DATA_DIR_VARIABLE, load
from hmcvae.data.own import folder, is_own

__all__ = ["DATA_DIR_VARIABLE", "NAMES", "Dataset", "check_pixels", "folder", "is_own", "load", "read_idx"]
