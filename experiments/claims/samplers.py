"""The sentences and rows about samplers: compare_samplers, compare_solvers and logistic_regression."""

from experiments.claims.check import PAGE, README, Claim, load, table


def claims() -> list[Claim]:
    """All of them."""
    return [*_samplers(), *_solvers(), *_logistic()]


def _samplers() -> list[Claim]:
    lines = []
    for target, rows in load("compare_samplers")["targets"].items():
        for index, r in enumerate(rows):
            first = "" if index else target
            per_1000, per_second = r["ess_per_1000_derivatives"], r["ess_per_second"]
            counts = [r[f"num_{kind}"] for kind in ("divergent", "unconverged", "irreversible")]
            figures = [
                f"{per_1000:.2g}" if per_1000 >= 10 or per_1000 < 0.1 else f"{per_1000:.3g}",
                f"{per_second:.3g}" if per_second < 1000 else f"{float(f'{per_second:.3g}'):,.0f}",
            ]
            if any(counts):
                cells = "{}, {}, {} of {}"
                figures += [f"{n:,}" if n >= 10_000 else str(n) for n in counts]
                figures += [f"{r['num_transitions']:,}"]
            else:
                cells = "none"
            # A very slow run is told with fewer digits.
            figures[1] = f"{per_second:.2g}" if per_second < 1 else figures[1]
            figures += [f"{r['largest_deviation']:.1f}"]
            end = ": wrong" if r["largest_deviation"] > 4 else ""
            if r["rhat"] > 1.05:
                end, figures = ", R̂ {}: too short a run", [*figures, f"{r['rhat']:.2f}"]
            row = f"| {first} | {r['method']} | {{}} | {{}} | {cells} | {{}}{end} |".replace("|  |", "| |")
            lines.append((row, tuple(figures)))
    targets = load("compare_samplers")["targets"]
    two, ten = (targets[f"funnel, d = {d}"] for d in (2, 10))
    return [
        table(PAGE, lines),
        Claim(
            PAGE,
            "its means are {} and {} standard errors off",
            (f"{two[0]['largest_deviation']:.0f}", f"{ten[0]['largest_deviation']:.0f}"),
        ),
        Claim(README, "where HMC is {} standard errors off", (f"{two[0]['largest_deviation']:.0f}",)),
    ]


CONTESTANTS = (
    ("generalized leapfrog", "fixed point"),
    ("generalized leapfrog", "switching"),
    ("implicit midpoint", "switching"),
)


def _solvers() -> list[Claim]:
    """The share of failed trajectories and the mean acceptance of three contestants, a row for each step size."""
    report = load("compare_solvers")
    found = {(r["target"], r["step_size"], r["integrator"], r["solver"]): r for r in report["rows"]}
    lines = []
    for target, step_size in dict.fromkeys(key[:2] for key in found):
        own = [found[(target, step_size, *contestant)] for contestant in CONTESTANTS]
        figures = [f"{r[name]:.2f}" for r in own for name in ("unconverged", "accepted")]
        lines.append((f"| {target} | {step_size:g} |" + " {} / {} |" * len(own), tuple(figures)))
    return [
        table(PAGE, lines),
        Claim(PAGE, "float64, {} trajectories a row", (f"{report['config']['num_starts']}",)),
    ]


def _logistic() -> list[Claim]:
    data = load("logistic_regression")["datasets"]
    rows = {name: {r["method"]: r for r in entry["rows"]} for name, entry in data.items()}
    least = {name: {m: r["ess"][0] for m, r in own.items()} for name, own in rows.items()}
    pace = {name: {m: r["seconds_per_min_ess"] for m, r in own.items()} for name, own in rows.items()}
    good = [least[name]["RMHMC"] for name in ("pima", "heart", "australian")]
    rest = [name for name in rows if name != "ripley"]
    over = {m: [pace[name][m] / pace[name]["RMHMC"] for name in rest] for m in ("HMC", "mMALA")}
    ripley = {m: value / pace["ripley"]["RMHMC"] for m, value in pace["ripley"].items()}
    return [
        Claim(
            PAGE,
            "({} to {} of 5000), less on german ({})",
            (*(f"{f(good):.0f}" for f in (min, max)), f"{least['german']['RMHMC']:.0f}"),
        ),
        Claim(
            PAGE,
            "({} at their step size, where their fixed number of iterations does not see that the equations have no "
            "solution; {} at a tuned one)",
            (f"{least['ripley']['RMHMC']:.0f}", f"{least['ripley']['RMHMC, tuned']:.0f}"),
        ),
        Claim(
            PAGE,
            "means agree within {} standard errors",
            (f"{max(entry['disagreement'] for entry in data.values()):.1f}",),
        ),
        Claim(PAGE, "of RMHMC's time (ripley: {} ×)", (f"{1 / ripley['NUTS']:.0f}",)),
        Claim(
            PAGE,
            "HMC in {} to {} of it (ripley: {}), mMALA in {} to 1 (ripley: {}).",
            (
                f"{min(over['HMC']):.1f}",
                f"{max(over['HMC']):.2f}",
                f"{ripley['HMC']:.2f}",
                f"{min(over['mMALA']):.1f}",
                f"{ripley['mMALA']:.2f}",
            ),
        ),
    ]
