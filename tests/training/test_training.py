"""Training: what an epoch does with its images and steps, when a run stops, and that a resumed run is the same run."""

import dataclasses
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import hmcvae
from hmcvae import _epoch, bounds, data, networks, training
from hmcvae.bounds import Bound, BoundInfo
from hmcvae.checkpoints import Checkpoints
from hmcvae.solvers import exact_info
from hmcvae.training import NotFiniteError, Options, fit, init_state, make_epoch, make_optimizer
from hmcvae.transitions import Target

LATENT = 4
NO_IMAGES = np.zeros((0, 2, 2, 1), np.uint8)


def of_log_weight(log_weight_fn, is_all_cost: bool = False) -> Bound:
    """A bound that is a plain function `(params["vae"], x, kl_weight) -> log_weight`: steps can then be worked out by
    hand. All of the log weight is log-likelihood, or all of it is "KL" cost."""

    def draw(params, rng_key, target, kl_weight):
        del rng_key
        x = target.example
        log_weight = log_weight_fn(params["vae"], x, kl_weight).astype(x.dtype)
        zero, z = jnp.zeros_like(log_weight), jnp.zeros(1, x.dtype)
        log_likelihood = zero if is_all_cost else log_weight
        return log_weight, BoundInfo(log_weight, log_likelihood, z, z, zero, exact_info(x.dtype))

    vae = hmcvae.VAE(lambda params, x: (x, x, x), lambda params, z: z, hmcvae.likelihoods.bernoulli())
    return Bound(vae, lambda _: {}, lambda params, key, x: Target(None, x, None), draw, "made up")


def plain_images(*levels: int) -> np.ndarray:
    """One 2 × 2 image of each level."""
    return np.broadcast_to(np.array(levels, np.uint8)[:, None, None, None], (len(levels), 2, 2, 1)).copy()


P = {"vae": {"p": jnp.zeros((), jnp.float32)}, "bound": {}}
NOTHING = {"posterior": {}}  # of a plain ELBO


def run(
    bound, images, *, params=P, binarize=False, validation=NO_IMAGES, max_value=255, settings=None, **options
):
    """All (state, record) of a fit."""
    return list(
        fit(
            bound,
            params,
            images,
            Options(**options),
            max_value=max_value,
            binarize=binarize,
            validation=validation,
            **(settings or {}),
        )
    )


def one_epoch(bound, images, *, binarize=False, max_value=255, num_epochs=1, params=P, **options):
    """(states, step metrics) of `num_epochs` epochs of one compiled function."""
    options = Options(num_epochs=num_epochs, **options)
    optimizer = make_optimizer(options, len(images) // options.batch_size)
    epoch = make_epoch(bound, optimizer, options, max_value, binarize)
    state, states, metrics = init_state(params, optimizer, options.seed), [], []
    for _ in range(num_epochs):
        state, step_metrics = epoch(state, jnp.asarray(images))
        states.append(state)
        metrics.append(jax.tree.map(np.asarray, step_metrics))
    return states, metrics


def adam_state(state):
    """Adam's own, behind the clipping's."""
    return state.opt_state[1][0]


# A whole training: a linear VAE of the digits, every option at work.


def linear_vae() -> tuple[hmcvae.VAE, dict]:
    a, b = jax.random.split(jax.random.key(0))
    params = {
        "a": 0.05 * jax.random.normal(a, (LATENT, 64), jnp.float32),
        "b": 0.05 * jax.random.normal(b, (64, LATENT), jnp.float32),
        "c": jnp.zeros(64, jnp.float32),
        "s": 0.0,  # a Python number: weakly typed, unless init_state sees to it
    }

    def encode(p, x):
        return p["a"] @ x.reshape(-1), jnp.full(LATENT, p["s"], x.dtype), x.reshape(-1)[:1]

    def decode(p, z):
        return (p["b"] @ z + p["c"]).reshape(8, 8, 1)

    return hmcvae.VAE(encode, decode, hmcvae.likelihoods.bernoulli(), LATENT), {
        "vae": params,
        "bound": NOTHING,
    }


DIGITS = data.load("digits", num_validation=50)
ELBO, START = bounds.elbo(linear_vae()[0]), linear_vae()[1]
NUM_TRACES = {"evaluate": 0}
DIGITS_OPTIONS = Options(
    num_epochs=4,
    batch_size=40,
    learning_rate=0.02,
    schedule="cosine",
    clip_norm=20.0,
    kl_warmup_epochs=2,
    seed=3,
)


def _counted(*args):
    NUM_TRACES["evaluate"] += 1
    return ELBO.draw(*args)


COUNTED = dataclasses.replace(ELBO, draw=_counted)


def fit_digits(folder, **settings):
    return fit(
        COUNTED,
        START,
        DIGITS.train[:410],  # ten left over each epoch
        DIGITS_OPTIONS,
        max_value=DIGITS.max_value,
        binarize=True,
        validation=DIGITS.validation,
        checkpoints=Checkpoints(folder / "checkpoints"),
        best=Checkpoints(folder / "best", keep=1),
        **settings,
    )


@pytest.fixture(scope="module", autouse=True)
def compile_digits_once():
    """The digits' epoch and monitor are of one compilation for all runs of this file."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("make_epoch", "make_monitor"):
            make, made = getattr(training, name), {}

            def memoised(bound, *args, make=make, made=made, **settings):
                if bound is not COUNTED:
                    return make(bound, *args, **settings)
                if not made:
                    made[bound] = make(bound, *args)
                return made[bound]

            patch.setattr(training, name, memoised)
        yield


@pytest.fixture(scope="module")
def whole_run(tmp_path_factory):
    """(states, records, traces after each epoch) of four epochs in one go."""
    states, records, traces = [], [], []
    for state, record in fit_digits(tmp_path_factory.mktemp("whole")):
        states.append(state)
        records.append(record)
        traces.append(NUM_TRACES["evaluate"])
    return states, records, traces


def test_the_bound_goes_up(whole_run):
    _, records, _ = whole_run
    assert [record["epoch"] for record in records] == [1, 2, 3, 4]
    validation = [record["validation_bound"] for record in records]
    assert validation[-1] > validation[0] + 3
    assert -35 < validation[-1] < -15  # nats for 64 bits; they start at 64 log 2 = 44
    assert all(record["seconds"] > 0 and record["skipped_steps"] == 0 for record in records)


def test_an_epoch_is_compiled_once(whole_run):
    _, _, traces = whole_run
    assert traces[0] > 0
    assert traces == [traces[0]] * 4


def test_a_resumed_run_is_the_same_run_bit_for_bit(whole_run, tmp_path):
    states, records, _ = whole_run
    interrupted = fit_digits(tmp_path)
    next(interrupted), next(interrupted)
    interrupted.close()
    resumed = list(fit_digits(tmp_path, resume=True))
    assert [record["epoch"] for _, record in resumed] == [3, 4]
    for (state, record), expected, expected_record in zip(resumed, states[2:], records[2:], strict=True):
        assert record | {"seconds": 0} == expected_record | {"seconds": 0}
        jax.tree.map(np.testing.assert_array_equal, state, expected)
    assert not list(fit_digits(tmp_path, resume=True))  # nothing left to do
    again = fit_digits(tmp_path, resume=True, resume_epoch=3)
    jax.tree.map(np.testing.assert_array_equal, next(again)[0], states[3])


def test_the_best_state_is_kept_by_validation_bound(whole_run):
    states, records, _ = whole_run
    validation = [record["validation_bound"] for record in records]
    assert int(states[-1].best_epoch) == 1 + int(np.argmax(validation))
    assert float(states[-1].best_bound) == max(validation)


# What goes into a step.


def test_prepared_bits_have_the_pixels_probabilities():
    pixels = np.arange(17, dtype=np.uint8)[:, None, None, None]
    keys = jax.random.split(jax.random.key(0), 20_000)
    bits = np.asarray(jax.vmap(lambda key: training.prepare(key, jnp.asarray(pixels), 16, True))(keys))[
        ..., 0, 0, 0
    ]
    assert bits.dtype == np.float32
    assert set(np.unique(bits)) == {0.0, 1.0}
    p = np.arange(17) / 16
    assert np.all(np.abs(bits.mean(0) - p) <= 4 * np.sqrt(p * (1 - p) / len(keys)))
    grey = training.prepare(keys[0], jnp.asarray(pixels), 16, False)
    np.testing.assert_array_equal(np.asarray(grey)[:, 0, 0, 0], p.astype(np.float32))


def test_bits_are_drawn_anew_every_epoch_and_image():
    """Every image is the same even grey, and the bound is the share of ones in the batch."""
    bound = of_log_weight(lambda params, x, _: jnp.mean(x) + 0 * params["p"])
    images = np.full((8, 8, 8, 1), 128, np.uint8)
    _, metrics = one_epoch(bound, images, binarize=True, batch_size=2, num_epochs=2)
    shares = np.concatenate([m.bound for m in metrics])
    assert len(np.unique(shares)) > 4
    assert not np.array_equal(metrics[0].bound, metrics[1].bound)
    np.testing.assert_allclose(shares.mean(), 128 / 255, atol=4 * 0.5 / np.sqrt(2 * images.size))


def test_every_image_is_used_at_most_once_in_an_epoch_and_the_order_changes():
    """Image i weighs 2^i, so a sum of distinct images has as many ones, written in base 2, as there are images."""
    bound = of_log_weight(lambda params, x, _: 2.0 ** (255 * jnp.mean(x)).round() + 0 * params["p"])
    _, metrics = one_epoch(bound, plain_images(*range(11)), batch_size=3, num_epochs=4)
    epochs = [np.round(3 * np.asarray(m.bound, np.float64)).astype(int).tolist() for m in metrics]
    for batches in epochs:
        assert len(batches) == 3
        assert sum(batches).bit_count() == 9
    assert len({tuple(batches) for batches in epochs}) == 4
    assert len({sum(batches) for batches in epochs}) > 1  # what is left over changes, too


def test_kl_weight_rises_from_zero_to_one_over_the_warm_up():
    """The gradient is the weight, and the record is of the bound itself, which is p."""
    bound = of_log_weight(lambda params, x, kl_weight: kl_weight * params["p"], is_all_cost=True)
    images = plain_images(*range(8))
    _, metrics = one_epoch(bound, images, batch_size=2, kl_warmup_epochs=2, num_epochs=3, learning_rate=0.5)
    weights = np.concatenate([m.grad_norm for m in metrics])
    np.testing.assert_allclose(weights, np.minimum(1, np.arange(1, 13) / 8), rtol=1e-6)
    recorded = np.concatenate([m.bound for m in metrics])
    assert recorded[0] == 0
    assert 0.4 < recorded[1] < 0.6  # Adam's first step
    assert np.all(np.diff(recorded) > 0.3)
    _, metrics = one_epoch(bound, images, batch_size=2)
    np.testing.assert_array_equal(metrics[0].grad_norm, np.ones(4))


def test_the_record_of_a_k_sample_bound_is_that_bound():
    """Of three equal draws, the 3-sample log weight is that of each."""
    bound = bounds.importance_weighted(of_log_weight(lambda params, x, _: params["p"] + 7), 3)
    _, metrics = one_epoch(bound, plain_images(1, 2), batch_size=1, learning_rate=1e-9)
    np.testing.assert_allclose(metrics[0].bound, [7, 7], rtol=1e-6)


def test_gradients_are_clipped_and_counted():
    """The gradient of p · level is the level: 0.2 or 1, clipped at 0.5 where it is 1."""
    bound = of_log_weight(lambda params, x, _: params["p"] * jnp.mean(x))
    states, metrics = one_epoch(bound, plain_images(51, 51, 255), batch_size=1, clip_norm=0.5)
    np.testing.assert_allclose(np.sort(metrics[0].grad_norm), [0.2, 0.2, 1.0], rtol=1e-6)
    assert int(states[0].num_clipped) == 1
    clipped = np.minimum(metrics[0].grad_norm, 0.5)
    moment = 0.1 * np.sum(clipped * 0.9 ** np.arange(2, -1, -1))  # Adam's first moment
    np.testing.assert_allclose(adam_state(states[0]).mu["vae"]["p"], -moment, rtol=1e-5)


@pytest.mark.parametrize("schedule", ["constant", "cosine", "burda"])
@pytest.mark.parametrize(("num_epochs", "num_batches"), [(3280, 1), (10, 6)])
def test_learning_rates_follow_the_schedule(schedule, num_epochs, num_batches):
    """Of a constant gradient, Adam's step is the learning rate itself."""
    options = Options(num_epochs=num_epochs, learning_rate=0.3, schedule=schedule)
    optimizer = make_optimizer(options, num_batches)
    total, gradient = num_epochs * num_batches, jnp.ones(())

    def step(state, _):
        update, state = optimizer.update(gradient, state)
        return state, -update

    _, rates = jax.lax.scan(step, optimizer.init(gradient), length=total)
    t = np.arange(total)
    ends = np.cumsum(3 ** np.arange(8))[:-1]
    stage = np.sum(ends[:, None] * total <= t * 3280, axis=0)
    expected = {
        "constant": np.full(total, 0.3),
        "cosine": 0.15 * (1 + np.cos(np.pi * t / total)),
        "burda": 0.3 * 10 ** (-stage / 7),
    }[schedule]
    np.testing.assert_allclose(rates, expected, rtol=1e-4, atol=1e-7)
    assert schedule != "burda" or stage[-1] == 7


# When to stop, and what to skip.


@pytest.mark.parametrize(("warmup", "num_epochs"), [(0, 5), (2, 5), (4, 6)])
def test_early_stopping_keeps_the_best_state(tmp_path, warmup, num_epochs):
    """Training pushes p up by one an epoch; the validation bound is best at p = 3. The wait begins after warm-up."""
    bound = of_log_weight(
        lambda params, x, _: jnp.where(x.mean() > 0.5, params["p"], -((params["p"] - 3) ** 2))
    )
    best = Checkpoints(tmp_path / "best", keep=1)
    history = run(
        bound,
        plain_images(255, 255),
        validation=plain_images(0, 0, 0),
        settings={"best": best},
        num_epochs=50,
        batch_size=2,
        learning_rate=1.0,
        patience=2,
        kl_warmup_epochs=warmup,
    )
    expected = [-4, -1, 0, -1, -4, -9][:num_epochs]
    np.testing.assert_allclose([r["validation_bound"] for _, r in history], expected, atol=1e-4)
    last = history[-1][0]
    assert (int(last.epoch), int(last.best_epoch)) == (num_epochs, 3)
    kept = best.restore(last)
    assert int(kept.epoch) == 3
    np.testing.assert_allclose(kept.params["vae"]["p"], 3.0, atol=1e-5)


@pytest.mark.parametrize("kind", ["loss nan", "loss infinite", "gradient nan, loss finite"])
def test_steps_that_are_not_finite_are_skipped_and_counted(kind):
    """One image of four is bad: the other three steps of every epoch are taken, by the learning rate each."""
    bad = {
        "loss nan": lambda p: p * jnp.nan,
        "loss infinite": lambda p: p + jnp.inf,
        "gradient nan, loss finite": lambda p: jnp.sqrt(0 * p),
    }[kind]

    def log_weight_fn(params, x, _):
        is_good = x.mean() < 0.5
        # Only finite numbers may reach the gradient of the branch that is not taken.
        return jnp.where(is_good, params["p"], bad(jnp.where(is_good, 1.0, params["p"])))

    images = plain_images(0, 0, 0, 255)
    states, metrics = one_epoch(
        of_log_weight(log_weight_fn), images, batch_size=1, learning_rate=0.5, num_epochs=2
    )
    for epoch, (state, m) in enumerate(zip(states, metrics, strict=True), start=1):
        assert m.is_taken.sum() == 3
        assert np.isfinite(m.bound).sum() == (4 if kind.startswith("gradient") else 3)
        assert int(state.num_skipped) == epoch
        assert int(state.step) == 4 * epoch
        np.testing.assert_allclose(state.params["vae"]["p"], 1.5 * epoch, rtol=1e-4)
        assert int(adam_state(state).count) == 3 * epoch
        assert int(state.bad_run) == (0 if m.is_taken[-1] else 1)


def test_the_record_is_of_the_steps_taken():
    bound = of_log_weight(lambda params, x, _: jnp.where(x.mean() > 0.5, jnp.nan, params["p"] + 7))
    (_, record), (_, second) = run(
        bound, plain_images(0, 0, 0, 255), batch_size=1, num_epochs=2, learning_rate=1e-9
    )
    np.testing.assert_allclose(record["bound"], 7.0, rtol=1e-6)
    assert (record["skipped_steps"], second["skipped_steps"]) == (1, 2)


def test_too_many_bad_steps_stop_the_run_with_advice_and_keep_the_last_good_state(tmp_path):
    """All is well until p passes 1.5, at the third epoch."""
    bound = of_log_weight(lambda params, x, _: params["p"] * jnp.where(params["p"] > 1.5, jnp.nan, 1.0))
    checkpoints = Checkpoints(tmp_path)
    with pytest.raises(NotFiniteError, match="3 steps in a row up to epoch 5 .* learning_rate, clip_norm .5"):
        run(
            bound,
            plain_images(1, 2),
            num_epochs=9,
            batch_size=2,
            learning_rate=1.0,
            max_bad_steps=3,
            settings={"checkpoints": checkpoints},
        )
    like = init_state(P, make_optimizer(Options(), 1), 0)
    kept = checkpoints.restore(like)
    assert int(kept.num_skipped) == 2
    np.testing.assert_allclose(kept.params["vae"]["p"], 2.0, rtol=1e-5)


def falling_off(limit: float):
    """All is well until p, which rises by the learning rate a step, passes the limit."""
    return of_log_weight(lambda params, x, _: params["p"] * jnp.where(params["p"] > limit, jnp.nan, 1.0))


LIKE = init_state(P, make_optimizer(Options(), 1), 0)


@pytest.mark.parametrize("num_good", [0, 7])  # epochs of two steps before the fall
def test_the_last_good_checkpoint_outlives_a_blow_up(tmp_path, num_good):
    """However many epochs after it were saved too; and its epoch is the one that the message advises."""
    checkpoints = Checkpoints(tmp_path)
    with pytest.raises(NotFiniteError, match=f"of epoch {num_good}: go on .* resume_epoch={num_good}$"):
        run(
            falling_off(2 * num_good - 0.5),
            plain_images(1, 2),
            num_epochs=60,
            batch_size=1,
            learning_rate=1.0,
            max_bad_steps=20,
            settings={"checkpoints": checkpoints},
        )
    epochs = checkpoints.epochs()
    assert epochs[0] == num_good
    assert len(epochs) == 3
    good = checkpoints.restore(LIKE, num_good)
    assert int(good.num_skipped) == 0
    np.testing.assert_allclose(good.params["vae"]["p"], 2 * num_good, rtol=1e-5)


def test_a_state_from_before_the_first_step_is_kept(tmp_path):
    checkpoints = Checkpoints(tmp_path)
    bound = of_log_weight(lambda params, x, _: params["p"])
    epochs = fit(
        bound,
        P,
        plain_images(1, 2),
        Options(num_epochs=2, batch_size=2),
        max_value=255,
        binarize=False,
        validation=NO_IMAGES,
        checkpoints=checkpoints,
    )
    next(epochs)
    assert checkpoints.epochs() == [0, 1]
    jax.tree.map(np.testing.assert_array_equal, checkpoints.restore(LIKE, 0).params, P)


@pytest.mark.parametrize(("num_batches", "at_most"), [(600, 36), (601, 21), (61, 21)])
def test_a_run_that_goes_bad_ends_in_mid_epoch(num_batches, at_most):
    """Within max_bad_steps, and the rest of a piece of the epoch where these divide it."""
    images = np.repeat(plain_images(9), num_batches, axis=0)
    (state,), (metrics,) = one_epoch(falling_off(0.5), images, batch_size=1, learning_rate=1.0)
    assert 21 <= int(state.step) <= at_most
    assert int(state.bad_run) == int(state.step) - 1 == int(state.num_skipped)
    assert metrics.is_taken.shape == (num_batches,)
    assert metrics.is_taken.sum() == 1
    assert np.isnan(metrics.grad_norm[int(state.step) :]).all()
    with pytest.raises(NotFiniteError, match="steps in a row up to epoch 1 had"):
        run(falling_off(0.5), images, batch_size=1, learning_rate=1.0)


@pytest.mark.parametrize(("num_images", "num_epochs"), [(200, 1), (10, 40)])
def test_too_large_a_share_of_bad_steps_stops_the_run(num_images, num_epochs):
    """One image in three is bad: hardly ever twenty in a row, in one epoch of 200 steps or in forty of 10."""
    levels = [255 if i % 3 == 0 else 0 for i in range(num_images)]
    bound = of_log_weight(lambda params, x, _: jnp.where(x.mean() > 0.5, jnp.nan, params["p"]))
    images, settings = plain_images(*levels), {"batch_size": 1, "num_epochs": num_epochs}
    with pytest.raises(NotFiniteError, match=r"of \d+ steps .max_bad_share = 0.2. up to epoch"):
        run(bound, images, **settings)
    assert len(run(bound, images, max_bad_share=0.5, **settings)) == num_epochs


@pytest.mark.parametrize("num_batches", [4, 40, 41])
def test_an_update_that_makes_parameters_infinite_is_undone_and_counted(num_batches):
    """The gradient is 1 and finite throughout, and so is the loss; the optimizer's update is not, at one step."""
    bound = of_log_weight(lambda params, x, _: params["p"])

    def update(grads, count, params=None):
        return jax.tree.map(lambda g: jnp.where(count == 2, jnp.inf, -g), grads), count + 1

    optimizer = optax.GradientTransformation(lambda params: jnp.zeros((), jnp.int32), update)
    options = Options(batch_size=1, max_bad_steps=num_batches + 1)
    epoch = make_epoch(bound, optimizer, options, 255, False)
    state, metrics = epoch(init_state(P, optimizer, 0), jnp.asarray(plain_images(*range(num_batches))))
    assert np.all(np.isfinite(state.params["vae"]["p"]))
    assert 0 < int(state.num_skipped) == int(np.sum(~np.asarray(metrics.is_taken)))


def test_steps_in_pieces_are_those_of_one_loop():
    """Bit for bit, whatever a piece is: here 15, all 15 by themselves, or one."""
    images, bounds_ = DIGITS.train[:300], []
    for largest in (16, 7, 1):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(_epoch, "MAX_PIECE", largest)
            (state,), (metrics,) = one_epoch(
                ELBO, images, binarize=True, max_value=16, params=START, batch_size=20, learning_rate=0.02
            )
        bounds_.append((state, metrics))
    for other in bounds_[1:]:
        jax.tree.map(np.testing.assert_array_equal, other, bounds_[0])


@pytest.mark.slow
def test_digits_at_too_high_a_rate_keep_a_state_from_before(tmp_path):
    vae, init_params, num_features = networks.build_vae(
        (8, 8, 1), 8, hmcvae.likelihoods.bernoulli(), hidden=(20, 20)
    )
    bound = bounds.hvi(vae, reverse=networks.reverse_model(num_features, 8, 20), num_steps=4)
    params = {"vae": init_params(jax.random.key(0)), "bound": bound.init(jax.random.key(1))}
    params = jax.tree.map(lambda leaf: leaf.astype(jnp.float32), params)
    checkpoints = Checkpoints(tmp_path)
    options = {"num_epochs": 100, "batch_size": 100, "learning_rate": 3.0}
    with pytest.raises(NotFiniteError, match="the last good checkpoint is kept"):
        run(
            bound,
            DIGITS.train,
            params=params,
            binarize=True,
            max_value=16,
            settings={"checkpoints": checkpoints},
            **options,
        )
    good = checkpoints.last_good()
    optimizer = make_optimizer(Options(**options), len(DIGITS.train) // 100)
    kept = checkpoints.restore(init_state(params, optimizer, 0), good)
    value = training.make_monitor(bound, 16, True)(kept.params, jax.random.key(0), DIGITS.validation)
    assert np.isfinite(value)


def test_monitor_is_the_mean_bound_on_the_same_bits_every_time():
    """Batches of 4 of 10 images, each with bits and a draw of its own."""
    draw = of_log_weight(lambda params, x, _: params["p"] + jnp.mean(x)).draw

    def noisy(params, rng_key, target, kl_weight):
        log_weight, info = draw(params, rng_key, target, kl_weight)
        return log_weight + jax.random.normal(rng_key, (), log_weight.dtype), info

    bound = dataclasses.replace(of_log_weight(None), draw=noisy)
    images, key = jnp.asarray(plain_images(*range(0, 250, 25))), jax.random.key(1)
    monitor = training.make_monitor(bound, 255, True, batch_size=4)
    value = monitor(P, key, images)
    assert float(value) == float(monitor(P, key, images))
    assert float(value) != float(monitor(P, jax.random.key(2), images))
    pixel_key, draw_key = jax.random.split(key)
    x = training.prepare(pixel_key, images, 255, True)
    noise = jax.vmap(lambda k: jax.random.normal(k, (), x.dtype))(jax.random.split(draw_key, 10))
    np.testing.assert_allclose(value, x.mean() + noise.mean(), rtol=1e-5)


# What is refused.


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"images": NO_IMAGES}, "there must be images to train on, got an empty set"),
        ({"batch_size": 5}, "batch_size must be at most the number of training images, 4, got 5"),
        ({"patience": 3}, "patience = 3 needs validation images, got none"),
        ({"max_value": 16}, "expected training pixels of at most max_value = 16, got 255"),
        (
            {
                "max_value": 255,
                "images": plain_images(1, 2),
                "validation": plain_images(3),
                "settings": {"resume": True},
            },
            "resume needs checkpoints to start from, got None",
        ),
        (
            {"images": plain_images(1, 2), "validation": plain_images(3, 9), "max_value": 8},
            "expected validation pixels of at most max_value = 8, got 9",
        ),
    ],
)
def test_what_cannot_be_trained_on_is_refused(settings, message):
    arguments = {"images": plain_images(0, 1, 2, 255), "batch_size": 2} | settings
    with pytest.raises(ValueError, match=message):
        run(of_log_weight(lambda params, x, _: params["p"]), **arguments)


def with_likelihood(likelihood):
    return dataclasses.replace(
        of_log_weight(lambda params, x, _: params["p"]),
        vae=hmcvae.VAE(lambda params, x: (x, x, x), lambda params, z: z, likelihood),
    )


GREY = plain_images(0, 60, 128, 255)
UNIT = GREY.astype(np.float32) / 255
BAD_IMAGES = {
    "from -1 to 1": (2 * UNIT - 1, 1, "from 0 to max_value = 1, got values from -1.0 to 1.0"),
    "from -1 to 1, of 255": (2 * UNIT - 1, 255, "whole numbers 0 … max_value = 255 .uint8., got float32"),
    "int8 that was uint8": (GREY.astype(np.int8), 255, "at most max_value = 255, got int8, which cannot"),
    "int8 made int32": (
        GREY.astype(np.int8).astype(np.int32),
        255,
        "from 0 to max_value = 255, got values from -128",
    ),
    "divided twice": (UNIT / 255, 1, r"to use that range, got no pixel above 0.00392.* twice"),
    "divided, of 255": (
        UNIT,
        255,
        r"got float32; numbers that are in \[0, 1\] already are taken with max_value = 1",
    ),
    "divided as whole numbers": (GREY // 255, 255, "use the range 0 … max_value = 255, got 1 at most: bits"),
    "all black": (GREY * 0, 255, "use the range 0 … max_value = 255, got 0 at most"),
    "one NaN": (np.where(UNIT == 1, np.nan, UNIT), 1, r"from 0 to max_value = 1, got NaN in \d+ of"),
    "one infinity": (np.where(UNIT == 1, np.inf, UNIT), 1, "of at most max_value = 1, got inf"),
    "text": (GREY.astype(str), 255, "whole numbers 0 … max_value = 255"),
    "complex": (GREY.astype(complex), 255, "whole numbers 0 … max_value = 255"),
}


@pytest.mark.parametrize("name", BAD_IMAGES)
def test_images_out_of_range_are_refused_before_any_step(name):
    images, max_value, message = BAD_IMAGES[name]
    for likelihood in (hmcvae.likelihoods.bernoulli(), hmcvae.likelihoods.gaussian()):
        with pytest.raises(ValueError, match=message):
            run(with_likelihood(likelihood), images, max_value=max_value, batch_size=2)
        # A few images may be dark; and what is wrong for 255 alone may be right for bits.
        if name not in ("divided twice", "divided as whole numbers", "all black", "divided, of 255"):
            with pytest.raises(ValueError, match="validation pixels"):
                run(
                    with_likelihood(likelihood),
                    GREY * 0 + 1,
                    max_value=1,
                    batch_size=2,
                    validation=images,
                )


DOORS = {
    "prepare": lambda images, max_value: training.prepare(jax.random.key(0), images, max_value, False),
    "make_epoch": lambda images, max_value: one_epoch(ELBO_OF_X, images, max_value=max_value, batch_size=2),
    "make_monitor": lambda images, max_value: training.make_monitor(ELBO_OF_X, max_value, False)(
        P, jax.random.key(0), jnp.asarray(images)
    ),
}
ELBO_OF_X = of_log_weight(lambda params, x, _: params["p"] + x.mean())


@pytest.mark.parametrize("door", DOORS)
@pytest.mark.parametrize(
    "name", ["from -1 to 1", "int8 that was uint8", "int8 made int32", "divided, of 255", "one NaN"]
)
def test_images_out_of_range_come_in_by_no_door(door, name):
    images, max_value, message = BAD_IMAGES[name]
    with pytest.raises(ValueError, match=message.removeprefix("at most").removeprefix("from 0")):
        DOORS[door](images.astype(np.float32) if name == "one NaN" else images, max_value)
    DOORS[door](GREY, 255)


@pytest.mark.parametrize(
    ("images", "max_value"),
    [(GREY, 255), (GREY.astype(np.int64), 255), (GREY > 100, 1), (UNIT, 1), (UNIT.astype(np.float64), 1)],
)
def test_images_in_range_are_taken_in_any_dtype(images, max_value):
    run(
        with_likelihood(hmcvae.likelihoods.gaussian()),
        images,
        max_value=max_value,
        batch_size=2,
        num_epochs=1,
    )
    run(
        with_likelihood(hmcvae.likelihoods.gaussian()),
        jnp.asarray(images),
        max_value=max_value,
        batch_size=2,
        num_epochs=1,
    )


def test_grey_values_have_to_be_levels_of_the_likelihood():
    digits = plain_images(0, 3, 7, 16)
    with pytest.raises(
        ValueError, match=r"training images has no discretised_logistic .* multiples of 1/255"
    ):
        run(with_likelihood(hmcvae.likelihoods.discretised_logistic()), digits, max_value=16, batch_size=2)
    levels = with_likelihood(hmcvae.likelihoods.discretised_logistic(17))
    assert len(run(levels, digits, max_value=16, batch_size=2, num_epochs=1)) == 1


# Nets that are no functions of one example.


def net_of(kind: str):
    """(encode, decode, params) with a hidden layer of the kind."""
    weights = {"a": jnp.linspace(-1.0, 1.0, 12).reshape(3, 4), "b": jnp.linspace(-1.0, 1.0, 12).reshape(4, 3)}
    generator = np.random.default_rng(0)

    def hidden(h):
        if kind == "normalised over a batch of one":
            return h - h.reshape(1, *h.shape).mean(0)
        return h * generator.normal(size=h.shape) if kind == "drawing masks" else jnp.tanh(h)

    def encode(p, x):
        h = hidden(p["a"] @ x.reshape(-1))
        return h, 0 * h, h

    def decode(p, z):
        return hidden(p["b"] @ z).reshape(2, 2, 1)

    return encode, decode, jax.tree.map(lambda leaf: leaf.astype(jnp.float32), weights)


@pytest.mark.parametrize("which", ["encode", "decode"])
@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("normalised over a batch of one", "to depend on its input, got the same for two different ones"),
        ("drawing masks", "to be a function, got two results for the same input"),
    ],
)
def test_a_net_that_is_no_function_of_its_input_is_refused_with_the_recipe(which, kind, message):
    (encode, decode, params), (bad_encode, bad_decode, _) = net_of("plain"), net_of(kind)
    pair = (bad_encode, decode) if which == "encode" else (encode, bad_decode)
    bound = bounds.elbo(hmcvae.VAE(*pair, hmcvae.likelihoods.bernoulli()))
    start = {"vae": params, "bound": NOTHING}
    with pytest.raises(ValueError, match=rf"expected {which} {message}.*net.eval\(\)"):
        run(bound, GREY, params=start, batch_size=2)


def test_a_net_whose_heads_start_at_zero_is_no_such_net():
    encode, decode, params = net_of("plain")
    bound = bounds.elbo(hmcvae.VAE(encode, decode, hmcvae.likelihoods.bernoulli()))
    zeros = jax.tree.map(jnp.zeros_like, params)
    assert len(run(bound, GREY, params={"vae": zeros, "bound": NOTHING}, batch_size=2, num_epochs=1)) == 1


@pytest.mark.parametrize(
    ("leaf", "message"),
    [
        (jnp.array(3), r"floats, got params\['vae'\]\['extra'\] of dtype int"),
        (jax.random.key(0), r"floats, got params\['vae'\]\['extra'\] of dtype key.*random keys"),
        (jnp.array([1.0, np.nan]), r"finite parameters to start from, got .* in params\['vae'\]\['extra'\]"),
    ],
)
def test_parameters_that_cannot_be_trained_are_named(leaf, message):
    with pytest.raises(ValueError, match=message):
        run(ELBO_OF_X, GREY, params={"vae": {"p": P["vae"]["p"], "extra": leaf}, "bound": {}}, batch_size=2)


def test_images_of_another_shape_than_the_nets_are_refused():
    vae, init_params, _ = networks.build_vae((8, 8, 1), 2, hmcvae.likelihoods.bernoulli(), hidden=(3,))
    params = {"vae": jax.jit(init_params)(jax.random.key(0)), "bound": NOTHING}
    with pytest.raises(ValueError, match=r"one image of shape \(8, 8, 1\), got \(2, 2, 1\)"):
        run(bounds.elbo(vae), plain_images(0, 1), params=params, batch_size=2)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("num_epochs", 0),
        ("num_epochs", -1),
        ("batch_size", 0),
        ("learning_rate", -0.1),
        ("learning_rate", 0.0),
        ("learning_rate", float("nan")),
        ("learning_rate", float("inf")),
        ("schedule", "step"),
        ("clip_norm", -1.0),
        ("clip_norm", float("nan")),
        ("kl_warmup_epochs", -1),
        ("patience", -1),
        ("max_bad_steps", 0),
        ("max_bad_share", 0.0),
        ("max_bad_share", 1.5),
        ("learning_rate", 1e39),  # infinite in single precision
        ("seed", -1),
        ("seed", 2**63),
    ],
)
def test_options_outside_their_range_are_refused(name, value):
    with pytest.raises(ValueError, match=rf"{name} must be .*, {re.escape(f'got {value!r}')}"):
        Options(**{name: value})
