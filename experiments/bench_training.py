"""Seconds an epoch against pythae: `python -m experiments.bench_training`."""

from experiments.benchmarks.training import main
from experiments.support.failures import fail_cleanly

if __name__ == "__main__":
    fail_cleanly(main)
