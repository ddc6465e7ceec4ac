"""A config from the command line: a preset's, or that of a run to go on with, and any field of it changed."""

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path

from experiments.configs.config import TrainConfig, from_json
from experiments.configs.presets import TABLE, preset


@dataclass(frozen=True)
class _Choice:
    preset: str | None = None
    run_dir: Path | None = None
    resume: bool = False


def parse(arguments: list[str]) -> TrainConfig:
    """The config of `--preset NAME …`, digits where none is named; or with `--resume --run-dir RUN` and no preset that
    of the run. Only fields that its method has can be set.

    Raises:
        ValueError: if there is no such preset.
    """
    import tyro

    chosen, rest = tyro.cli(_Choice, args=arguments, return_unknown_args=True, add_help=False)
    default, what = _default(chosen)
    width = max(map(len, TABLE))
    lines = [f"  {name:{width}}  {own.summary}" for name, own in TABLE.items()]
    description = "\n".join(
        [
            "Train a variational auto-encoder. --preset NAME chooses one of:",
            "",
            *lines,
            "",
            f"The fields below are those of {what}.",
        ]
    )
    return tyro.cli(
        TrainConfig,
        prog="python -m experiments.train",
        description=description,
        default=default,
        args=rest,
        config=(tyro.conf.OmitArgPrefixes, tyro.conf.AvoidSubcommands),
    )


def _default(chosen: _Choice) -> tuple[TrainConfig, str]:
    """What is changed, and what it is."""
    where = {"run_dir": chosen.run_dir, "resume": chosen.resume}
    if chosen.preset is None and chosen.resume and chosen.run_dir is not None:
        path = chosen.run_dir / "config.json"
        try:
            return dataclasses.replace(
                from_json(json.loads(path.read_bytes())), **where
            ), f"the run {chosen.run_dir}"
        except (OSError, AttributeError, TypeError, ValueError):
            pass  # told when the run is opened
    name = chosen.preset or "digits"
    return dataclasses.replace(preset(name), **where), f"the preset {name}"
