"""Steps that are not finite are skipped and counted; where there are too many, the run stops and keeps a good state."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import hmcvae
from hmcvae import bounds, networks, training
from hmcvae.training import Checkpoints, NotFiniteError
from hmcvae.training import epoch as epoch_module
from tests.support.training import DIGITS, P, linear_vae, of_log_weight, one_epoch, plain_images, run


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
        assert int(state.opt_state[0].count) == 3 * epoch
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
    kept = checkpoints.restore(LIKE)
    assert int(kept.num_skipped) == 2
    np.testing.assert_allclose(kept.params["vae"]["p"], 2.0, rtol=1e-5)


def falling_off(limit: float):
    """All is well until p, which rises by the learning rate a step, passes the limit."""
    return of_log_weight(lambda params, x, _: params["p"] * jnp.where(params["p"] > limit, jnp.nan, 1.0))


LIKE = training.init_state(P, optax.adam(1e-3), 0)


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
    epochs = training.fit(
        bound,
        P,
        plain_images(1, 2),
        optimizer=optax.adam(1e-3),
        preprocess=training.Pixels(255),
        num_epochs=2,
        batch_size=2,
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


@pytest.mark.parametrize("num_batches", [2, 600])
def test_where_no_step_at_all_could_be_taken_the_rate_is_not_to_blame(num_batches):
    nowhere = of_log_weight(lambda params, x, _: params["p"] * jnp.nan)
    with pytest.raises(NotFiniteError, match="No step at all could be taken, so it is not the learning_rate"):
        run(nowhere, np.repeat(plain_images(9), num_batches, axis=0), batch_size=1, num_epochs=1)


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
    (state,), (metrics,) = one_epoch(
        bound,
        plain_images(*range(num_batches)),
        optimizer=optimizer,
        batch_size=1,
        max_bad_steps=num_batches + 1,
    )
    assert np.all(np.isfinite(state.params["vae"]["p"]))
    assert 0 < int(state.num_skipped) == int(np.sum(~np.asarray(metrics.is_taken)))


def test_steps_in_pieces_are_those_of_one_loop():
    """Bit for bit, whatever a piece is: here 15, all 15 by themselves, or one."""
    jax.config.update(
        "jax_disable_most_optimizations", False
    )  # as users compile: without them it is to rounding
    (vae, start), images, bounds_ = linear_vae(), DIGITS.train[:300], []
    bound = bounds.elbo(vae)
    for largest in (16, 7, 1):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(epoch_module, "MAX_PIECE", largest)
            (state,), (metrics,) = one_epoch(
                bound, images, binarize=True, max_value=16, params=start, batch_size=20, learning_rate=0.02
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
    kept = checkpoints.restore(training.init_state(params, optax.adam(3.0), 0), good)
    value = training.make_monitor(bound, training.Pixels(16, True))(
        kept.params, jax.random.key(0), DIGITS.validation
    )
    assert np.isfinite(value)


def test_a_resumed_run_remembers_how_high_the_bound_was(tmp_path):
    """It collapses in the second epoch: what was good before that is kept, and the end is warned of, as in one run."""
    collapsing = of_log_weight(lambda params, x, _: jnp.where(params["p"] > 1.5, -1000.0, params["p"]))
    ends = []
    for name, stops in (("whole", [5]), ("resumed", [3, 5])):
        checkpoints = Checkpoints(tmp_path / name, keep=1)
        for index, num_epochs in enumerate(stops):
            with pytest.warns(training.TrainingWarning, match="far below the 0.5 that it had before"):
                run(
                    collapsing,
                    plain_images(1, 2),
                    num_epochs=num_epochs,
                    batch_size=1,
                    learning_rate=1.0,
                    settings={"checkpoints": checkpoints, "resume": index > 0},
                )
        ends.append((checkpoints.epochs(), checkpoints.last_good()))
    assert ends == [([1, 5], 1)] * 2
