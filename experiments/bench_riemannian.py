"""Riemannian HMC against BlackJAX, mici and its own floor: `python -m experiments.bench_riemannian`.

What is measured and how: `experiments/benchmarks/riemannian`.
"""

from experiments.benchmarks.riemannian.run import main
from experiments.support.failures import fail_cleanly

if __name__ == "__main__":
    fail_cleanly(main)
