"""Data from a disk, and code for many devices: rates, overhead and bytes; `python -m experiments.bench_scaling`.

What is measured and how: `experiments/benchmarks/scaling`.
"""

from experiments.benchmarks.scaling.run import main
from experiments.support.failures import fail_cleanly

if __name__ == "__main__":
    fail_cleanly(main)
