"""The page of a call on an accelerator."""

from collections.abc import Callable, Mapping

from experiments.reporting.reports import cell, machine_line, markdown_table, number

# 10¹² operations a second that the makers tell of dense products: float32 without and with TF32, and bfloat16.
PEAKS = {"H100": (67, 494, 989), "H200": (67, 494, 989), "A100": (19.5, 156, 312)}
Columns = Mapping[str, Callable[[dict], str]]


def share_of_peak(row: dict, device: str) -> str:
    """Of the peaks of the layers' dtype, where the device's are known; a PCIe card's are lower than its name's."""
    known = [peaks for name, peaks in PEAKS.items() if name in device and "PCIe" not in device]
    if row["flops_per_second"] is None or not known:
        return "–"
    own = known[0][:2] if row["compute_dtype"] == "float32" else known[0][2:]
    return " / ".join(f"{row['flops_per_second'] / (1e12 * peak):.1%}" for peak in own)


def _text(name: str) -> Callable[[dict], str]:
    return lambda row: str(row[name])


def _value(name: str, form: str) -> Callable[[dict], str]:
    return lambda row: cell(row[name], form, "–")


def _mib(name: str) -> Callable[[dict], str]:
    return lambda row: cell(None if row[name] is None else row[name] / 2**20, ".0f", "–")


LOG_WEIGHTS: Columns = {
    "preset": _text("preset"),
    "products": _text("precision"),
    "bound on the CPU": _value("mean", ".2f"),
    "mean difference": _value("off", ".2g"),
    "largest": _value("off_most", ".2g"),
    "solves converged": _value("converged", ".1%"),
}
TRAJECTORIES: Columns = {
    "integrator": _text("integrator"),
    "step size": _value("step_size", "g"),
    "energy error": _value("energy_error", ".2g"),
    "left of the way and back": _value("left", ".2g"),
    "solves converged": _value("converged", ".1%"),
}
CHAINS: Columns = {
    "integrator": _text("integrator"),
    "chains": _text("chains"),
    "steps / s, all chains": lambda row: number(row["steps_per_second"]),
    "acceptance": _value("acceptance", ".2f"),
    "compile s": _value("compile_seconds", ".1f"),
}
TRAININGS: Columns = {
    "preset": _text("preset"),
    "epochs before": _text("epochs_before"),
    "epochs now": _text("epochs"),
    "s": _value("seconds", ".0f"),
    "epoch kept": _value("epoch", "d"),
    "bound, float32": lambda row: cell(row["bounds"].get("float32"), ".2f", "–"),
    "bound, bfloat16": lambda row: cell(row["bounds"].get("bfloat16"), ".2f", "–"),
    "log p(x)": _value("log_likelihood", ".2f"),
    "done": lambda row: "yes" if row["is_done"] else "no",
}


def _epochs(device: str) -> Columns:
    return {
        "preset": _text("preset"),
        "layers": _text("compute_dtype"),
        "images / s": lambda row: number(row["images_per_second"]),
        "s an epoch": lambda row: f"{row['seconds']:.3g} ± {row['spread']:.1g}",
        "compile s": _value("compile_seconds", ".1f"),
        "of peak (float32: without / with TF32)": lambda row: share_of_peak(row, device),
        "program MiB": _mib("temporary_bytes"),
        "device peak MiB": _mib("peak_bytes"),
    }


ABOUT = {
    "trajectories": "20 steps and as many back, float32, the worst of 16 chains on a logistic regression.",
    "log_weights": "Log-weights in nats against the CPU's, the same draws, float32, at the first parameters.",
    "epochs": "Operations are XLA's count, of bounds without a loop.",
    "chains": "On a logistic regression of 1000 rows and 25 coefficients, float32.",
    "trainings": "The bound of 1,000 test images at most at the epoch that is kept (the best on validation images, if "
    "there are any), by layers in both dtypes with the same parameters and draws; log p(x) as the run watched it then.",
}
TITLES = {
    "trajectories": "Trajectories",
    "log_weights": "Log-weights",
    "epochs": "Epochs",
    "chains": "Chains",
    "trainings": "Trainings",
}


def _part(rows: list[dict], about: str, columns: Columns) -> list[str]:
    """What came of a part, and what failed."""
    if not rows:
        return ["Not measured: the call ended before."]
    good = [row for row in rows if "error" not in row]
    lines = [about, ""]
    if good:
        lines += markdown_table(list(columns), [[make(row) for make in columns.values()] for row in good])
    failed = [f"- not measured, failed: {row['of']}: {row['error']}" for row in rows if "error" in row]
    return [*lines, *(["", *failed] if failed else [])]


def markdown(report: dict) -> str:
    """The page."""
    epochs = _epochs(report["environment"]["device"])
    tables = dict(zip(TITLES, (TRAJECTORIES, LOG_WEIGHTS, epochs, CHAINS, TRAININGS), strict=True))
    machine = machine_line(report["environment"])
    lines = ["# One call on an accelerator", "", f"{machine}. `{report['command']}`"]
    for name, columns in tables.items():
        lines += ["", f"## {TITLES[name]}", "", *_part(report[name], ABOUT[name], columns)]
    return "\n".join(lines) + "\n"
