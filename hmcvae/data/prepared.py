"""Copies prepared by tensorflow-datasets, read without TensorFlow; and its downloads."""

from __future__ import annotations

import importlib
import json
import re
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from jaxtyping import UInt8

from hmcvae.data.dataset import Absent, Splits, mismatch


def prepared_folder(folder: Path, name: str) -> Path:
    """The newest `<folder>/<name>/<version>` in array_record format.

    Found without tfds, which goes to the network for what is not on disk, and there retries for minutes.
    """
    versions = [info.parent for info in (folder / name).glob("*/dataset_info.json")]
    versions = [path for path in versions if re.fullmatch(r"\d+\.\d+\.\d+", path.name)]  # not "incomplete.…"
    others = []
    for path in sorted(versions, key=lambda path: [int(part) for part in path.name.split(".")], reverse=True):
        try:
            file_format = json.loads((path / "dataset_info.json").read_text()).get("fileFormat", "tfrecord")
        except (ValueError, AttributeError) as error:
            raise mismatch(path, "a dataset_info.json written by tensorflow-datasets", repr(error)) from error
        if file_format == "array_record":
            return path
        others.append(f"{path} as array_record (it is {file_format}: move it away and prepare it anew)")
    raise Absent("; ".join(others) or f"{folder / name}/<version>/dataset_info.json (tensorflow-datasets)")


def read_prepared(folder: Path, name: str) -> Splits:
    """A copy prepared by tensorflow-datasets; about a second for 10,000 images, which are stored as PNG."""
    path = prepared_folder(folder, name)
    _check_features(path)
    tfds = import_tfds()
    splits = ["train", "test"] + (["validation"] if name == "binarized_mnist" else [])
    try:
        # From the folder, not `tfds.builder(name)`: this one reads no dataset code and never leaves the disk.
        builder = tfds.builder_from_directory(str(path))
        images = [read_split(builder, split) for split in splits]
    except Exception as error:  # array_record raises RuntimeError, tfds whatever it happens upon
        raise mismatch(path, f"a whole tensorflow-datasets copy of {name}", repr(error)) from error
    return Splits(images[0], images[1], f"tensorflow-datasets copy in {path}", *images[2:])


# Of these alone is an image data set made. Importing what else a file names would run it.
_FEATURES = frozenset(
    f"tensorflow_datasets.core.features.{name}"
    for name in (
        "features_dict.FeaturesDict",
        "image_feature.Image",
        "class_label_feature.ClassLabel",
        "text_feature.Text",
        "tensor_feature.Tensor",
        "scalar.Scalar",
    )
)


_NAME_OF_A_CLASS = frozenset({"pythonClassName", "python_class_name", "type"})


def _check_features(path: Path) -> None:
    """Raise ValueError if a prepared copy's features.json has a class imported that is none of tensorflow-datasets'."""
    try:
        pending = [json.loads((path / "features.json").read_text())]
    except (OSError, ValueError, RecursionError) as error:
        raise mismatch(path, "a features.json written by tensorflow-datasets", repr(error)) from error
    while pending:
        value = pending.pop()
        if isinstance(value, dict):
            for name in _NAME_OF_A_CLASS & value.keys():
                if isinstance(value[name], str) and value[name] not in _FEATURES:
                    raise mismatch(
                        path, "a features.json with features of images alone", repr(value[name])[:200]
                    )
            pending += value.values()
        elif isinstance(value, list):
            pending += value
        elif isinstance(value, str) and value.lstrip()[:1] in ("{", "["):  # content in JSON of its own
            try:
                pending.append(json.loads(value))
            except (ValueError, RecursionError):
                continue


def read_split(builder: Any, split: str) -> UInt8[np.ndarray, "n h w c"]:
    return np.stack([example["image"] for example in builder.as_data_source(split=split)])


def download_copy(folder: Path, name: str) -> Splits:
    import_optional("tensorflow", "tfds")  # encodes the images when a data set is prepared
    tfds = import_tfds()
    # What tfds copies from Google's bucket is in tfrecord format: always prepare from the original files.
    config = tfds.download.DownloadConfig(try_download_gcs=False)
    builder = tfds.builder(name, data_dir=str(folder))
    builder.download_and_prepare(file_format="array_record", download_config=config)
    return read_prepared(folder, name)


def import_tfds() -> ModuleType:
    # The first two are imported late by tfds, which then fails in ways that do not say what to install.
    for module in ("PIL.Image", "array_record.python.array_record_module"):
        import_optional(module, "experiments")
    return import_optional("tensorflow_datasets", "experiments")


def import_optional(module: str, extra: str) -> ModuleType:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ImportError(f"these data need {module} ({error}): pip install 'hmcvae[{extra}]'") from error
