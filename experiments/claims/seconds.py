"""The sentences and rows about trainings of equal seconds: mnist_seconds, mnist_long and fashion_seconds."""

from typing import NamedTuple

from experiments.claims.check import PAGE, Claim, load, table
from experiments.claims.wording import fixed, told
from experiments.comparison import table as compare_table


def claims() -> list[Claim]:
    """All of them."""
    return [*_tables(), *_mnist(), *_three_hundred(), *_long(), *_fashion()]


def _epochs(name: str) -> list[int]:
    made = load(name)
    options = compare_table.BEFORE | made["config"]
    epochs = compare_table.epochs_of(options, made["rows"])
    return [epochs[preset] for preset in options["presets"]]


def _pm(value: dict) -> tuple[str, ...]:
    return told(value["mean"]) if value["error"] != value["error"] else told(value["mean"], value["error"])


def _image_error(name: str) -> float:
    errors = [r["error_over_images"] for r in load(name)["rows"]]
    return sum(errors) / len(errors)


class Table(NamedTuple):
    """A published JSON, and the words of its rows on the pages."""

    name: str
    rows: tuple[str, ...]
    pages: tuple[str, ...] = (PAGE,)
    has_epochs: bool = True


TABLES = (
    Table(
        "mnist_seconds",
        (
            "VAE",
            "full-covariance Gaussian, amortised",
            "the same, recentred twice",
            "IWAE, K = 5",
            "HVI, 4 leapfrog steps",
            "amortised metric, recentred twice, 4 steps",
            "Fisher metric, recentred, 4 steps",
            "Riemannian, 2 steps (one epoch: 236 s in all)",
        ),
    ),
    Table(
        "mnist_seconds_300",
        (
            "VAE",
            "HVI, 4 leapfrog steps",
            "full-covariance Gaussian, recentred twice",
            "amortised metric, recentred twice, 4 steps",
            "Fisher metric, recentred, 4 steps",
        ),
    ),
    Table(
        "mnist_seconds_600",
        (
            "VAE",
            "full-covariance Gaussian, recentred twice",
            "amortised metric, recentred twice, 4 steps",
            "Fisher metric, recentred, 4 steps",
        ),
        has_epochs=False,
    ),
)
COLUMNS = ("bound", "log_likelihood_ais", "gap")
PLAIN = ("VAE", "HVI, 4 leapfrog steps")  # without a per-example metric


def _tables() -> list[Claim]:
    found = []
    for own in TABLES:
        rows, epochs = load(own.name)["rows"], _epochs(own.name)
        lines = [_row(*entry, own.has_epochs) for entry in zip(own.rows, rows, epochs, strict=True)]
        found += [table(page, lines) for page in own.pages]
    return found


def _row(words: str, r: dict, num_epochs: int, has_epochs: bool) -> tuple[str, tuple[str, ...]]:
    columns = [_pm(r[key]) for key in COLUMNS] + ([(str(num_epochs),)] if has_epochs else [])
    cells = " | ".join("{} ± {}" if len(column) == 2 else "{}" for column in columns)
    return f"| {words} | {cells} |", tuple(figure for column in columns for figure in column)


def _mnist() -> list[Claim]:
    rhvi = load("mnist_seconds")["rows"][-1]
    overall = compare_table.total_seconds(load("mnist_seconds"))["mnist_rhvi"]
    return [
        Claim(PAGE, "(one epoch: {} s in all)", (fixed(overall, 0),)),
        *(
            Claim(PAGE, text, (fixed(_image_error(name), 1),))
            for name, text in (
                ("mnist_seconds_600", "the 200 images add a standard error of about {}"),
                ("mnist_seconds_300", "standard errors over the seeds, the images add {}"),
            )
        ),
        Claim(PAGE, "{} % of the draws had one that was", (fixed(100 * rhvi["training_unconverged"], 1),)),
    ]


def _three_hundred() -> list[Claim]:
    """What a per-example metric gains over the methods without, in 300 seconds."""
    rows = {r["method"]: r for r in load("mnist_seconds_300")["rows"]}
    means = {method: (r["bound"]["mean"], r["log_likelihood_ais"]["mean"]) for method, r in rows.items()}
    whitened = [method for method in rows if method not in PLAIN]
    gains = [min(means[m][i] for m in whitened) - means[base][i] for base in PLAIN for i in (0, 1)]
    return [
        Claim(
            PAGE,
            "above the VAE by more than {} nats of the bound and {} of log p(x), and above HVI by {} and {}.",
            (f"{int(gains[0])}", fixed(gains[1], 1), f"{int(gains[2])}", fixed(gains[3], 1)),
        ),
        Claim(PAGE, "is a smaller gap ({}, {}, {}), not", told(*(rows[m]["gap"]["mean"] for m in whitened))),
    ]


def _long() -> list[Claim]:
    vae, hvi = load("mnist_long")["rows"]
    seconds = compare_table.total_seconds(load("mnist_long"))
    minutes = [seconds[name] / 60 for name in ("mnist_vae", "mnist_hvi")]
    return [
        Claim(PAGE, "({} and {} minutes at the pace of a quiet machine)", told(*minutes, digits=0)),
        Claim(
            PAGE,
            "HVI ends {} nats higher in the bound. Which",
            (fixed(hvi["bound"]["mean"] - vae["bound"]["mean"], 1),),
        ),
    ]


def _fashion() -> list[Claim]:
    vae, amortised = load("fashion_seconds")["rows"]
    return [
        Claim(
            PAGE,
            "the VAE's bound is {}, its log p(x) {}, its gap {}; with the amortised metric, recentred twice, 4 steps "
            "({} epochs), {}, {} and {}.",
            (
                *told(*(vae[key]["mean"] for key in COLUMNS)),
                str(_epochs("fashion_seconds")[1]),
                *told(*(amortised[key]["mean"] for key in COLUMNS)),
            ),
        ),
        Claim(PAGE, "The images add a standard error of {}", (fixed(vae["error_over_images"], 1),)),
    ]
