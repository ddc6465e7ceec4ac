"""HMC and RMHMC on a banana, funnels and a logistic regression: `python -m experiments.compare_samplers`."""

from experiments.samplers.comparison import main
from experiments.support.failures import fail_cleanly

if __name__ == "__main__":
    fail_cleanly(main)
