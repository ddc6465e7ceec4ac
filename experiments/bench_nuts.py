"""The no-U-turn sampler against BlackJAX's: `python -m experiments.bench_nuts`.

What is measured and how: `experiments/benchmarks/nuts`.
"""

from experiments.benchmarks.nuts.run import main
from experiments.support.failures import fail_cleanly

if __name__ == "__main__":
    fail_cleanly(main)
