"""Train one model: `python -m experiments.train`."""

from experiments.runs.training import main
from experiments.support.failures import fail_cleanly

if __name__ == "__main__":
    fail_cleanly(main)
