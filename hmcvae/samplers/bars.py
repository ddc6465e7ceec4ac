"""The progress bar of a run."""

from typing import Any

from hmcvae.samplers.draws import TransitionCounts


class Bar:
    """`with Bar(…) as bar: bar.show(done, counts)`; nothing where it is not asked for."""

    def __init__(self, is_shown: bool, label: str, total: int, start: int):
        self._bar: Any = None
        if is_shown:
            self._bar = _import_tqdm()(total=total, desc=label, unit="draw", initial=start)

    def __enter__(self) -> "Bar":
        return self

    def __exit__(self, *exception: object) -> None:
        if self._bar is not None:
            self._bar.close()

    def show(self, done: int, counts: TransitionCounts) -> None:
        """Wait for the counts and put them on the bar."""
        if self._bar is None:
            return
        shown = {
            "acceptance": f"{float(counts.acceptance_rate):.2f}",
            "divergences": int(counts.num_divergent),
        }
        if int(counts.num_unconverged):
            shown["failed solves"] = int(counts.num_unconverged)
        if int(counts.num_irreversible):
            shown["irreversible"] = int(counts.num_irreversible)
        if int(counts.num_max_depth):
            shown["cut off"] = int(counts.num_max_depth)
        self._bar.set_postfix(shown, refresh=False)
        self._bar.update(done - self._bar.n)


def _import_tqdm() -> Any:
    """Only a bar needs it."""
    try:
        from tqdm import tqdm
    except ImportError as error:
        raise ImportError("progress=True needs tqdm: pip install tqdm") from error
    return tqdm
