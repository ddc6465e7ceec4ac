"""A config from the command line: a preset, and any field of it changed."""

from dataclasses import dataclass

from experiments.configs.config import TrainConfig
from experiments.configs.presets import TABLE, preset


@dataclass(frozen=True)
class _Choice:
    preset: str = "digits"


def parse(arguments: list[str]) -> TrainConfig:
    """The config of `--preset NAME …`, digits where none is named. Only fields that the preset's method has can be set.

    Raises:
        ValueError: if there is no such preset.
    """
    import tyro

    chosen, rest = tyro.cli(_Choice, args=arguments, return_unknown_args=True, add_help=False)
    width = max(map(len, TABLE))
    lines = [f"  {name:{width}}  {own.summary}" for name, own in TABLE.items()]
    description = "\n".join(
        [
            "Train a variational auto-encoder. --preset NAME chooses one of:",
            "",
            *lines,
            "",
            f"The fields below are those of the preset {chosen.preset}.",
        ]
    )
    return tyro.cli(
        TrainConfig,
        prog="python -m experiments.train",
        description=description,
        default=preset(chosen.preset),
        args=rest,
        config=(tyro.conf.OmitArgPrefixes, tyro.conf.AvoidSubcommands),
    )
