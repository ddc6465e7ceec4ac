"""An accelerator in one call, numerics, timings and trainings: `python -m experiments.accelerator`.

What is done and how: `experiments/benchmarks/accelerator`.
"""

from experiments.benchmarks.accelerator.run import main
from experiments.support.failures import fail_cleanly

if __name__ == "__main__":
    fail_cleanly(main)
