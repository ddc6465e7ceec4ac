"""The package as a whole: what it imports, which layer may use which, and its public names."""

import ast
import importlib
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import hmcvae
from tests.support.paths import REPOSITORY

PACKAGE = REPOSITORY / "hmcvae"

# Which modules of the package a module may import; each line uses lines above it alone. Samplers know nothing of
# VAEs, and the bounds use integrators and metrics, never the kernels.
BASE = {
    "types",
    "_checks",
    "_digest",
    "_lockstep",
    "_numerics",
    "_paths",
    "_random",
    "_ravel",
    "_sharding",
    "solvers",
}
MAY_IMPORT = {
    "types": set(),
    "_checks": set(),
    "_digest": {"types"},
    "_threads": set(),
    "_numerics": {"types"},
    "_programs": set(),
    "_lockstep": {"types"},
    "_random": {"types"},
    "_paths": set(),
    "_ravel": {"types"},
    "_sharding": {"types", "_checks"},
    "solvers": {"types", "_checks", "_numerics", "_sharding"},
    "metrics": BASE,
    "geodesics": {"types", "_checks", "metrics"},
    "integrators": BASE | {"metrics"},
    "samplers": BASE | {"metrics", "integrators"},
    "_numpyro": set(),
    "_convolutions": set(),
    "_softplus": set(),
    "_bijections": BASE | {"_numpyro"},
    "transforms": BASE | {"_numpyro", "_bijections"},
    "interop": BASE | {"_numpyro", "_bijections"},
    "likelihoods": BASE | {"_softplus"},
    "priors": BASE,
    "vae": BASE | {"likelihoods", "priors"},
    "posteriors": BASE | {"metrics", "priors", "vae"},
    "transitions": BASE | {"metrics", "integrators", "priors", "vae", "posteriors"},
    "bounds": BASE | {"metrics", "integrators", "likelihoods", "vae", "transitions", "posteriors"},
    "annealing": BASE | {"_programs", "metrics", "integrators", "likelihoods", "vae", "posteriors"},
    "evaluation": BASE | {"_programs", "likelihoods", "vae", "bounds"},
    "networks": BASE | {"_convolutions", "_softplus", "likelihoods", "vae", "transitions"},
    "training": BASE | {"likelihoods", "bounds", "vae"},
    "saved": BASE | {"likelihoods", "vae", "posteriors", "annealing", "networks", "training"},
    "data": set(),
}
# Libraries besides Python's own, JAX with its NumPy and SciPy, and jaxtyping, and the modules that may import them.
LIBRARIES = {
    "networks": {"flax"},
    "training": {"optax", "orbax"},
    "samplers": {"tqdm", "arviz", "optax"},
    "saved": {"orbax"},
}
EVERYWHERE = {"jax", "jaxtyping", "numpy", "scipy"} | set(sys.stdlib_module_names)


def imports_of(path: Path) -> tuple[set[str], set[str]]:
    """(modules of the package, other top-level packages) that a file imports, anywhere in it."""
    own, others = set(), set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            source = "hmcvae" + (f".{node.module}" if node.module else "") if node.level else str(node.module)
            names = [f"{source}.{alias.name}" for alias in node.names] if source == "hmcvae" else [source]
        else:
            continue
        for name in names:
            top, _, rest = name.partition(".")
            (own if top == "hmcvae" else others).add(rest.partition(".")[0] if top == "hmcvae" else top)
    return own, others


def test_the_table_of_layers_has_every_module_and_no_circle():
    folders = {path.parent.name for path in PACKAGE.glob("*/__init__.py")}
    assert {path.stem for path in PACKAGE.glob("*.py")} - {"__init__"} | folders == set(MAY_IMPORT)
    seen = set()
    for module, allowed in MAY_IMPORT.items():
        assert allowed <= seen, f"{module} uses what is below it in the table"
        seen.add(module)


@pytest.mark.parametrize("module", MAY_IMPORT)
def test_modules_import_lower_layers_and_their_own_libraries_alone(module):
    paths = [path for path in (PACKAGE / f"{module}.py", *(PACKAGE / module).glob("*.py")) if path.exists()]
    found = [imports_of(path) for path in paths]
    own = set().union(*(own for own, _ in found))
    others = set().union(*(others for _, others in found))
    assert own - {module if len(paths) > 1 else ""} <= MAY_IMPORT[module]
    assert others <= EVERYWHERE | LIBRARIES.get(module, set())


def test_imports_are_found_in_every_form(tmp_path):
    path = tmp_path / "module.py"
    lines = [
        "import optax.tree",
        "def f():",
        "    from hmcvae import hmc as h, vae",
        "    import hmcvae.data",
    ]
    path.write_text(
        "\n".join([*lines, "from hmcvae.bounds import Bound", "from . import networks", "from .x import y"])
    )
    assert imports_of(path) == ({"hmc", "vae", "data", "bounds", "networks", "x"}, {"optax"})


def test_importing_the_package_is_light():
    heavy = (
        "flax",
        "optax",
        "orbax",
        "matplotlib",
        "sklearn",
        "tensorflow",
        "tensorflow_datasets",
        "tyro",
        "arviz",
        "numpyro",
    )
    code = f"import sys, hmcvae; print([name for name in {heavy} if name in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, timeout=300, check=True
    )
    assert done.stdout.strip() == "[]"


def test_importing_and_sampling_need_jax_and_jaxtyping_alone():
    """With every other library out of reach; what needs one says which."""
    code = """
import sys

class Blocker:
    names = {"tqdm", "flax", "optax", "orbax", "arviz", "matplotlib", "tyro", "xarray", "sklearn", "chex", "numpyro"}

    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in self.names:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Blocker())
import hmcvae, jax, jax.numpy as jnp

algorithm = hmcvae.hmc(lambda z: -0.5 * jnp.sum(z**2), 0.5, 2)
samples = hmcvae.sample(jax.random.key(0), algorithm, jnp.ones((2, 3)), num_samples=10)
assert samples.shape == (2, 10, 3)
assert hmcvae.diagnose(samples).ess_bulk.shape == (3,)
calls = {
    "tqdm": lambda: hmcvae.sample(jax.random.key(0), algorithm, jnp.ones((2, 3)), num_samples=3, progress=True),
    "ArviZ": lambda: hmcvae.to_arviz(samples),
    "NumPyro": lambda: hmcvae.transforms.positive(),
    "NumPyro:": lambda: hmcvae.interop.numpyro_model(lambda: None),
    "optax": lambda: hmcvae.samplers.find_start(lambda z: -0.5 * jnp.sum(z**2), jnp.ones((2, 3))),
}
for name, call in calls.items():
    try:
        call()
    except ImportError as error:
        assert f"needs {name}" in str(error), error
    else:
        raise AssertionError(name)
"""
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stderr[-2000:]


def test_public_names_are_listed_and_exist():
    assert isinstance(hmcvae.__all__, list)
    assert len(set(hmcvae.__all__)) == len(hmcvae.__all__)
    for name in hmcvae.__all__:
        assert getattr(hmcvae, name) is not None, name
    contract = {
        "metrics",
        "integrators",
        "hmc",
        "rmhmc",
        "nuts",
        "diagnose",
        "uniform_steps",
        "sample",
        "VAE",
        "bounds",
        "likelihoods",
        "posteriors",
        "samplers",
        "solvers",
    }
    assert contract <= set(hmcvae.__all__)
    tree = ast.parse((PACKAGE / "__init__.py").read_text())
    imported = {a.asname or a.name for n in tree.body if isinstance(n, ast.ImportFrom) for a in n.names}
    assert imported - {"spare_threads"} == set(hmcvae.__all__)


def test_every_module_says_what_it_is_for():
    for module in MAY_IMPORT:
        assert importlib.import_module(f"hmcvae.{module}").__doc__


def test_version_is_the_projects_and_types_are_shipped():
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())
    assert hmcvae.__version__ == project["project"]["version"]
    assert (PACKAGE / "py.typed").is_file()


def test_two_factorisations_at_once_end_on_any_number_of_cores():
    """Without spare threads jaxlib waits for itself on two cores, for ever."""
    code = """
import os
os.environ.pop("NPROC", None)
import hmcvae, jax, jax.numpy as jnp
jax.config.update("jax_enable_x64", True)
A = jax.random.normal(jax.random.key(0), (500, 20, 20))
S, ones = A @ A.mT + jnp.eye(20), jnp.ones((500, 20, 1))
both = jax.jit(lambda A, S: (jnp.linalg.eigh(S)[0].sum(), jnp.linalg.solve(A, ones).sum()))
for _ in range(200):
    jax.block_until_ready(both(A, S))
"""
    subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, check=True, timeout=600)
