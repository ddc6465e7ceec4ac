"""All methods on a published net: `python -m experiments.published NET --data-dir DIR`.

Paces are timed in turns; each method gets the same small search on held-out training images, then is trained for
the same seconds (or epochs) with several seeds; the test set is looked at once, at the end. Every training is an
ordinary run under --folder, and what is there is not repeated: a comparison that was killed goes on where it was, by
the same command. Writes published_NET.json, .md, .tex and .png, after each method and seed anew.
"""

from pathlib import Path
from typing import Any

from experiments.configs import NETS, TrainConfig
from experiments.published.config import PublishedConfig
from experiments.published.evaluation import evaluated
from experiments.published.figures import draw
from experiments.published.methods import METHODS, label
from experiments.published.search import AGAIN, STEP, Setting, run_config, search, settings, trained
from experiments.published.table import latex, markdown, row
from experiments.reporting.reports import command_line, make_report, write_report
from experiments.runs.folder import EMPTY, RunFolder
from experiments.runs.pace import seconds_per_epoch
from experiments.support.failures import advised, told_when_stopped
from experiments.support.files import check_writable, read_json, with_ending, write_json
from hmcvae.training import NotFiniteError

# Images of an epoch that is timed: the pace is in proportion.
NUM_TIMED = 3000


def paces(options: PublishedConfig) -> dict[str, float]:
    """Seconds of an epoch of each method, timed in turns once.

    Raises:
        ValueError: if methods are asked for that were not timed with the others, or that were with other settings.
    """
    path, asked = options.place / "paces.json", options.setting
    if path.is_file():
        kept = read_json(path)
        if kept["asked"] != asked:
            raise ValueError(f"{path} is of {kept['asked']}, not of {asked}; give another --folder")
        found = kept["paces"]
        missing = set(options.names) - set(found)
        if missing:
            raise ValueError(
                f"{path} has no pace of {', '.join(sorted(missing))}: all methods are timed in turns, so give all of "
                "them, and another --folder"
            )
        return found
    configs = {}
    for name in options.names:
        first = settings(METHODS[name], 1, options.rate)[0]
        configs[name] = run_config(options, name, options.seeds[0], first, 1, f"timed/{name}")
    found = seconds_per_epoch(configs, num_images=NUM_TIMED)
    write_json(path, {"asked": asked, "paces": found})
    return found


def check_places(options: PublishedConfig) -> None:
    """Check, before anything is computed, that runs and results can be written, over nothing else's.

    Raises:
        OSError: if they cannot be written.
        ValueError: if something else is in the way of a run, or the page that is there has methods that this one has
            not.
    """
    for folder, option in ((options.place, "--folder"), (options.stem.parent, "--results")):
        try:
            check_writable(folder)
        except OSError as error:
            message = f"nothing can be written there ({error.strerror}); choose another by {option}"
            raise OSError(error.errno, message, str(folder)) from error
    trials = [f"search/{name}-{index}" for name in options.names for index in range(options.num_trials)]
    for place in [*trials, *(f"{name}-seed{seed}" for name in options.names for seed in options.seeds)]:
        folder = options.place / place
        is_free = not folder.exists() or (folder.is_dir() and {own.name for own in folder.iterdir()} <= EMPTY)
        if not is_free and not (folder / "config.json").is_file():
            raise ValueError(f"{folder} is in the way of a run, and is none; give another --folder")
    page = with_ending(options.stem, ".json")
    if page.is_file():
        kept = {own["name"] for own in read_json(page)["rows"] if not own["name"].endswith("-before")}
        lost = sorted(kept - set(options.names))
        if lost:
            raise ValueError(
                f"{page} has rows of {', '.join(lost)}, which would be lost: give these methods too, or another page's "
                "--name"
            )


def epochs_of(options: PublishedConfig, pace: float, share: float = 1.0) -> int:
    """Epochs of a training, or of a trial with a share of it."""
    whole = options.num_epochs or options.seconds / pace
    return max(1, round(share * whole))


def published(options: PublishedConfig, command: str) -> dict:
    """Train and evaluate what is missing; the report."""
    check_places(options)
    pace = paces(options)
    found: dict[str, dict[int, dict]] = {name: {} for name in options.names}
    before: dict[str, dict[int, dict]] = {name: {} for name in options.names}
    curves: dict[str, list] = {name: [] for name in options.names}
    searches: dict[str, Any] = {}
    failed: list[dict] = []
    report: dict = {}
    missing = [(name, seed) for seed in options.seeds for name in options.names]
    # Seed by seed: a comparison that is cut off is then one of fewer seeds.
    for seed in options.seeds:
        for name in options.names:
            if name not in searches:
                searches[name] = search(options, name, epochs_of(options, pace[name], options.trial_share))
            setting = Setting(**searches[name]["chosen"])
            config = run_config(
                options, name, seed, setting, epochs_of(options, pace[name]), f"{name}-seed{seed}"
            )
            try:
                run = trained(config)
            except NotFiniteError as error:  # told in the report; the others go on
                failed.append({"method": label(name), "seed": seed, "why": str(error)})
            else:
                found[name][seed] = evaluated(options, run)
                curves[name].append(_curve(run, pace[name], options.start_method is not None))
                start = options.start_of(name, seed)
                if start is not None:
                    before[name][seed] = evaluated(options, RunFolder(start))
                if options.start_method is not None:
                    found[name][seed]["epochs"] -= before[name][seed]["epochs"]
            missing.remove((name, seed))
            report = _report(options, command, pace, searches, (before, found), curves)
            report |= {"failed": failed, "missing": [{"method": label(own), "seed": s} for own, s in missing]}
            write_report(options.stem, report, markdown, draw)
            with_ending(options.stem, ".tex").write_text(latex(report))
    return report


def _report(
    options: PublishedConfig,
    command: str,
    pace: dict[str, float],
    searches: dict[str, Any],
    before_and_after: tuple[dict[str, dict[int, dict]], dict[str, dict[int, dict]]],
    curves: dict[str, list],
) -> dict:
    rows = []
    for name in options.names:
        before, after = (list(found[name].values()) for found in before_and_after)
        first = options.start_method or name
        # Where all start with one method's run, it has one row.
        if before and f"{first}-before" not in {own["name"] for own in rows}:
            start = options.start_of(name, options.seeds[0])
            assert start is not None
            chosen = _as_chosen(RunFolder(start).config())
            its_pace = pace[name] if options.start_method is None else _pace_there(start, first)
            rows.append(row(f"{first}-before", f"{label(first)}: before", its_pace, before, chosen))
        if after:
            rows.append(row(name, label(name), pace[name], after, searches[name]))
    net = options.own
    theirs = [own._asdict() for own in net.published]
    description = {"summary": net.summary, "source": net.source}
    figures = {"net": description, "rows": rows, "published": theirs, "curves": curves}
    if options.start_from is not None:
        figures["start_from"] = options.start_from.name
    if options.start_method is not None:
        figures["start_method"] = label(options.start_method)
    return make_report(command, options, figures)


def _as_chosen(config: TrainConfig) -> dict[str, Any]:
    """The setting of a run that was trained before, as a search has it."""
    step = getattr(config.method, STEP, None)
    return {"trials": [], "chosen": {"learning_rate": config.training.rate, STEP: step}}


def _pace_there(start: Path, name: str) -> float:
    """Seconds of an epoch of a method in the comparison that its run is of."""
    return read_json(start.parent / "paces.json")["paces"][name]


def _curve(run: RunFolder, pace: float, is_from_start: bool = False) -> list[list[float]]:
    """[seconds at the method's pace, log p(x) of held-out images] after each epoch, those of the run that it went on
    from included; is_from_start: of those its last alone, as second 0."""
    start = run.config().start_from
    earlier = [] if start is None else _curve(RunFolder(start), pace)
    if is_from_start:
        earlier = [[0.0, value] for _, value in earlier[-1:]]
    offset = earlier[-1][0] if earlier else 0.0
    return earlier + [
        [offset + record.epoch * pace, record.monitored.likelihood.log_likelihood]
        for record in run.records()
        if record.monitored.likelihood is not None
    ]


def main() -> None:
    import tyro

    width = max(map(len, METHODS))
    options = tyro.cli(
        PublishedConfig,
        prog="python -m experiments.published",
        description="\n".join(
            [
                "Train all methods on a published net for equal seconds or equal epochs, each after the same small "
                "search, and put them beside the published figures. Nets: " + ", ".join(NETS) + ". Methods:",
                "",
                *(f"  {name:{width}}  {label(name)}" for name in METHODS),
            ]
        ),
        config=(tyro.conf.PositionalRequiredArgs,),
    )
    with advised(AGAIN), told_when_stopped("between two trainings"):
        published(options, command_line("published", options.data_dir))
    print(with_ending(options.stem, ".md").read_text())
