"""The sentences and rows of the published pages that have figures, and where each comes from."""

from collections.abc import Callable

from experiments.benchmarks import bounds as bench_bounds
from experiments.benchmarks import integrators as bench_integrators
from experiments.benchmarks import riemannian as bench_riemannian
from experiments.benchmarks import training as bench_training
from experiments.claims import speed as claims_speed
from experiments.claims.check import PAGE, README, RESULTS, Claim, load, table
from experiments.comparison import table as compare_table
from experiments.samplers import comparison as compare_samplers
from experiments.samplers import logistic as logistic_regression
from experiments.study import report


def _results_section(text: str) -> str:
    return text.split("\n## Results\n")[1].split("\n## ")[0]


# Each page, and what of it must come from somewhere.
PAGES: dict[str, Callable[[str], str]] = {README: _results_section, PAGE: lambda text: text}


def _with_notes(make: Callable[[dict, str], str], name: str) -> str:
    notes = bench_integrators.kept_notes(RESULTS / f"{name}.md")
    return make(load(name), notes)


# Each table, made from its JSON.
TABLES: dict[str, Callable[[str], str]] = {
    "bench_bounds": lambda name: bench_bounds.markdown(load(name)),
    "bench_integrators": lambda name: _with_notes(
        lambda r, notes: bench_integrators.markdown(r["rows"], r["environment"], notes), name
    ),
    "bench_riemannian": lambda name: _with_notes(bench_riemannian.markdown, name),
    "bench_training": lambda name: _with_notes(
        lambda r, notes: bench_training.markdown(r["rows"], r["known"], r, notes), name
    ),
    "compare_samplers": lambda name: compare_samplers.markdown(load(name)),
    "logistic_regression": lambda name: logistic_regression.markdown(load(name)),
    **{
        name: lambda name: report.markdown(load(name))
        for name in ("mnist_study", "mnist_study_full", "mnist_position")
    },
    **{
        name: lambda name: compare_table.markdown(load(name))
        for name in (
            "mnist_bounds",
            "mnist_long",
            "mnist_seconds",
            "mnist_seconds_300",
            "mnist_seconds_600",
            "fashion_seconds",
        )
    },
}
BLOCKS: dict[str, Callable[[dict], str]] = {
    "bounds_table": compare_table.short_table,
    "bounds_prose": compare_table.prose,
}

# By more temperatures and chains on 60 images of the first decoder (README of the results gives the command).
TOO_LOW = 0.11


def claims() -> list[Claim]:
    """All of them."""
    return [*_study_full(), *_study(), *_position(), *_seconds(), *claims_speed.claims(), *_not_derived()]


def _f(value: float, digits: int = 2) -> str:
    return f"{value:.{digits}f}"


def _percent(share: float) -> str:
    return f"{100 * share:.0f}"


def _figures(*values: float | str, digits: int = 2) -> tuple[str, ...]:
    return tuple(value if isinstance(value, str) else _f(value, digits) for value in values)


def _by_method(name: str, **also: object) -> dict[str, dict]:
    return {
        r["method"]: r for r in load(name)["rows"] if all(r[field] == value for field, value in also.items())
    }


FULL_ROWS = {
    "Gaussian of full covariance, amortised": "Gaussian, full covariance",
    "the same, recentred twice": "Gaussian, full covariance, recentred twice",
    "HVI, 4 leapfrog steps (Salimans et al.)": "HVI-4",
    "the same, per-example masses": "HVI-4, per-example masses",
    "amortised metric, recentred twice, 4 steps": "amortised-4, recentred twice",
    "amortised metric, recentred twice, 2 × 2 steps": "amortised 2 x 2, recentred twice",
    "Fisher metric, recentred, 4 steps": "Fisher-4, recentred",
}
MORE_FULL_ROWS = {
    "amortised metric, distilled, recentred twice, 4 steps": "amortised-4, recentred twice, distilled",
    "amortised metric corrected in 4 learned directions, the same": "amortised-4, rank 4, recentred twice",
    "diagonal metric corrected in 4 random directions, recentred, 4 steps": (
        "diagonal-4, random rank 4, recentred"
    ),
}


def mended(rows: dict[str, dict], sandwich: list[dict]) -> dict[str, tuple[str, str]]:
    """For each method, the share of the Gaussian's gap that it closes, in percent, with log p(x) higher by what the
    sandwich allows, and by what more temperatures show."""
    most, base = sum(s["width"] for s in sandwich) / len(sandwich), rows["Gaussian"]["gap"]

    def share(gap: float, low: float) -> str:
        return _percent(1 - (gap + low) / (base + low))

    return {method: (share(r["gap"], most), share(r["gap"], TOO_LOW)) for method, r in rows.items()}


def _range(text: str, *pairs: tuple[str, str]) -> tuple[str, tuple[str, ...]]:
    """The text with each @ a range, or one figure where both ends are the same, and its figures."""
    figures: list[str] = []
    for low, high in pairs:
        text = text.replace("@", "{}" if low == high else "{} to {}", 1)
        figures += [low] if low == high else [low, high]
    return text, tuple(figures)


def _study_full() -> list[Claim]:
    rows, sandwich = _by_method("mnist_study_full"), load("mnist_study_full")["sandwich"]
    closed = mended(rows, sandwich)
    found = []
    for page, first in ((README, "Gaussian (the VAE's, trained on)"), (PAGE, "Gaussian (VAE)")):
        lines = []
        fisher = list(FULL_ROWS.items())[-1:]
        own = [(first, "Gaussian"), *list(FULL_ROWS.items())[:-1]]
        for words, method in [*own, *(MORE_FULL_ROWS.items() if page == PAGE else ()), *fisher]:
            r = rows[method]
            text, share = _range(" @ % |", closed[method])
            cost = f"{r['cost']:.0f}" if method == "HVI-4" else _f(r["cost"])
            figures = (*_figures(r["bound"], r["gap"]), *share, cost)
            lines.append((f"| {words} | {{}} | {{}} |{text} {{}} |", figures))
        found.append(table(page, lines))
    widths = [s["width"] for s in sandwich]
    mean, moved = _f(sum(widths) / len(widths)), closed["Gaussian, full covariance, recentred twice"]
    four, two = closed["amortised-4, recentred twice"], closed["amortised 2 x 2, recentred twice"]
    masses, mended_4 = closed["HVI-4, per-example masses"], closed["diagonal-4, random rank 4, recentred"]
    found += [
        Claim(README, "that log p(x) is {} to {} nats too low", (_f(TOO_LOW), mean)),
        Claim(PAGE, "it is {} nats lower than with 2000 and 16", (_f(TOO_LOW),)),
        Claim(
            PAGE,
            "{} nats below the upper estimate ({} to {} by decoder)",
            _figures(mean, min(widths), max(widths)),
        ),
        Claim(PAGE, "each gap is {} to {} nats larger", (_f(TOO_LOW), mean)),
        Claim(
            PAGE, *_range("the amortised metric's @ % lie on it. With 2 × 2 steps they are @ %.", four, two)
        ),
        Claim(
            PAGE,
            *_range(
                "the full-covariance Gaussian (@ %) and per-example masses (@ %), are far below",
                closed["Gaussian, full covariance"],
                masses,
            ),
        ),
        Claim(PAGE, *_range("gradient steps alone, without any dynamics, close @ %.", moved)),
        Claim(PAGE, *_range("mend a diagonal metric (@ % → @ %)", masses, mended_4)),
        Claim(README, *_range("without any dynamics, close @ % of the gap at half of HVI's cost", moved)),
        Claim(README, "leapfrog steps in those coordinates bring it to {} to {} %", (four[0], two[1])),
    ]
    return found


STUDY_ROWS = {
    "Gaussian": "Gaussian",
    "Gaussian, full covariance, recentred": "Gaussian, full covariance, recentred",
    "HVI, 4 leapfrog steps": "HVI-4",
    "the same, per-example masses": "HVI-4, per-example masses",
    "amortised metric, 4 steps, recentred twice": "amortised-4, recentred twice",
    "amortised metric, 2 × 2 steps, recentred twice": "amortised 2 x 2, recentred twice",
    "Fisher metric, 4 steps, recentred": "Fisher-4, recentred",
    "Riemannian, 4 steps, recentred (one seed)": "RHVI-4, recentred",
}


def _study() -> list[Claim]:
    rows = {d: _by_method("mnist_study", latent_dim=d) for d in (10, 20, 50)}
    lines = []
    for words, method in STUDY_ROWS.items():
        shares = [_percent(rows[d][method]["closed"]) if method in rows[d] else None for d in (20, 10, 50)]
        cells = " | ".join("-" if share is None else "{} %" for share in shares)
        r = rows[20][method]
        cost = f"{r['cost']:.0f}" if r["cost"] > 10 else _f(r["cost"])
        figures = (*_figures(r["bound"], r["gap"]), *(share for share in shares if share is not None), cost)
        lines.append((f"| {words} | {{}} | {{}} | {cells} | {{}} |", figures))
    widths = [s["width"] for s in load("mnist_study")["sandwich"]]
    sketched = rows[20]["sketched-4, recentred"]["gap"]
    return [
        table(PAGE, lines),
        Claim(PAGE, "are {} to {} nats apart", _figures(min(widths), max(widths))),
        Claim(PAGE, "sketched with 8 random derivatives fails (gap {})", (_f(sketched, 0),)),
    ]


def _position() -> list[Claim]:
    found = []
    made, rows = load("mnist_position"), {d: _by_method("mnist_position", latent_dim=d) for d in (2, 5)}
    own = {(r["latent_dim"], r["method"]): r for r in made["position_dependence"]}
    for d, words in ((2, "% of the draws unconverged in training"), (5, "% unconverged")):
        few, exact = (own[d, f"RHVI-2, recentred{how}"] for how in ("", ", solved to tolerance"))
        figures = _figures(few["variation"], few["gap_frozen"], few["gain"], few["gain_error"])
        figures += (_percent(few["training_unconverged"]), *_figures(exact["gain"], exact["gain_error"]))
        text = f"| {d} | {{}} | {{}} | {{}} ± {{}} ({{}} {words}) | {{}} ± {{}} |"
        found.append(Claim(PAGE, text, figures))
    kappas = [
        value
        for r in made["rows"]
        if r["method"] in ("RHVI-2, recentred", "RHVI-2, recentred, solved to tolerance")
        for learned in r["learned"]
        for value in learned["position_dependence"]
    ]
    exact, few = (rows[2][f"RHVI-2, recentred{how}"] for how in (", solved to tolerance", ""))
    return [
        *found,
        Claim(PAGE, "from 0.5 to {}-{} in these 600 steps", _figures(min(kappas), max(kappas))),
        Claim(PAGE, "what comes of it loses {} nats", (_f(-own[2, "RHVI-2, recentred"]["gain"], 1),)),
        Claim(
            PAGE,
            "(`--num-iterations 0`, {} × the cost) it does not, but for {} steps",
            (_f(exact["cost"] / few["cost"], 1), str(exact["skipped_steps"])),
        ),
        Claim(
            PAGE,
            "(a gap of {} nats where the Gaussian's is {})",
            (_f(rows[2]["HVI-4"]["gap"], 0), _f(rows[2]["Gaussian"]["gap"])),
        ),
    ]


def _epochs(name: str) -> list[int]:
    made = load(name)
    options = compare_table.BEFORE | made["config"]
    epochs = compare_table.epochs_of(options, made["rows"])
    return [epochs[preset] for preset in options["presets"]]


def _pm(value: dict) -> tuple[str, ...]:
    return (
        _figures(value["mean"])
        if value["error"] != value["error"]
        else _figures(value["mean"], value["error"])
    )


def _image_error(name: str) -> float:
    errors = [r["error_over_images"] for r in load(name)["rows"]]
    return sum(errors) / len(errors)


SECONDS_ROWS = {
    "mnist_seconds": (
        "VAE",
        "full-covariance Gaussian, amortised",
        "the same, recentred twice",
        "IWAE, K = 5",
        "HVI, 4 leapfrog steps",
        "amortised metric, recentred twice, 4 steps",
        "Fisher metric, recentred, 4 steps",
        "Riemannian, 2 steps (one epoch: 236 s in all)",
    ),
    "mnist_seconds_300": (
        "VAE",
        "HVI, 4 leapfrog steps",
        "full-covariance Gaussian, recentred twice",
        "amortised metric, recentred twice, 4 steps",
        "Fisher metric, recentred, 4 steps",
    ),
    "mnist_seconds_600": (
        "VAE",
        "full-covariance Gaussian, recentred twice",
        "amortised metric, recentred twice, 4 steps",
        "Fisher metric, recentred, 4 steps",
    ),
}


def _seconds() -> list[Claim]:
    found = []
    for name, words in SECONDS_ROWS.items():
        epochs, lines = _epochs(name), []
        for own, r, count in zip(words, load(name)["rows"], epochs, strict=True):
            columns = [_pm(r[key]) for key in ("bound", "log_likelihood_ais", "gap")]
            figures = tuple(figure for column in columns for figure in column)
            cells = " | ".join("{} ± {}" if len(column) == 2 else "{}" for column in columns)
            if name != "mnist_seconds_600":
                cells, figures = cells + " | {}", (*figures, str(count))
            lines.append((f"| {own} | {cells} |", figures))
        pages = (README, PAGE) if name == "mnist_seconds_300" else (PAGE,)
        found += [table(page, lines) for page in pages]
    rhvi = load("mnist_seconds")["rows"][-1]
    overall = compare_table.total_seconds(load("mnist_seconds"))["mnist_rhvi"]
    vae, fashion = load("fashion_seconds")["rows"]
    long_vae, long_hvi = load("mnist_long")["rows"]
    three = {r["method"]: r for r in load("mnist_seconds_300")["rows"]}
    means = {method: (r["bound"]["mean"], r["log_likelihood_ais"]["mean"]) for method, r in three.items()}
    whitened = [means[m] for m in means if m not in ("VAE", "HVI, 4 leapfrog steps")]
    gains = [
        min(w[i] for w in whitened) - means[base][i]
        for base in ("VAE", "HVI, 4 leapfrog steps")
        for i in (0, 1)
    ]
    minutes = [
        compare_table.total_seconds(load("mnist_long"))[name] / 60 for name in ("mnist_vae", "mnist_hvi")
    ]
    gaps = [r["gap"]["mean"] for method, r in three.items() if "VAE" not in method and "HVI" not in method]
    return [
        *found,
        Claim(PAGE, "(one epoch: {} s in all)", (_f(overall, 0),)),
        Claim(PAGE, "({} and {} minutes at the pace of a quiet machine)", _figures(*minutes, digits=0)),
        *(
            Claim(PAGE, text, (_f(_image_error(name), 1),))
            for name, text in (
                ("mnist_seconds_600", "the 200 images add a standard error of about {}"),
                ("mnist_seconds_300", "standard errors over the seeds, the images add {}"),
            )
        ),
        Claim(PAGE, "{} % of the draws had one that was", (_f(100 * rhvi["training_unconverged"], 1),)),
        Claim(
            PAGE,
            "HVI ends {} nats higher in the bound. Which",
            (_f(long_hvi["bound"]["mean"] - long_vae["bound"]["mean"], 1),),
        ),
        Claim(
            PAGE,
            "above the VAE by more than {} nats of the bound and {} of log p(x), and above HVI by {} and {}.",
            (f"{int(gains[0])}", _f(gains[1], 1), f"{int(gains[2])}", _f(gains[3], 1)),
        ),
        Claim(PAGE, "is a smaller gap ({}, {}, {}), not", _figures(*gaps)),
        Claim(
            PAGE,
            "the VAE's bound is {}, its log p(x) {}, its gap {}; with the amortised metric, recentred twice, 4 steps "
            "({} epochs), {}, {} and {}.",
            (
                *_figures(*(vae[key]["mean"] for key in ("bound", "log_likelihood_ais", "gap"))),
                str(_epochs("fashion_seconds")[1]),
                *_figures(*(fashion[key]["mean"] for key in ("bound", "log_likelihood_ais", "gap"))),
            ),
        ),
        Claim(PAGE, "The images add a standard error of {}", (_f(vae["error_over_images"], 1),)),
    ]


def _not_derived() -> list[Claim]:
    return [Claim(page, text, None, why) for page, why, texts in NOT_DERIVED for text in texts]


SETTING, TARGET = "a setting of the run, as its command gives it", "what the project had set itself"
UNKEPT = "measured once, beside what the page is about; its JSON was not kept"
NOT_DERIVED: tuple[tuple[str, str, tuple[str, ...]], ...] = (
    (
        README,
        SETTING,
        (
            "all 10,000 test images",
            "60,000 images, 300 seconds on one core",
            "(logistic regression 1000 × 25)",
        ),
    ),
    (
        PAGE,
        SETTING,
        (
            "MNIST, dynamic binarization, 60,000 training images",
            "MNIST, 60,000 images, 784-200-200-20 tanh nets, every method given the same 150 seconds",
            "The best at 150 seconds",
            "With 600 seconds",
            "The same on one core for 300 seconds",
            "120 seconds on one core",
            "on a subset of 4,500 training images",
            "gradient was clipped at 1000",
            "a first step size (0.3)",
            "784-200-200-20, 100 epochs, 60,000 images",
            "all 10,000 test images",
            "784-200-200-d, 100 epochs, 60,000 images",
            "On 300 of the 10,000 test images",
            "6,000 images, batch 128",
            "logistic regression 1000 × 25, Fisher metric, ε = 0.5, six steps",
            "6,000 MNIST images, 784-300-300-20 nets",
        ),
    ),
    (
        PAGE,
        TARGET,
        (
            "The target that the project had set itself, 80 % of the gap",
            "The target of 80 % at twice HVI-4's cost",
            "The project had set itself 10 × and 100 ×",
            "8 × in float64, and 25 × mici",
        ),
    ),
    (
        PAGE,
        "read off the picture",
        ("the curves cross between 350 and 450 seconds",),
    ),
    (
        PAGE,
        UNKEPT,
        (
            "From a cold start, in 82 and 87 seconds, the VAE's bound was 14 nats ahead (-237.88 against -251.76)",
            "a VAE of 40 epochs has 7.25 bits per dimension (bound -15,564, gap at least 129 nats), the amortised "
            "metric after 6 epochs more 6.92 (bound -14,779, gap at least 50).",
            "the 40 epochs took 154 seconds, the 6 another 250",
            "first epoch's mean energy error, 2339 nats",
            "(with 300 and 8: 0.02 lower;",
            "RHVAE took 34 × the amortised bound's time, 12 × the Fisher one's and 1.05 × RHVI's",
            "(21 s against",
            "its means on ripley at ε = 0.5, where a third of the solves fail, were 8 to 12 standard errors off",
        ),
    ),
    (PAGE, "half of 0.21 to 0.24, in the table above it", ("(half of the 0.2 in its logarithm)",)),
    (PAGE, "ε times L of the table, and π/2", ("εL = 0.4 where a quarter of a period is 1.6",)),
    (PAGE, "published by Salimans et al. (2015)", ("Salimans' -81.94",)),
)
