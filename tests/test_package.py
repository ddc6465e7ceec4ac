"""The package as a whole: what it imports, which layer may use which, and its public names and contract."""

import ast
import importlib
import subprocess
import sys
import tomllib
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import hmcvae
from hmcvae.types import Factor, Metric
from tests.support.paths import REPOSITORY

PACKAGE = REPOSITORY / "hmcvae"

# Which modules of the package a module may import; each line uses lines above it alone. Samplers know nothing of
# VAEs, and the bounds use integrators and metrics, never the kernels.
BASE = {"types", "_checks", "_numerics", "_random", "_ravel", "_sharding", "solvers"}
MAY_IMPORT = {
    "types": set(),
    "_checks": set(),
    "_threads": set(),
    "_numerics": {"types"},
    "_programs": set(),
    "_random": {"types"},
    "_ravel": {"types"},
    "_sharding": {"types", "_checks"},
    "solvers": {"types", "_checks", "_numerics", "_sharding"},
    "metrics": BASE,
    "geodesics": {"types", "_checks"},
    "integrators": BASE | {"metrics"},
    "samplers": BASE | {"metrics", "integrators"},
    "likelihoods": BASE,
    "priors": BASE,
    "vae": BASE | {"likelihoods", "priors"},
    "posteriors": BASE | {"metrics", "priors", "vae"},
    "transitions": BASE | {"metrics", "integrators", "priors", "vae", "posteriors"},
    "bounds": BASE | {"metrics", "integrators", "likelihoods", "vae", "transitions", "posteriors"},
    "annealing": BASE | {"_programs", "metrics", "integrators", "likelihoods", "vae", "posteriors"},
    "evaluation": BASE | {"_programs", "likelihoods", "vae", "bounds"},
    "networks": BASE | {"likelihoods", "vae", "transitions"},
    "training": BASE | {"likelihoods", "bounds"},
    "data": set(),
}
# Libraries besides Python's own, NumPy, JAX and jaxtyping, and the modules that may import them.
LIBRARIES = {
    "networks": {"flax"},
    "training": {"optax", "orbax"},
    "samplers": {"tqdm", "arviz"},
}
EVERYWHERE = {"jax", "jaxtyping", "numpy"} | set(sys.stdlib_module_names)


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
    names = {"tqdm", "flax", "optax", "orbax", "arviz", "matplotlib", "tyro", "xarray", "sklearn", "chex"}

    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in self.names:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Blocker())
import hmcvae, jax, jax.numpy as jnp

algorithm = hmcvae.hmc(lambda z: -0.5 * jnp.sum(z**2), 0.5, 2)
samples = hmcvae.sample(jax.random.key(0), algorithm, jnp.ones((2, 3)), num_samples=10)
assert samples.shape == (2, 10, 3)
calls = {
    "tqdm": lambda: hmcvae.sample(jax.random.key(0), algorithm, jnp.ones((2, 3)), num_samples=3, progress=True),
    "ArviZ": lambda: hmcvae.diagnose(samples),
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


# The public contract: one walk over all that users and independent checks rely on.

D = 3
MASS = np.array([[2.0, 0.3, 0.0], [0.3, 1.0, 0.2], [0.0, 0.2, 0.5]])
METRICS = {
    "identity": (hmcvae.metrics.identity, np.eye(D)),
    "diagonal": (lambda: hmcvae.metrics.diagonal(jnp.array([2.0, 1.0, 0.5])), np.diag([2.0, 1.0, 0.5])),
    "dense": (lambda: hmcvae.metrics.dense(jnp.array(MASS)), MASS),
}


def logdensity_fn(z):
    return -0.5 * jnp.sum(z**2)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64])
@pytest.mark.parametrize("name", METRICS)
def test_contract_of_metrics(name, dtype):
    """Every method under one jit, against the matrix itself."""
    make, G = METRICS[name]
    metric = make()
    assert isinstance(metric, Metric)
    assert metric.is_position_dependent is False
    z, v = jnp.arange(3.0, dtype=dtype), jnp.array([0.3, -1.0, 2.0], dtype)
    V = jnp.stack([v, z], axis=1)

    @jax.jit
    def walk(z, v, V):
        factor = metric.factor(z)
        assert isinstance(factor, Factor)
        return {
            "tensor": metric.tensor(z),
            "matvec": metric.matvec(z, v),
            "quadratic_form": metric.quadratic_form(z, v),
            "quadratic_form of two": metric.quadratic_form(z, V),
            "solve": factor.solve(v),
            "sqrt": factor.sqrt_solve(factor.sqrt_matvec(v)),
            "covariance": factor.sqrt_matvec(factor.sqrt_matvec(jnp.eye(D, dtype=dtype)).T),
            "log_det": factor.log_det,
            "sample_momentum": metric.sample_momentum(jax.random.key(0), z) * 0,
            "log_prob_momentum": metric.log_prob_momentum(v, z),
            "kinetic_energy": metric.kinetic_energy(v, z),
        }

    v64, V64, log_det = np.asarray(v, np.float64), np.asarray(V, np.float64), np.linalg.slogdet(G)[1]
    energy = 0.5 * v64 @ np.linalg.solve(G, v64) + 0.5 * log_det
    expected = {
        "tensor": G,
        "matvec": G @ v64,
        "quadratic_form": v64 @ G @ v64,
        "quadratic_form of two": np.trace(V64.T @ G @ V64),
        "solve": np.linalg.solve(G, v64),
        "sqrt": v64,
        "covariance": G,
        "log_det": log_det,
        "sample_momentum": np.zeros(D),
        "log_prob_momentum": -energy - 0.5 * D * np.log(2 * np.pi),
        "kinetic_energy": energy,
    }
    for key, value in walk(z, v, V).items():
        assert value.dtype == dtype, key
        np.testing.assert_allclose(value, expected[key], rtol=2e-5, atol=1e-6, err_msg=key)


def test_contract_of_integrators():
    metric = hmcvae.metrics.diagonal(jnp.array([1.0, 2.0], jnp.float32))
    z, v = jnp.array([1.0, 0.0], jnp.float32), jnp.array([0.0, 1.0], jnp.float32)

    @jax.jit
    def walk(z, v, step_size):
        state = hmcvae.integrators.init(logdensity_fn, metric, z, v)
        step = hmcvae.integrators.leapfrog(logdensity_fn, metric)
        once, _ = step(state, step_size)
        return once, hmcvae.integrators.integrate(step, state, step_size, num_steps=1)

    once, (state, info) = walk(z, v, 0.1)
    assert isinstance(state, hmcvae.integrators.IntegratorState)
    assert (state.position.shape, state.momentum.shape, state.logdensity.shape) == ((2,), (2,), ())
    np.testing.assert_allclose(state.logdensity_grad, -state.position, rtol=1e-6)
    np.testing.assert_allclose(once.position, state.position, rtol=1e-6)
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(state))
    assert isinstance(info, hmcvae.solvers.SolverInfo)
    assert (bool(info.converged), int(info.num_iterations), float(info.residual)) == (True, 0, 0.0)


def test_contract_of_kernels_and_sampling():
    """Positions may be any pytree; the number of steps may be drawn anew."""
    steps = hmcvae.uniform_steps(1, 3)

    def of_tree(position):
        return logdensity_fn(position["a"]) + logdensity_fn(position["b"])

    algorithm = hmcvae.hmc(of_tree, 0.3, steps, metric=hmcvae.metrics.identity())
    position = {"a": jnp.ones(2, jnp.float32), "b": jnp.zeros((), jnp.float32)}
    state, info = jax.jit(algorithm.step)(jax.random.PRNGKey(0), algorithm.init(position))
    assert jax.tree.structure(state.position) == jax.tree.structure(position)
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(state))
    assert 0 <= float(info.acceptance_rate) <= 1
    assert 1 <= int(info.num_integration_steps) <= 3
    for name in ("is_accepted", "is_divergent", "energy", "solver", "reversibility_error"):
        assert hasattr(info, name), name
    starts = {"a": jnp.zeros((2, 2)), "b": jnp.zeros(2)}
    samples = hmcvae.sample(jax.random.key(1), algorithm, starts, num_samples=4, num_warmup=0)
    assert jax.tree.map(jnp.shape, samples.position) == {"a": (2, 4, 2), "b": (2, 4)}


@pytest.mark.parametrize("likelihood", ["bernoulli", "gaussian", "discretised_logistic"])
def test_contract_of_the_vae_and_its_bounds(likelihood):
    """Plain functions, float32, every bound and likelihood: shapes and dtypes by abstract evaluation."""
    likelihood = getattr(hmcvae.likelihoods, likelihood)()

    def decode(params, z):
        mean = params["w"] @ z
        return mean if likelihood.num_outputs == 1 else (mean, 0 * mean)

    vae = hmcvae.VAE(encode=lambda params, x: (x[:2], -x[:2], x), decode=decode, likelihood=likelihood)
    bounds = hmcvae.bounds
    made = [
        bounds.elbo(vae),
        bounds.elbo(vae, kl="analytic"),
        bounds.iwae(vae, num_samples=3),
        bounds.hvi(vae, reverse=lambda params, features, z: (0 * z, 0 * z), num_transitions=1, num_steps=4),
        bounds.importance_weighted(bounds.hvi(vae), 2),
        bounds.markov_chain(vae, hmcvae.transitions.hamiltonian(None), 2),
    ]
    posteriors = hmcvae.posteriors
    full = posteriors.full_covariance(3, 2)
    for posterior in (
        posteriors.mean_field(),
        posteriors.mean_field(whitened=True),
        full,
        posteriors.gauss_newton(posteriors.fisher(2), num_steps=2, fresh=True),
        posteriors.distilled(posteriors.low_rank(full, 3, 2, 1), 0.5),
    ):
        made += [
            bounds.elbo(vae, posterior=posterior),
            bounds.elbo(vae, posterior=posterior, kl="analytic"),
            bounds.hvi(vae, posterior=posterior, num_steps=2),
            bounds.rhvi(vae, posterior=posterior),
            bounds.markov_chain(vae, hmcvae.transitions.hamiltonian(2), posterior=posterior),
        ]
    xs = jax.ShapeDtypeStruct((5, 3), jnp.float32)

    def loss_fn(params, bound, xs):
        keys = jax.random.split(jax.random.key(0), len(xs))
        log_weights, info = jax.vmap(bound, (None, 0, 0))(params, keys, xs)
        assert log_weights.shape == (5,)
        assert info.log_likelihood.shape[0] == info.position.shape[0] == 5
        return -jnp.mean(log_weights)

    with pytest.raises(ValueError, match=r"params must be .* got \['w'\]"):
        made[0]({"w": jnp.zeros((3, 2))}, jax.random.key(0), jnp.zeros(3))
    for bound in made:
        vae_params = {"w": jax.ShapeDtypeStruct((3, 2), jnp.float32)}
        params = {"vae": vae_params, "bound": jax.eval_shape(bound.init, jax.random.key(0))}
        loss, gradients = jax.eval_shape(
            lambda p, x, b=bound: jax.value_and_grad(loss_fn)(p, b, x), params, xs
        )
        assert (loss.shape, loss.dtype) == ((), jnp.float32), bound.name
        assert jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), gradients) == jax.tree.map(
            lambda leaf: (leaf.shape, leaf.dtype), params
        )


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
