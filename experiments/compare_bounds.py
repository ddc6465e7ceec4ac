"""Several bounds on the same data and seeds: `python -m experiments.compare_bounds`."""

from experiments.comparison.run import main
from experiments.support.failures import fail_cleanly

if __name__ == "__main__":
    fail_cleanly(main)
