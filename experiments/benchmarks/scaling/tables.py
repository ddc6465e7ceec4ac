"""The page of the benchmark of scaling."""

from experiments.benchmarks.scaling import arithmetic
from experiments.reporting.reports import cell, machine_line, markdown_table, number


def _streaming(report: dict) -> list[str]:
    own, config = report["streaming"], report["config"]
    streamed, kept = own["images_per_second"]
    rate, error = own["rate"]
    return [
        "## Data that do not fit the memory",
        "",
        f"{own['file_gib']:.3g} GiB of images ({config['side']} × {config['side']} × 3 bytes) in a file, batches of "
        f"{config['batch_size']}, a VAE of {config['hidden']}-{config['hidden']}-{config['latent_dim']}; in turns "
        f"with as many steps on {config['memory_mib']:g} MiB in memory, in one process.",
        "",
        *markdown_table(
            ["images / s from the file", "from memory", "ratio", "peak MiB", "streaming alone, MiB"],
            [
                [
                    number(streamed),
                    number(kept),
                    f"{rate:.3f} ± {error:.3f}",
                    cell(own["peak_mib"], ".0f"),
                    cell(own["alone_mib"], ".0f"),
                ]
            ],
            num_words=0,
        ),
    ]


def _one_device(report: dict) -> list[str]:
    rows = [
        [row["method"], cell(row["seconds"]), f"{row['over'][0]:.3f} ± {row['over'][1]:.3f}"]
        for row in report["one_device"]
    ]
    return [
        "## The code for many devices, on one",
        "",
        f"Epochs of {report['config']['num_images']} images of 28 × 28 on a mesh of one device, over those without.",
        "",
        *markdown_table(["bound", "seconds without", "mesh over none"], rows),
    ]


def _moved(report: dict) -> list[str]:
    rows = [
        [
            row["method"],
            number(row["moved"]),
            number(row["params"]),
            cell(row["moved"] / row["params"], ".4f"),
        ]
        for row in report["moved"]
    ]
    return [
        "## What a step moves",
        "",
        "Bytes of the operands of all collectives of one step on eight devices, in XLA's compiled program.",
        "",
        *markdown_table(["bound", "moved", "parameters", "ratio"], rows),
    ]


def _paper(report: dict) -> list[str]:
    rows = [
        [
            row["method"],
            str(row["steps_per_epoch"]),
            *(cell(1e3 * row[name]) for name in ("compute", "reduce", "read")),
            cell(row["epoch"]),
            number(row["host_bytes"]),
            number(row["checkpoint_bytes"]),
        ]
        for row in report["paper"]
    ]
    columns = [
        "bound",
        "steps",
        "compute, ms",
        "all-reduce, ms",
        "read, ms",
        "epoch, s",
        "bytes a host",
        "checkpoint",
    ]
    return [
        "## 10⁹ images on 10⁴ devices, on paper",
        "",
        f"Nothing of this was run. {arithmetic.NUM_IMAGES:.0e} images of {arithmetic.IMAGE_BYTES} bytes, "
        f"{arithmetic.NUM_DEVICES} devices on {arithmetic.NUM_HOSTS} hosts, {arithmetic.BATCH} images a device and "
        f"step; assumed {arithmetic.DEVICE_FLOPS:.0e} FLOP/s a device, {arithmetic.LINK:.1e} bytes/s a link, "
        f"{1e6 * arithmetic.LATENCY:g} µs a message, {arithmetic.DISK:.0e} bytes/s read by a host. "
        "The operations of an image are XLA's count of a training step here. Each host reads its own part alone; one "
        "writes checkpoints.",
        "",
        *markdown_table(columns, rows),
    ]


def markdown(report: dict) -> str:
    parts = [_streaming(report), _one_device(report), _moved(report), _paper(report)]
    lines = [line for part in parts for line in (*part, "")]
    return (
        "\n".join(
            [*lines, f"`{report['command']}`, {report['date']}: {machine_line(report['environment'])}."]
        )
        + "\n"
    )
