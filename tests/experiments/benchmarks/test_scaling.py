"""The benchmark of scaling: what it reads, what it counts, and its arithmetic."""

import json

import jax
import numpy as np
import pytest

from experiments.benchmarks.scaling import run
from experiments.benchmarks.scaling.arithmetic import on_paper
from experiments.benchmarks.scaling.config import Config, smaller
from experiments.benchmarks.scaling.devices import collective_bytes
from experiments.benchmarks.scaling.model import pixels
from experiments.benchmarks.scaling.streaming import FileBatches, write_file


@pytest.mark.slow
def test_a_small_run_writes_every_figure(tmp_path):
    report = run.benchmark(smaller(Config(folder=tmp_path)), "command")
    assert json.loads((tmp_path / "bench_scaling.json").read_text()) == report
    assert report["streaming"]["peak_mib"] > 50
    assert report["streaming"]["rate"][0] > 0
    assert [row["method"] for row in report["one_device"]] == ["VAE", "HVI, 4 steps"]
    for row in report["moved"]:
        assert row["num_devices"] == 8
        assert 1 <= row["moved"] / row["params"] < 1.05  # the gradient, once
    assert "Nothing of this was run" in (tmp_path / "bench_scaling.md").read_text()


def test_the_file_holds_the_batches_that_are_read(tmp_path):
    config = smaller(Config())
    write_file(tmp_path / "images.bin", config)
    batches = list(FileBatches(tmp_path / "images.bin", config.batch_size, config.image_shape))
    assert len(batches) == config.num_parts * config.steps_in_memory > 10
    np.testing.assert_array_equal(batches[3], pixels(config.batch_size, config.image_shape, 3))


def test_collectives_are_counted_by_their_operands():
    text = """
      %all-reduce.1 = (f32[784,20]{1,0}, f32[]) all-reduce(%a, %b), channel_id=1
      %x = f32[100] add(%a, %b)
      %all-gather-start = bf16[7]{0} all-gather-start(%c)
    """
    assert collective_bytes(text) == 4 * (784 * 20 + 1) + 2 * 7
    program = jax.jit(lambda x: 2 * x).lower(np.ones(3)).compile()
    assert collective_bytes(program.as_text() or "") == 0


def test_the_arithmetic_adds_up():
    paper = on_paper("VAE", flops_per_image=2e6, param_bytes=2.5e6)
    assert paper.steps_per_epoch == 390
    assert paper.compute == pytest.approx(2e6 * 256 / 2e13)
    assert paper.reduce == pytest.approx(2 * 2.5e6 / 2.5e10 + 28e-5)
    assert paper.read == pytest.approx(256 * 8 * 784 / 5e8)
    assert paper.epoch == pytest.approx(390 * paper.read)
