"""Strict settings for every test: 64-bit where asked for, no silent rank promotion, fixed seeds."""

import os
from pathlib import Path

# Set before jax is imported: one device, and no retry of downloads by anything.
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("MPLBACKEND", "Agg")

import jax
import pytest

jax.config.update("jax_enable_x64", True)
jax.config.update("jax_numpy_rank_promotion", "raise")

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
