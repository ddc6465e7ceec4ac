"""The machine and the versions that a result belongs to."""

import os
import platform
import re
from importlib import metadata
from pathlib import Path

import jax

import hmcvae

PACKAGES = ("jaxlib", "numpy")


def num_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def describe(*packages: str) -> dict:
    """Versions of hmcvae, JAX, Python and further packages, the device, the processor, and how busy it was.

    platform, device: as JAX calls them.  cpu: the processor's model.  num_cpus: cores that this process may use.
    load: processes that wanted a core, on average over the last minute; None where the system does not say.
    """
    device = jax.devices()[0]
    return {
        "hmcvae": hmcvae.__version__,
        "jax": jax.__version__,
        **{name: _version(name) for name in (*PACKAGES, *packages)},
        "python": platform.python_version(),
        "platform": device.platform,
        "device": device.device_kind,
        "cpu": _cpu_model(),
        "num_cpus": num_cores(),
        "load": round(os.getloadavg()[0], 1) if hasattr(os, "getloadavg") else None,
    }


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "not installed"


def _cpu_model() -> str:
    path = Path("/proc/cpuinfo")
    models = re.findall(r"model name\s*: (.*)", path.read_text()) if path.exists() else []
    return models[0] if models else platform.processor() or platform.machine()
