"""The page of the benchmark of the bounds."""

from experiments.benchmarks.bounds.rows import from_json
from experiments.reporting.reports import cell, machine_line, markdown_table

COLUMNS = [
    "bound",
    "seconds",
    "over HVI",
    "over its parts",
    "RHVAE's over it",
    "GFLOP an epoch",
    "temporary MiB",
]


def markdown(report: dict) -> str:
    """The table."""
    config = report["config"]
    about = (
        f"Training epochs of {config['num_images']} grey MNIST images, batch {config['batch_size']}, dense nets "
        f"{'-'.join(map(str, config['hidden']))}, {config['latent_dim']} latents, {config['num_steps']} leapfrog "
        f"steps; medians of {report['num_rounds']} rounds taken in turns."
    )
    rows = [
        [
            row.name,
            cell(row.seconds, ".3f"),
            cell(row.over_hvi, ".2f"),
            cell(row.over_parts, ".2f", absent=""),
            cell(row.rhvae_over_it, ".2f"),
            cell(row.gflop, ".0f"),
            cell(row.temporary_mib, ".0f", absent=""),
        ]
        for row in from_json(report)
    ]
    machine = machine_line(report["environment"], "torch", "pythae")
    table = markdown_table(COLUMNS, rows, num_words=len(COLUMNS))
    return "\n".join([about, "", *table, "", f"`{report['command']}`, {report['date']}: {machine}."]) + "\n"
