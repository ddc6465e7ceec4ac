"""All methods on a net of the literature, beside its published figures: `python -m experiments.published`."""

from experiments.published.run import main
from experiments.support.failures import fail_cleanly

fail_cleanly(main)
