"""NumPyro, imported where it is asked for."""

import importlib
from typing import Any


def numpyro_module(name: str = "numpyro") -> Any:
    """A module of NumPyro, or an ImportError that says how to install it."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise ImportError(
            "this needs NumPyro: pip install 'hmcvae[numpyro]', or pip install numpyro"
        ) from error
