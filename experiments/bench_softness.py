"""Which softness SoftAbs should have, in which units: `python -m experiments.bench_softness`.

What is measured and how: `experiments/benchmarks/softness`.
"""

from experiments.benchmarks.softness.run import main
from experiments.support.failures import fail_cleanly

if __name__ == "__main__":
    fail_cleanly(main)
