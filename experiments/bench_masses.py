"""Masses of a warm-up, from variances or from draws and gradients: `python -m experiments.bench_masses`.

What is measured and how: `experiments/benchmarks/masses`.
"""

from experiments.benchmarks.masses.run import main
from experiments.support.failures import fail_cleanly

if __name__ == "__main__":
    fail_cleanly(main)
