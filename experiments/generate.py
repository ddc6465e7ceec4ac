"""Pictures of what a run's model has learned: `python -m experiments.generate`."""

from experiments.runs.pictures import main
from experiments.support.failures import fail_cleanly

if __name__ == "__main__":
    fail_cleanly(main)
