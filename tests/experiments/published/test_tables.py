"""The pages of comparisons on published nets: our rows, the published ones, and what their readers must know."""

import dataclasses
import json

import numpy as np

from experiments.configs import NETS
from experiments.published.config import PublishedConfig
from experiments.published.table import latex, markdown, row, short_table


def _result(value: float) -> dict:
    def mean(number):
        return {"mean": number, "error": 0.3}

    ais = {
        "gap": mean(0.5),
        "width": mean(0.1),
        "num_images": 10,
        "num_made": 4,
        "effective_sample_size": 6.0,
        "lower_effective_sample_size": 5.0,
        "upper_effective_sample_size": 4.0,
        "nonfinite": 0.0,
    }
    return {
        "bound": mean(value - 1),
        "log_likelihood": mean(value),
        "ess": 200.0,
        "low_ess": 0.25,
        "nonfinite": 0.0,
        "active_units": 20,
        "skipped_steps": 0,
        "epochs": 10,
        "epoch": 9,
        "num_images": 40,
        "num_train": 3000,
        "ais": mean(value + 0.25) | ais,
    }


def test_the_tables_have_our_figures_and_the_published_ones(tmp_path):
    chosen = {"trials": [], "chosen": {"learning_rate": 2e-3, "initial_step_size": 0.1}}
    own = row("hvi4", "HVI & co", 12.0, [_result(-84.0), _result(-84.4)], chosen)
    net = NETS["burda"]
    report = {
        "config": json.loads(json.dumps(dataclasses.asdict(PublishedConfig("burda")))),
        "rows": [own],
        "net": {"summary": net.summary, "source": net.source},
        "published": [row._asdict() for row in net.published],
        "failed": [{"method": "IWAE", "seed": 1, "why": "20 bad steps"}],
        "command": "the command",
        "environment": {"device": "cpu", "num_cpus": 2, "jax": "0"},
    }
    page, table = markdown(report), latex(report)
    assert "| HVI & co | 2 | -85.20 ± 0.20 | -84.20 ± 0.20 (200) | -84.70 ± 0.20 | 0.50 ± 0.00 |" in page
    assert (
        "minus the bound, on the same 10 of the images, which leave it a standard error of up to 0.30" in page
    )
    assert "| 10 | 120 | 0.002, ε 0.1 |" in page
    assert "**Failed**: IWAE, seed 1: 20 bad steps" in page
    assert "| IWAE, K = 50 | - | -84.78 | 5000 importance samples | Burda et al. 2016 |" in page
    assert "up to 25% of the images (HVI & co) have fewer than 100" in page
    assert (
        r"HVI \& co & $-85.20 \pm 0.20$ & $-84.20 \pm 0.20$ & $-84.70 \pm 0.20$ & $0.50 \pm 0.00$ \\" in table
    )
    assert "annealed weights" not in page
    for key, value, warning in (
        (
            "upper_effective_sample_size",
            1.5,
            "annealed weights have an effective size of only 1.5 of 8 chains",
        ),
        ("nonfinite", 0.125, "up to 12.50% of the annealed weights are not finite"),
    ):
        sick = _result(-84.0)
        sick["ais"][key] = value
        told = markdown(report | {"rows": [row("hvi4", "HVI & co", 12.0, [_result(-84.4), sick], chosen)]})
        assert f"**Caution**: {warning}" in told
    # By annealing where they annealed.
    assert r"DAIS, S $\times$ K = 500 (Zhang et al. 2021) & -- & -- & $-83.62$ & -- \\" in table
    without = {name: value for name, value in _result(-84.0).items() if name != "ais"}
    alone = report | {"rows": [row("vae", "VAE", 1.0, [without], chosen)]}
    assert "| VAE | 1 | -85.00 | -84.00 (200) | - | - | - |" in markdown(alone)
    assert "trained for 3600 seconds on 3,000 images, Adam's" in page
    assert "bits" not in page + table
    # The short one: ours among theirs, from the lowest log p(x) to the highest.
    report["config"] |= {"optimizer": "muon"}
    lines = short_table(report).splitlines()
    places = [index for index, line in enumerate(lines) if "**HVI & co**" in line or "DAIS" in line]
    assert "DAIS, S × K = 50 " in lines[places[0]]
    assert (
        "| -85.20 ± 0.20 | **-84.20 ± 0.20** | 5000 importance samples, 40 images | 10 epochs, 2 min"
        in lines[places[1]]
    )
    assert "DAIS, S × K = 500" in lines[places[2]]
    assert "Ours by Muon" in lines[-1]
    assert "up to 25%" in lines[-1]
    assert "here" not in short_table(report | {"rows": []}).replace("not run here", "")


def test_images_with_levels_have_bits_per_dimension():
    """256 equally likely levels cost 8 bits each."""
    nats = -3072 * np.log(256.0)
    chosen = {"trials": [], "chosen": {"learning_rate": 2e-3, "initial_step_size": None}}
    found = _result(nats / 2) | {"bound": {"mean": nats, "error": 1.0}, "num_dimensions": 3072}
    report = {
        "config": json.loads(json.dumps(dataclasses.asdict(PublishedConfig("cifar10")))),
        "rows": [row("vae", "VAE", 1.0, [found], chosen)],
        "net": {"summary": "a net", "source": "ours"},
        "published": [],
        "failed": [],
        "command": "the command",
        "environment": {"device": "cpu", "num_cpus": 2, "jax": "0"},
    }
    lines = markdown(report).splitlines()
    assert lines[2].endswith("| rate | bits/dim, bound | bits/dim, log p(x) |")
    assert lines[4].endswith("| 0.002 | 8.000 | 4.000 |")
    assert r"& bits/dim, bound & bits/dim, $\log p(x)$ \\" in latex(report)
    assert r"& $0.50$ & $8.000$ & $4.000$ \\" in latex(report)
