"""What cannot be trained on is refused before any step."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import hmcvae
from hmcvae import training
from tests.support.training import NO_IMAGES, P, of_log_weight, one_epoch, plain_images, run, with_likelihood

# What is refused.


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"images": NO_IMAGES}, "there must be examples to train on, got an empty set"),
        ({"batch_size": 5}, "batch_size must be at most the number of training examples, 4, got 5"),
        ({"patience": 3}, "patience = 3 needs validation data, got none"),
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
    "Pixels": lambda images, max_value: training.Pixels(max_value)(jax.random.key(0), images),
    "make_epoch": lambda images, max_value: one_epoch(ELBO_OF_X, images, max_value=max_value, batch_size=2),
    "make_monitor": lambda images, max_value: training.make_monitor(ELBO_OF_X, training.Pixels(max_value))(
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
        ValueError, match=r"no discretised_logistic likelihood of training examples: .* multiples of 1/255"
    ):
        run(with_likelihood(hmcvae.likelihoods.discretised_logistic()), digits, max_value=16, batch_size=2)
    levels = with_likelihood(hmcvae.likelihoods.discretised_logistic(17))
    assert len(run(levels, digits, max_value=16, batch_size=2, num_epochs=1)) == 1


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
def test_settings_outside_their_range_are_refused(name, value):
    make = functools.partial(training.adam, learning_rate=1e-3, schedule="constant", num_steps=1)
    make = make if name in ("learning_rate", "schedule") else training.Settings
    with pytest.raises(ValueError, match=rf"{name} must be .*, {re.escape(f'got {value!r}')}"):
        make(**{name: value})
