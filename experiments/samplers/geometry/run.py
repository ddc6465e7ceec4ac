"""The run of the comparison, a row at a time: what is done is kept, and a run that was stopped goes on."""

import gc
import os
import traceback
import warnings
from importlib import util
from pathlib import Path

import jax

from experiments.reporting.reports import command_line, make_report, write_report
from experiments.samplers.geometry.config import NAME, Config
from experiments.samplers.geometry.contestants import Contestant
from experiments.samplers.geometry.figures import draw
from experiments.samplers.geometry.lists import POSTERIORS, Entry, posteriors
from experiments.samplers.geometry.measure import Bench, shortened
from experiments.samplers.geometry.posteriors import Posterior
from experiments.samplers.geometry.tables import line, markdown
from experiments.support.files import check_writable, read_json, with_ending, write_json
from experiments.support.machine import describe
from hmcvae import SamplingWarning, data

PACKAGES = ("blackjax", "numpyro", "nutpie", "arviz")


class Record:
    """The rows so far, in a file that is written whole after each of them."""

    def __init__(self, stem: Path):
        self.path = with_ending(stem, ".rows.json")
        self.rows: list[dict] = read_json(self.path)["rows"] if self.path.exists() else []

    def has(self, **identity: object) -> bool:
        return any(all(row.get(name) == value for name, value in identity.items()) for row in self.rows)

    def add(self, row: dict) -> None:
        self.rows.append(row)
        write_json(self.path, {"rows": self.rows})


def _identity(posterior: Posterior, contestant: Contestant, config: Config, seed: int) -> dict:
    return {
        "posterior": posterior.name,
        "contestant": contestant.name,
        "form": contestant.form,
        "seed": seed,
        "num_chains": config.num_chains,
        "num_warmup": posterior.num_warmup,
        "num_samples": posterior.num_samples,
    }


def measure(posterior: Posterior, contestant: Contestant, config: Config, record: Record) -> None:
    """The rows of one contestant that are not there yet; one that fails has its error in their place."""
    seeds = range(config.first_seed, config.first_seed + config.seeds)
    identities = [_identity(posterior, contestant, config, seed) for seed in seeds]
    todo = [identity for identity in identities if not record.has(**identity)]
    if not todo:
        return
    if util.find_spec(contestant.library) is None:
        print(f"{posterior.name}: {contestant.name} left out, {contestant.library} is not installed")
        return
    try:
        bench = Bench(posterior, contestant, config.num_chains)
        for identity in todo:
            load = round(os.getloadavg()[0], 1)
            record.add(identity | bench.row(identity["seed"]) | {"load": load})
            print(line(record.rows[-1]), flush=True)
    except Exception as error:  # a peer's failure must not end the run of the others
        traceback.print_exc()
        record.add(identities[-1] | {"error": f"{type(error).__name__}: {error}"[:300]})
    gc.collect()
    jax.clear_caches()


def chosen(config: Config) -> list[Entry]:
    has_data = config.data_dir or os.environ.get(data.DATA_DIR_VARIABLE)
    names = config.posteriors or tuple(POSTERIORS)
    return posteriors(
        [name for name in names if has_data or not POSTERIORS[name].needs_data], config.data_dir
    )


def compare(config: Config, command: str) -> dict:
    """Measure what is not there yet, and write JSON, Markdown and picture of all the rows."""
    check_writable(config.results)
    stem = config.results / NAME
    record = Record(stem)
    warnings.simplefilter("ignore", SamplingWarning)
    for entry in chosen(config):
        posterior = shortened(entry.posterior, config.divisor)
        for contestant in entry.contestants:
            if not config.contestants or contestant.name in config.contestants:
                measure(posterior, contestant, config, record)
    report = make_report(command, config, {"rows": record.rows}, describe(*PACKAGES))
    write_report(stem, report, markdown, draw)
    return report


def main() -> None:
    import tyro

    config = tyro.cli(Config, prog="python -m experiments.samplers")
    jax.config.update("jax_enable_x64", True)
    compare(config, command_line("samplers", config.data_dir))
    print((config.results / f"{NAME}.md").read_text())
