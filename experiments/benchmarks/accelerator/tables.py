"""The page of a call on an accelerator."""

from experiments.reporting.reports import cell, machine_line, markdown_table, number

# 10¹² operations a second that the makers tell of float32 products, without and with TF32 (dense).
PEAKS = {"H100": (67, 494), "H200": (67, 494), "A100": (19.5, 156)}


def share_of_peak(flops_per_second: float | None, device: str) -> str:
    """Of both peaks, where the device's are known."""
    if flops_per_second is None:
        return "–"
    for name, peaks in PEAKS.items():
        if name in device:
            return " / ".join(f"{flops_per_second / (1e12 * peak):.1%}" for peak in peaks)
    return "–"


def _mib(value: float | None) -> str:
    return cell(None if value is None else value / 2**20, ".0f", "–")


def numerics_lines(report: dict) -> list[str]:
    columns = ["preset", "products", "bound on the CPU", "mean difference", "largest", "solves converged"]
    rows = [
        [
            row["preset"],
            row["precision"],
            f"{row['mean']:.2f}",
            f"{row['off']:.2g}",
            f"{row['off_most']:.2g}",
            f"{row['converged']:.1%}",
        ]
        for row in report["log_weights"]
    ]
    trajectories = [
        [
            row["integrator"],
            f"{row['step_size']:g}",
            f"{row['energy_error']:.2g}",
            f"{row['left']:.2g}",
            f"{row['converged']:.1%}",
        ]
        for row in report["trajectories"]
    ]
    shape = ["integrator", "step size", "energy error", "left of the way and back", "solves converged"]
    about = "Log-weights in nats against the CPU's, the same draws, float32, at the first parameters."
    there = "20 steps and as many back, float32, the worst of 16 chains on a logistic regression."
    return [about, "", *markdown_table(columns, rows, 2), "", there, "", *markdown_table(shape, trajectories)]


def epochs_lines(report: dict) -> list[str]:
    columns = [
        "preset",
        "layers",
        "images / s",
        "s an epoch",
        "compile s",
        "of peak (float32 / TF32)",
        "program MiB",
    ]
    columns += ["device peak MiB"]
    rows = [
        [
            row["preset"],
            row["compute_dtype"],
            number(row["images_per_second"]),
            f"{row['seconds']:.3g} ± {row['spread']:.1g}",
            f"{row['compile_seconds']:.1f}",
            share_of_peak(row["flops_per_second"], report["environment"]["device"]),
            _mib(row["temporary_bytes"]),
            _mib(row["peak_bytes"]),
        ]
        for row in report["epochs"]
    ]
    return markdown_table(columns, rows, 2)


def chains_lines(report: dict) -> list[str]:
    columns = ["integrator", "chains", "steps / s, all chains", "acceptance", "compile s"]
    rows = [
        [
            row["integrator"],
            str(row["chains"]),
            number(row["steps_per_second"]),
            f"{row['acceptance']:.2f}",
            f"{row['compile_seconds']:.1f}",
        ]
        for row in report["chains"]
    ]
    return markdown_table(columns, rows)


def trainings_lines(report: dict) -> list[str]:
    columns = [
        "preset",
        "epochs before",
        "epochs now",
        "s",
        "bound, float32",
        "bound, bfloat16",
        "log p(x)",
        "done",
    ]
    rows = [
        [
            row["preset"],
            str(row["epochs_before"]),
            str(row["epochs"]),
            f"{row['seconds']:.0f}",
            cell(row["bounds"].get("float32"), ".2f", "–"),
            cell(row["bounds"].get("bfloat16"), ".2f", "–"),
            cell(row["log_likelihood"], ".2f", "–"),
            "yes" if row["is_done"] else "no",
        ]
        for row in report["trainings"]
    ]
    about = "The bound of 1,000 test images at most, with the networks' layers in both dtypes and the same parameters "
    about += "and draws; log p(x) as the run itself watches it, where it does."
    return [about, "", *markdown_table(columns, rows)]


def markdown(report: dict) -> str:
    """The page."""
    parts = {
        "Numerics": ("trajectories", numerics_lines),
        "Epochs": ("epochs", epochs_lines),
        "Chains": ("chains", chains_lines),
        "Trainings": ("trainings", trainings_lines),
    }
    lines = [
        "# One call on an accelerator",
        "",
        f"{machine_line(report['environment'])}. `{report['command']}`",
    ]
    for title, (name, make) in parts.items():
        lines += [
            "",
            f"## {title}",
            "",
            *(make(report) if report[name] else ["Not measured: the call ended before."]),
        ]
    return "\n".join(lines) + "\n"
