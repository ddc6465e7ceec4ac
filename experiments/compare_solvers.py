"""Which solver and which integrator for which density: `python -m experiments.compare_solvers`."""

from experiments.samplers.solvers import main
from experiments.support.failures import fail_cleanly

if __name__ == "__main__":
    fail_cleanly(main)
