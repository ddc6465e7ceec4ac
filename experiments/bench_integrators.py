"""Leapfrog against BlackJAX and against the bare gradient: `python -m experiments.bench_integrators`.

What each contestant does: `experiments/benchmarks/integrators`.
"""

from experiments.benchmarks.integrators.run import main
from experiments.support.failures import fail_cleanly

if __name__ == "__main__":
    fail_cleanly(main)
