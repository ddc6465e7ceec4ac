"""Evaluate a run's model: `python -m experiments.evaluate`."""

from experiments.runs.evaluation import main
from experiments.support.failures import fail_cleanly

if __name__ == "__main__":
    fail_cleanly(main)
