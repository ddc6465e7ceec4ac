"""The figures of a study: means over its seeds, by latent size and method, with standard errors."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float

from experiments.study.methods import METHODS
from experiments.study.records import BASELINE, FLAT, Decoder, PerImage

# A position-dependent metric, and the same held constant.
PAIRS = (
    ("RHVI-2, recentred", "RHVI-2, recentred, position dependence 0"),
    ("RHVI-2, recentred, solved to tolerance", "RHVI-2, recentred, position dependence 0"),
    ("RHVI-2, recentred, position dependence 1", "RHVI-2, recentred, position dependence 0"),
)


@dataclass(frozen=True, kw_only=True)
class Row:
    """One method at one latent size. What reports of before did not have is None.

    seeds: of the decoders.  num_transitions, num_steps: T and L.
    bound, importance_weighted, effective_sample_size, gap: means over images and seeds; gap_over_seeds: each seed's.
    gain: in the bound over BASELINE, image by image, so that what is common to the methods drops out; gain_error: its
        standard error.  closed: the share of BASELINE's gap.  cost: seconds an epoch over FLAT's.
    epochs: of training.  unconverged, training_unconverged: shares of the draws with an implicit solve that was not.
    nonfinite: share of the draws.  skipped_steps, clipped_steps: of all seeds.
    learned: what the parameters of the dynamics came to, of each seed.
    """

    latent_dim: int
    method: str
    num_transitions: int | None = None
    num_steps: int | None = None
    seeds: list[int]
    bound: float
    importance_weighted: float
    effective_sample_size: float | None = None
    gap: float
    gap_over_seeds: list[float]
    gain: float
    gain_error: float
    closed: float
    cost: float
    epochs: float
    unconverged: float
    training_unconverged: float | None = None
    nonfinite: float
    skipped_steps: int
    clipped_steps: int
    learned: list[dict[str, Any]]


@dataclass(frozen=True, kw_only=True)
class Sandwich:
    """log p(x) of one decoder's test images, and of images that it made itself: the means of the two estimates between
    which it lies, and the mean of their difference, width. Errors are standard errors over the images."""

    latent_dim: int
    seed: int
    log_likelihood: float
    log_likelihood_error: float
    lower: float
    upper: float
    width: float
    width_error: float
    num_simulated: int
    effective_sample_size: float | None = None


@dataclass(frozen=True, kw_only=True)
class PositionRow:
    """What a position-dependent metric adds to the same one held constant: the gain in the bound, in all and in the
    thirds of the images over whose posterior it varies least and most.

    variation: of the median image, see `metric_variations`.  gap_frozen: with the metric held constant.
    """

    latent_dim: int
    method: str
    seeds: list[int]
    variation: float
    gap_frozen: float
    gain: float
    gain_error: float
    gain_median: float
    training_unconverged: float
    gain_least: float
    gain_most: float


@dataclass(frozen=True)
class Settings:
    """num_train, num_images: training images (0: all) and test images.  seconds: CPU seconds of training, the median.
    num_epochs: given in place of seconds; else 0."""

    num_train: int
    num_images: int
    seconds: float
    num_epochs: float = 0.0

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> "Settings":
        """The settings in a report; those of before call the epochs passes."""
        num_epochs = values.get("num_epochs", values.get("passes", 0.0))
        return cls(values["num_train"], values["num_images"], values["seconds"], num_epochs)


def settings(decoders: list[Decoder]) -> Settings:
    """What the records of a study were made with."""
    records = [record for decoder in decoders for record in decoder.records.values()]
    first, trained = records[0], [record.training for record in records if record.training.num_epochs]
    seconds = float(np.median([training.seconds for training in trained]))
    return Settings(first.num_train, len(first.per_image.bound), seconds, first.planned_epochs)


def rows(decoders: list[Decoder]) -> list[Row]:
    """One row for each latent size and method."""
    return [
        _row(latent_dim, method, [decoder for decoder in own if method in decoder.records])
        for latent_dim, own in by_size(decoders)
        for method in names(own)
    ]


def by_size(decoders: list[Decoder]) -> Iterator[tuple[int, list[Decoder]]]:
    """The latent sizes, with the decoders of each."""
    for latent_dim in sorted({decoder.latent_dim for decoder in decoders}):
        yield latent_dim, [decoder for decoder in decoders if decoder.latent_dim == latent_dim]


def names(decoders: list[Decoder]) -> list[str]:
    """The methods that these decoders have: in the study's order, those of a grid after them."""
    found = {method: record for decoder in decoders for method, record in decoder.records.items()}
    known = [method for method in METHODS if method in found]

    def place(method: str) -> tuple:
        return method.split(",")[0], found[method].num_transitions or 0, found[method].num_steps or 0

    return known + sorted(set(found) - set(known), key=place)


def _row(latent_dim: int, method: str, decoders: list[Decoder]) -> Row:
    records = [decoder.records[method] for decoder in decoders]
    gaps = [float(decoder.gaps(method).mean()) for decoder in decoders]
    with_base = [decoder for decoder in decoders if BASELINE in decoder.records]
    gains = [decoder.gaps(BASELINE) - decoder.gaps(method) for decoder in with_base]
    return Row(
        latent_dim=latent_dim,
        method=method,
        num_transitions=records[0].num_transitions,
        num_steps=records[0].num_steps,
        seeds=[decoder.seed for decoder in decoders],
        bound=_mean([record.per_image.bound.mean() for record in records]),
        importance_weighted=_mean([record.per_image.log_likelihood.mean() for record in records]),
        effective_sample_size=_mean([_effective_sample_size(record.per_image) for record in records]),
        gap=_mean(gaps),
        gap_over_seeds=gaps,
        gain=_mean([gain.mean() for gain in gains]),
        gain_error=gain_error(gains),
        closed=_mean([1 - d.gaps(method).mean() / d.gaps(BASELINE).mean() for d in with_base]),
        cost=_mean([_pace(d, method) / _pace(d, FLAT) for d in decoders if FLAT in d.records]),
        epochs=_mean([record.training.num_epochs for record in records]),
        unconverged=_mean([record.unconverged for record in records]),
        training_unconverged=_mean([record.training.unconverged for record in records]),
        nonfinite=_mean([record.nonfinite for record in records]),
        skipped_steps=sum(record.training.skipped_steps for record in records),
        clipped_steps=sum(record.training.clipped_steps for record in records),
        learned=[record.learned for record in records],
    )


def _pace(decoder: Decoder, method: str) -> float:
    return decoder.records[method].training.seconds_per_epoch


def _effective_sample_size(own: PerImage) -> float:
    return float("nan") if own.effective_sample_size is None else float(own.effective_sample_size.mean())


def gain_error(gains: list[Float[np.ndarray, " n"]]) -> float:
    """Of the mean gain: the seeds share their images, so images are counted once; what the seeds differ by is added."""
    if not gains:
        return float("nan")
    over_images = np.mean(gains, axis=0).std(ddof=1) / np.sqrt(len(gains[0]))
    means = [gain.mean() for gain in gains]
    over_seeds = np.std(means, ddof=1) / np.sqrt(len(means)) if len(means) > 1 else 0.0
    return float(np.hypot(over_images, over_seeds))


def _mean(values: list) -> float:
    return float(np.mean(values)) if len(values) else float("nan")


def _mean_and_error(values: Float[np.ndarray, " n"]) -> tuple[float, float]:
    return float(values.mean()), float(values.std(ddof=1) / np.sqrt(len(values)))


def sandwich(decoder: Decoder) -> Sandwich:
    """How sure a decoder's log p(x) is."""
    reference = decoder.reference
    log_likelihood, log_likelihood_error = _mean_and_error(reference.log_likelihood)
    width, width_error = _mean_and_error(reference.upper - reference.lower)
    return Sandwich(
        latent_dim=decoder.latent_dim,
        seed=decoder.seed,
        log_likelihood=log_likelihood,
        log_likelihood_error=log_likelihood_error,
        lower=float(reference.lower.mean()),
        upper=float(reference.upper.mean()),
        width=width,
        width_error=width_error,
        num_simulated=len(reference.lower),
        effective_sample_size=reference.effective_sample_size,
    )


def position_rows(decoders: list[Decoder]) -> list[PositionRow]:
    """A row for each latent size and pair of PAIRS that the study has."""
    found = []
    for latent_dim, of_size in by_size(decoders):
        for moving, frozen in PAIRS:
            own = [
                d
                for d in of_size
                if {moving, frozen} <= set(d.records) and d.reference.metric_variation is not None
            ]
            if own:
                found.append(_position_row(latent_dim, moving, frozen, own))
    return found


def _position_row(latent_dim: int, moving: str, frozen: str, decoders: list[Decoder]) -> PositionRow:
    gains = [d.gaps(frozen) - d.gaps(moving) for d in decoders]
    variations = [np.asarray(d.reference.metric_variation) for d in decoders]
    sorted_gains = [gain[np.argsort(variation)] for gain, variation in zip(gains, variations, strict=True)]
    third = len(gains[0]) // 3
    return PositionRow(
        latent_dim=latent_dim,
        method=moving,
        seeds=[d.seed for d in decoders],
        variation=_mean([np.median(variation) for variation in variations]),
        gap_frozen=_mean([d.gaps(frozen).mean() for d in decoders]),
        gain=_mean([gain.mean() for gain in gains]),
        gain_error=gain_error(gains),
        gain_median=_mean([np.median(gain) for gain in gains]),
        training_unconverged=_mean([d.records[moving].training.unconverged for d in decoders]),
        gain_least=_mean([gain[:third].mean() for gain in sorted_gains]),
        gain_most=_mean([gain[-third:].mean() for gain in sorted_gains]),
    )
