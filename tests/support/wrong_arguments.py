"""Things that are not of the kind that is wanted, and what the message says of them: run by `test_wrong_arguments` in
a process of its own, since the other tests check annotations at run time, and users do not."""

import json
import pickle
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import optax

import hmcvae
from hmcvae import annealing, bounds, data, likelihoods, metrics, posteriors, priors, solvers, training
from hmcvae.samplers.draws import concatenate
from tests.support.weights import PARAMS, VAE, X

KEY, STARTS = jax.random.key(0), jnp.zeros((4, 3)) + 0.1
IMAGES = np.array([[0, 1, 0], [1, 1, 0], [1, 0, 0], [0, 1, 1]], np.uint8)


class Table:
    """As pandas' and polars' are: with a shape and columns, and no array."""

    shape = (4, 3)

    def __iter__(self):
        return iter("abc")

    def to_numpy(self):
        return np.ones(self.shape)


def normal(z):
    return -0.5 * jnp.sum(z**2)


def net(likelihood=None):
    """A linear model of three pixels."""
    return hmcvae.VAE(
        lambda p, x: (p["e"] * x[:2], jnp.zeros(2), x),
        lambda p, z: p["d"] @ z,
        likelihoods.bernoulli() if likelihood is None else likelihood,
        2,
    )


NET_PARAMS = {"e": jnp.ones(()), "d": jnp.ones((3, 2)) * jnp.array([[1.0, -1.0]])}


def fit(bound=None, params=None, images=IMAGES, **changes):
    bound = bounds.elbo(net()) if bound is None else bound
    if params is None:
        params = {"vae": NET_PARAMS, "bound": bound.init(KEY)}
    settings = {
        "optimizer": optax.adam(1e-3),
        "preprocess": training.Pixels(1),
        "num_epochs": 2,
        "batch_size": 2,
    }
    return list(training.fit(bound, params, images, **settings | changes))


def run(**changes):
    algorithm = hmcvae.hmc(normal, 0.3, 2)
    arguments = {"algorithm": algorithm, "starts": STARTS, "num_samples": 20} | changes
    return hmcvae.sample(KEY, arguments.pop("algorithm"), arguments.pop("starts"), **arguments)


def metric_left_behind():
    """A metric of a lambda, after its samples have been to a file and back."""
    algorithm = hmcvae.rmhmc(normal, 0.3, 2, metrics.softabs(lambda z: normal(z), 1.0))
    found = pickle.loads(pickle.dumps(run(algorithm=algorithm))).adaptation
    return run(algorithm=algorithm._replace(metric=found.metric))


CASES = {
    "no algorithm": (lambda: run(algorithm=None), "algorithm must have init and step, .* got None"),
    "uncalled": (
        lambda: run(algorithm=hmcvae.hmc),
        r"as what hmcvae.nuts\(logdensity_fn, step_size\) returns, got the function hmc",
    ),
    "a density": (
        lambda: run(algorithm=normal),
        "algorithm must have init and step, .* got the function normal",
    ),
    "no density": (lambda: hmcvae.hmc(3, 0.1, 5), "logdensity_fn must be a function, .* got 3"),
    "no density, mmala": (
        lambda: hmcvae.mmala(3, 0.1, metrics.identity()),
        "logdensity_fn must be a function",
    ),
    "no density, nuts": (lambda: hmcvae.nuts(3, 0.1), "logdensity_fn must be a function, .* got 3"),
    "a step, nuts": (
        lambda: hmcvae.nuts(normal, 0.1, integrator=hmcvae.integrators.leapfrog(normal, metrics.identity())),
        "integrator must build a step, .* got a step",
    ),
    "no steps": (lambda: hmcvae.hmc(normal, 0.1, lambda key: jnp.int32(0)), "must be at least 1, got 0"),
    "some without steps": (
        lambda: hmcvae.hmc(normal, 0.1, lambda key: jax.random.randint(key, (), -1, 5)),
        "num_integration_steps.rng_key. must be at least 1, got -1",
    ),
    "a flag": (
        lambda: hmcvae.hmc(normal, 0.1, 5, check_reversibility="no"),
        "must be True or False, got 'no'",
    ),
    "metric left behind": (metric_left_behind, "left behind when the samples were pickled: it was SoftAbs"),
    "no path": (lambda: hmcvae.load_samples(3), "folder must be a path, got 3"),
    "draws": (lambda: hmcvae.diagnose(run().position), "diagnose takes Samples, .* got"),
    "no draws": (lambda: hmcvae.diagnose(None), "diagnose takes Samples, .* got NoneType"),
    "other chains": (
        lambda: concatenate(run(), run(starts=STARTS[:2])),
        "of the same chains, got 4 chains and 2 chains$",
    ),
    "other arrays": (
        lambda: concatenate(run(), run(starts=STARTS[:, :2])),
        r"same arrays .*\(4, 3\).*\(4, 2\)",
    ),
    "negative definite": (
        lambda: run(algorithm=hmcvae.rmhmc(normal, 0.3, 2, metrics.from_tensor(lambda z: -jnp.eye(3)))),
        "metric must be positive definite at the position",
    ),
    "definite at some starts": (
        lambda: run(
            algorithm=hmcvae.rmhmc(normal, 0.3, 2, metrics.from_tensor(lambda z: 1 - z**2)),
            starts=STARTS.at[2].set(2.0),
        ),
        r"positive definite at the initial position, it is not in chains \[2\]",
    ),
    "binarize": (lambda: training.Pixels(1, "no"), "binarize must be True or False, got 'no'"),
    "binarize None": (lambda: training.Pixels(1, None), "binarize must be True or False, got None"),
    "a list of images": (lambda: fit(images=IMAGES.tolist()), "training data as arrays .* got list"),
    "a table": (lambda: fit(images=Table()), r"as arrays .* got Table; its to_numpy\(\) makes one"),
    "batches of numbers": (lambda: fit(images=range(3)), "training data as an array .* got int"),
    "no images": (lambda: fit(images=None), "a pytree of arrays .* or an iterable of batches, got NoneType"),
    "a list for validation": (lambda: fit(validation=IMAGES.tolist()), "validation data as .* got int"),
    "arrays of two lengths": (
        lambda: fit(images={"a": IMAGES, "b": IMAGES[:1]}),
        "training data of one length, got arrays of ",
    ),
    "two arrays of pixels": (lambda: fit(images=(IMAGES, IMAGES)), "Pixels takes one array of images, got 2"),
    "an iterator without a length": (lambda: fit(images=iter([IMAGES])), "needs steps_per_epoch, got None"),
    "steps of an array": (lambda: fit(steps_per_epoch=3), "is for an iterable of batches, got 3"),
    "no preprocess": (lambda: fit(preprocess=None), "preprocess must be a function .* got None"),
    "no optimizer": (lambda: fit(optimizer=0.1), "optimizer must be one of Optax's, .* got 0.1"),
    "too few batches": (
        lambda: fit(images=iter([IMAGES]), steps_per_epoch=3),
        "the data ended in epoch 1, after 1 of 3 batches",
    ),
    "a model for a bound": (
        lambda: fit(net(), {"vae": NET_PARAMS, "bound": {}}),
        "such as bounds.hvi.vae., got VAE",
    ),
    "a model for a bound, of an iterator": (
        lambda: fit(net(), {"vae": NET_PARAMS, "bound": {}}, iter([IMAGES]), steps_per_epoch=1),
        "such as bounds.hvi.vae., got VAE",
    ),
    "another bound's parameters": (
        lambda: fit(bounds.hvi(net()), {"vae": NET_PARAMS, "bound": bounds.elbo(net()).init(KEY)}),
        "made by the init of the bound that is trained, hvi",
    ),
    "no prior": (
        lambda: hmcvae.VAE(max, max, likelihoods.bernoulli(), prior="normal"),
        "prior must be one of .* got 'normal'",
    ),
    "uncalled prior": (
        lambda: hmcvae.VAE(max, max, likelihoods.bernoulli(), prior=hmcvae.priors.standard_normal),
        "the function standard_normal, which was not called",
    ),
    "a prior without a density": (
        lambda: hmcvae.priors.Prior(None, max, max),
        "log_prob of a prior must be a function, got None",
    ),
    "a prior's moments": (
        lambda: hmcvae.priors.Prior(max, max, max, 3),
        "diagonal of a prior must be a function or None, got 3",
    ),
    "a prior of nothing": (lambda: hmcvae.priors.gaussian(None), "get must be a function"),
    "no likelihood": (lambda: net("bernoulli"), "likelihood must be one of .* got 'bernoulli'"),
    "an uncalled likelihood": (
        lambda: net(likelihoods.bernoulli),
        "the function bernoulli, which was not called",
    ),
    "a scale that is a number": (
        lambda: fit(
            bounds.elbo(
                hmcvae.VAE(lambda p, x: (x[:2], 0.0, x), lambda p, z: p["d"] @ z, likelihoods.bernoulli(), 2)
            )
        ),
        "encode must return log_scale as an array",
    ),
    "one array for a learned scale": (
        lambda: fit(bounds.elbo(net(likelihoods.gaussian()))),
        r"the decoder's outputs are the pair \(mean, log scale\)",
    ),
    "a decoder of nothing": (
        lambda: fit(bounds.elbo(hmcvae.VAE(net().encode, lambda p, z: None, likelihoods.bernoulli(), 2))),
        "decode must return arrays, got None",
    ),
    "a bound's parameters": (
        lambda: annealing.ais(VAE, {"vae": PARAMS, "bound": {}}, KEY, X[None], num_temperatures=5),
        "params are those of the VAE",
    ),
    "a seed for a key": (
        lambda: bounds.elbo(VAE)({"vae": PARAMS, "bound": {}}, 0, X),
        "rng_key must be one key, .* got 0",
    ),
    "a folder": (lambda: data.load("mnist", data_dir=5), "data_dir to be a path, got 5"),
    "NaN pixels": (
        lambda: fit(images=np.where(IMAGES > 0, np.nan, 0.0).astype(np.float32)),
        "got NaN in 6 of 12",
    ),
    "a posterior that was not called": (
        lambda: bounds.elbo(VAE, posterior=posteriors.mean_field),
        "posterior must be .* got the function mean_field, which was not called",
    ),
    "a function for a posterior": (
        lambda: posteriors.distilled(posteriors.mean_field),
        "distilled needs one of hmcvae.posteriors, got <function",
    ),
    "no posterior": (
        lambda: bounds.hvi(VAE, posterior=3),
        "posterior must be one of hmcvae.posteriors, .* got 3",
    ),
    "flags of a posterior": (
        lambda: posteriors.gauss_newton(posteriors.mean_field(whitened=True), fresh="yes"),
        "fresh must be True or False",
    ),
    "no likelihood to mask": (
        lambda: likelihoods.masked(likelihoods.bernoulli),
        "masked needs one of hmcvae.likelihoods, such as bernoulli",
    ),
    "a number for a flag of a VAE": (
        lambda: hmcvae.VAE(VAE.encode, VAE.decode, VAE.likelihood, 2, is_conditional=2),
        "is_conditional must be True or False, got 2",
    ),
    "components that are no function": (
        lambda: priors.mixture(IMAGES),
        "get must be a function, params -> .logits",
    ),
    "pseudo-inputs that are no function": (
        lambda: priors.vamp(VAE.encode, None),
        "get must be a function, params -> .pseudo-inputs",
    ),
    "no encoder for pseudo-inputs": (
        lambda: priors.vamp(None, len),
        "encode must be a function",
    ),
    "a number for a mesh": (
        lambda: fit(mesh=8),
        "mesh must be a jax.sharding.Mesh, .* got 8",
    ),
    "parameters to share without devices": (
        lambda: fit(shard_params=True),
        "shard_params needs a mesh of devices, got None",
    ),
    "a number for sharing": (
        lambda: fit(shard_params=1),
        "shard_params must be True or False, got 1",
    ),
    "a vector for bands": (
        lambda: metrics.banded(np.ones(3)),
        r"bands must have shape \[b \+ 1, d\] with b < d, got shape \(3,\)",
    ),
    "blocks of nothing": (
        lambda: metrics.hierarchical(None),
        "blocks must be the number of each coordinate's block, .* got None",
    ),
    "a mass function that is a number": (
        lambda: metrics.hierarchical([0, 1], 2.0),
        "mass_fn must be a function z1 -> masses of the next block, got 2.0",
    ),
    "another metric for the explicit leapfrog": (
        lambda: hmcvae.integrators.hierarchical_leapfrog(normal, metrics.diagonal(jnp.ones(3))),
        "hierarchical_leapfrog needs a metric of metrics.hierarchical, got Diagonal",
    ),
    "a mass model that is a function": (
        lambda: hmcvae.transitions.hierarchical(2, mass=jnp.exp),
        "mass must be a MassModel, of init and apply, or None, got",
    ),
    "numbers of blocks that are no tree": (
        lambda: metrics.block_numbers({"a": jnp.ones(2)}, {"b": 0}),
        "blocks must be a pytree of block numbers that fits the position",
    ),
    "slopes of a vector": (
        lambda: metrics.log_linear(jnp.ones(2), jnp.ones(2)),
        r"slopes must have shape \(2, d1\), got \(2,\)",
    ),
    "flags of a solver": (
        lambda: solvers.fixed_point(accelerate=1),
        "accelerate must be True or False, got 1",
    ),
}


def main() -> None:
    """Print what came of every case, a line each: its name, the kind of error, the message."""
    warnings.simplefilter("ignore")
    for name, (make, _) in CASES.items():
        kind, message = "none", ""
        try:
            make()
        except Exception as error:
            kind, message = type(error).__name__, str(error)
        print(json.dumps([name, kind, message]))


if __name__ == "__main__":
    main()
