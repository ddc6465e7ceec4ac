"""Seconds, operations and memory of a training epoch of each bound: `python -m experiments.bench_bounds`.

What is measured and how: `experiments/benchmarks/bounds`.
"""

from experiments.benchmarks.bounds.run import main
from experiments.support.failures import fail_cleanly

if __name__ == "__main__":
    fail_cleanly(main)
