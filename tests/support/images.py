"""Files of images as data sets come in, tiny and made up."""

import gzip
import io
import json
import os
import struct

import numpy as np


def random_pixels(seed, *shape, high=256):
    return np.random.default_rng(seed).integers(0, high, shape, dtype=np.uint8)


def write_idx(path, images, magic=0x0803):
    path.parent.mkdir(parents=True, exist_ok=True)
    raw = struct.pack(">4I", magic, *images.shape) + images.tobytes()
    path.write_bytes(gzip.compress(raw) if path.suffix == ".gz" else raw)


def write_idx_pair(folder, suffix="", num_train=7, num_test=3):
    train, test = random_pixels(0, num_train, 28, 28), random_pixels(1, num_test, 28, 28)
    write_idx(folder / f"train-images-idx3-ubyte{suffix}", train)
    write_idx(folder / f"t10k-images-idx3-ubyte{suffix}", test)
    return train[..., None], test[..., None]


class Malicious:
    def __reduce__(self):
        return os.mkdir, ("ran",)


def write_prepared(root, name, splits, version="3.0.2"):
    """A copy as tensorflow-datasets prepares it, but without TensorFlow: PNG images in array_record files."""
    from array_record.python.array_record_module import ArrayRecordWriter
    from PIL import Image
    from tensorflow_datasets.proto import tf_example_pb2, tf_feature_pb2

    folder = root / name / version
    folder.mkdir(parents=True)
    shape = next(iter(splits.values())).shape[1:]
    infos = []
    for split, images in splits.items():
        path = folder / f"{name}-{split}.array_record-00000-of-00001"
        writer = ArrayRecordWriter(str(path), "group_size:1")
        for image in images:
            png = io.BytesIO()
            Image.fromarray(image.squeeze(-1) if shape[-1] == 1 else image).save(png, "PNG")
            feature = tf_feature_pb2.Feature(bytes_list=tf_feature_pb2.BytesList(value=[png.getvalue()]))
            features = tf_feature_pb2.Features(feature={"image": feature})
            writer.write(tf_example_pb2.Example(features=features).SerializeToString())
        writer.close()
        template = "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}"
        infos.append({"name": split, "shardLengths": [str(len(images))], "filepathTemplate": template})
    info = {"name": name, "version": version, "fileFormat": "array_record", "splits": infos}
    (folder / "dataset_info.json").write_text(json.dumps(info))
    classes = "tensorflow_datasets.core.features."
    image = {"dtype": "uint8", "shape": {"dimensions": [str(n) for n in shape]}}
    image = {"pythonClassName": f"{classes}image_feature.Image", "image": image}
    dictionary = {"pythonClassName": f"{classes}features_dict.FeaturesDict"}
    (folder / "features.json").write_text(
        json.dumps({**dictionary, "featuresDict": {"features": {"image": image}}})
    )
    return folder
