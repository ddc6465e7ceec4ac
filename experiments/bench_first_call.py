"""Seconds of first and later calls, against BlackJAX's: `python -m experiments.bench_first_call`.

What is measured and how: `experiments/benchmarks/first_call`.
"""

from experiments.benchmarks.first_call.run import main
from experiments.support.failures import fail_cleanly

if __name__ == "__main__":
    fail_cleanly(main)
