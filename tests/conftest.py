"""Strict settings for every test: 64-bit where asked for, no silent rank promotion, fixed seeds."""

import os
import shutil
import tempfile
from pathlib import Path

# Set before jax is imported: one device, and no retry of downloads by anything.
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("MPLBACKEND", "Agg")
# Most of the time of these tests is XLA's, and many make the same programs: of other workers, of the commands that they
# run, and of other tests. One folder for all of them, for this run alone.
OWN_CACHE = None
if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
    OWN_CACHE = tempfile.mkdtemp(prefix="hmcvae-tests-")
    os.environ["JAX_COMPILATION_CACHE_DIR"] = OWN_CACHE
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.2"
    os.environ["JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES"] = "-1"

import jax
import pytest

jax.config.update("jax_enable_x64", True)
jax.config.update("jax_numpy_rank_promotion", "raise")


def pytest_unconfigure() -> None:
    """The process that made the folder takes it away."""
    if OWN_CACHE is not None:
        shutil.rmtree(OWN_CACHE, ignore_errors=True)


REPOSITORY = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """The folder of real data, or a skip with the reason."""
    folder = Path(os.environ.get("HMCVAE_DATA_DIR", REPOSITORY.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"no data folder at {folder}; set HMCVAE_DATA_DIR to run this test")
    return folder


@pytest.fixture
def rng_key() -> jax.Array:
    return jax.random.key(20261123)
