"""Seconds an epoch against pythae: `python -m experiments.bench_training`.

What is measured and how: `experiments/benchmarks/training`.
"""

from experiments.benchmarks.training.run import main
from experiments.support.failures import fail_cleanly

if __name__ == "__main__":
    fail_cleanly(main)
