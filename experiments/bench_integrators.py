"""Leapfrog against BlackJAX and against the bare gradient: `python -m experiments.bench_integrators`."""

from experiments.benchmarks.integrators import main
from experiments.support.failures import fail_cleanly

if __name__ == "__main__":
    fail_cleanly(main)
