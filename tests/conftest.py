"""Strict settings for every test: 64-bit where asked for, no silent rank promotion, fixed seeds."""

import gc
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

# Set before jax is imported: one device, and no retry of downloads by anything.
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("MPLBACKEND", "Agg")
# XLA's older emitters of loops compile the programs of these tests in half the time (JAX 0.10 and 0.11 know the flag).
os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} --xla_cpu_use_fusion_emitters=false".strip()
# Commands that tests start: as `compile_quickly` below for the tests themselves.
os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")
import jax
import pytest

jax.config.update("jax_enable_x64", True)
jax.config.update("jax_numpy_rank_promotion", "raise")
# Tracing makes many objects that live, which the collector would else go through again and again.
gc.set_threshold(50_000, 50, 100)


def pytest_configure(config: pytest.Config) -> None:
    """Most of the time of these tests is XLA's, and many make the same programs: of other workers, of the commands that
    they run, and of other tests. One folder of programs for all of them, for this run alone."""
    if hasattr(config, "workerinput") or "JAX_COMPILATION_CACHE_DIR" in os.environ:
        return
    folder = tempfile.mkdtemp(prefix="hmcvae-tests-")
    config.add_cleanup(lambda: shutil.rmtree(folder, ignore_errors=True))
    for name, value in (
        ("JAX_COMPILATION_CACHE_DIR", folder),
        ("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", 0.0),
        ("JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES", -1),
    ):
        os.environ[name] = str(value)  # for the workers and the commands
        jax.config.update(name.lower(), value)


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """The folder of real data, or a skip with the reason."""
    folder = Path(os.environ.get("HMCVAE_DATA_DIR", Path(__file__).resolve().parents[2] / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"no data folder at {folder}; set HMCVAE_DATA_DIR to run this test")
    return folder


@pytest.fixture(scope="module", autouse=True)
def forget_programs() -> Iterator[None]:
    """After each module. A compiled program holds some memory maps, of which a process may have 65,530
    (vm.max_map_count): beyond, a compilation aborts it. The programs themselves are some gigabytes by the end."""
    yield
    jax.clear_caches()
    gc.collect()


@pytest.fixture(autouse=True)
def compile_quickly(request: pytest.FixtureRequest) -> None:
    """Most of the time of these tests is XLA's compilation, and without its optimizations it is half of that. Programs
    that run for long, those of the slow tests of chains, are optimized; slow tests of commands make many small ones."""
    folder = request.node.nodeid.split("/")[1]
    runs_long = request.node.get_closest_marker("slow") is not None and folder not in (
        "experiments",
        "training",
    )
    jax.config.update("jax_disable_most_optimizations", not runs_long)


@pytest.fixture
def rng_key() -> jax.Array:
    return jax.random.key(20261123)


@pytest.fixture
def promote_ranks():
    """For code of others that promotes ranks."""
    with jax.numpy_rank_promotion("allow"):
        yield
