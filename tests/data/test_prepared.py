"""Copies that tensorflow-datasets prepared, and downloads on request."""

import importlib
import sys
import types
from pathlib import Path

import numpy as np
import pytest

from hmcvae import data
from tests.support.images import random_pixels, write_idx_pair, write_prepared


@pytest.mark.parametrize("sub", ["tfds", ""])
def test_prepared_copy_is_read_without_network_or_tensorflow(tmp_path, sub):
    had_tensorflow = "tensorflow" in sys.modules
    splits = {"train": random_pixels(0, 5, 32, 32, 3), "test": random_pixels(1, 2, 32, 32, 3)}
    folder = write_prepared(tmp_path / sub, "cifar10", splits)
    dataset = data.load("cifar10", tmp_path)
    np.testing.assert_array_equal(dataset.train, splits["train"])
    np.testing.assert_array_equal(dataset.test, splits["test"])
    assert dataset.source.startswith(f"tensorflow-datasets copy in {folder} (NOT the whole set")
    assert ("tensorflow" in sys.modules) == had_tensorflow


def test_prepared_binarized_mnist_keeps_its_validation_images(tmp_path):
    splits = {
        k: random_pixels(i, 3, 28, 28, 1, high=2) for i, k in enumerate(("train", "validation", "test"))
    }
    write_prepared(tmp_path / "home" / "tensorflow_datasets", "binarized_mnist", splits)
    dataset = data.load("binarized_mnist", num_validation=3)  # in tensorflow-datasets' own folder
    np.testing.assert_array_equal(dataset.train, splits["train"])
    np.testing.assert_array_equal(dataset.test, splits["test"])
    own = {image.tobytes() for image in splits["validation"]}
    assert {image.tobytes() for image in dataset.validation} == own


def test_local_files_come_before_a_prepared_copy_and_that_before_the_subset(tmp_path):
    train, test = random_pixels(0, 3, 32, 32, 3), random_pixels(1, 2, 32, 32, 3)
    np.savez(tmp_path / "cifar10_subset.npz", train=test, test=test)
    write_prepared(tmp_path / "tfds", "cifar10", {"train": train, "test": test})
    assert "tensorflow-datasets copy" in data.load("cifar10", tmp_path).source
    np.savez(tmp_path / "cifar10.npz", train=test, test=test)
    assert "cifar10.npz" in data.load("cifar10", tmp_path).source


def test_newest_array_record_version_is_taken(tmp_path):
    splits = {"train": random_pixels(0, 2, 32, 32, 3), "test": random_pixels(1, 2, 32, 32, 3)}
    for version in ("3.0.2", "3.0.10", "4.0.0", "incomplete.X_5.0.0"):
        write_prepared(tmp_path, "cifar10", splits, version)
    info = tmp_path / "cifar10" / "4.0.0" / "dataset_info.json"
    info.write_text(info.read_text().replace("array_record", "tfrecord"))
    assert "cifar10/3.0.10 " in data.load("cifar10", tmp_path).source
    for version in ("3.0.2", "3.0.10"):
        (tmp_path / "cifar10" / version / "dataset_info.json").unlink()
    with pytest.raises(FileNotFoundError, match=r"4\.0\.0 as array_record \(it is tfrecord: move it away"):
        data.load("cifar10", tmp_path)
    info.write_text("{")
    with pytest.raises(ValueError, match=r"4\.0\.0: expected a dataset_info\.json"):
        data.load("cifar10", tmp_path)


def test_prepared_copy_that_is_broken_names_the_folder(tmp_path):
    splits = {"train": random_pixels(0, 4, 32, 32, 3), "test": random_pixels(1, 2, 32, 32, 3)}
    folder = write_prepared(tmp_path, "cifar10", splits)
    record = folder / "cifar10-test.array_record-00000-of-00001"
    record.write_bytes(record.read_bytes()[:-70_000])
    with pytest.raises(
        ValueError, match=r"cifar10/3\.0\.2: expected a whole tensorflow-datasets copy of cifar10, got"
    ):
        data.load("cifar10", tmp_path)


class FakeTFDS(types.ModuleType):
    """Stands for tensorflow_datasets: notes each download, and prepares a tiny copy instead."""

    def __init__(self, splits):
        super().__init__("tensorflow_datasets")
        self.splits, self.calls = splits, []
        self.real = importlib.import_module("tensorflow_datasets")
        self.builder_from_directory = self.real.builder_from_directory
        self.download = types.SimpleNamespace(DownloadConfig=lambda **options: options)

    def builder(self, name, data_dir):
        def download_and_prepare(file_format, download_config):
            self.calls.append((name, data_dir, file_format, download_config))
            write_prepared(Path(data_dir), name, self.splits)

        return types.SimpleNamespace(download_and_prepare=download_and_prepare)


@pytest.fixture
def tfds(monkeypatch):
    fake = FakeTFDS({"train": random_pixels(0, 3, 32, 32, 3), "test": random_pixels(1, 2, 32, 32, 3)})
    original = importlib.import_module
    stand_ins = {"tensorflow_datasets": fake, "tensorflow": types.ModuleType("tensorflow")}
    monkeypatch.setattr(importlib, "import_module", lambda name: stand_ins.get(name) or original(name))
    return fake


def test_download_only_when_asked_for(tmp_path, tfds):
    np.savez(tmp_path / "cifar10_subset.npz", train=tfds.splits["test"], test=tfds.splits["test"])
    assert "cifar10_subset" in data.load("cifar10", tmp_path).source
    with pytest.raises(FileNotFoundError):
        data.load("cifar10", tmp_path / "absent")
    assert tfds.calls == []
    dataset = data.load("cifar10", tmp_path, download=True)  # a subset is no reason not to
    gcs = {"try_download_gcs": False}
    assert tfds.calls == [("cifar10", str(tmp_path / "tfds"), "array_record", gcs)]
    np.testing.assert_array_equal(dataset.train, tfds.splits["train"])
    data.load("cifar10", tmp_path, download=True)
    data.load("cifar10", tmp_path)
    assert len(tfds.calls) == 1  # it is there now


def test_download_without_a_data_directory_goes_where_tfds_keeps_its_own(tmp_path, tfds):
    data.load("cifar10", download=True)
    assert [call[1] for call in tfds.calls] == [str(tmp_path / "home" / "tensorflow_datasets")]


def test_local_files_are_not_downloaded_again(tmp_path, tfds):
    train, _ = write_idx_pair(tmp_path)
    np.testing.assert_array_equal(data.load("mnist", tmp_path, download=True).train, train)
    assert tfds.calls == []


@pytest.mark.parametrize("module", ["tensorflow", "tensorflow_datasets", "PIL.Image"])
def test_download_names_the_package_that_is_not_there(tmp_path, monkeypatch, module):
    monkeypatch.setitem(sys.modules, "tensorflow", types.ModuleType("tensorflow"))
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ImportError, match=rf"need {module} .*pip install 'hmcvae\[(tfds|experiments)\]'"):
        data.load("mnist", tmp_path, download=True)
