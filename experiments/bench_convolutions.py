"""Convolutions as matrix products on a CPU, against XLA's: `python -m experiments.bench_convolutions`.

What is measured and how: `experiments/benchmarks/convolutions`.
"""

from experiments.benchmarks.convolutions.run import main
from experiments.support.failures import fail_cleanly

if __name__ == "__main__":
    fail_cleanly(main)
