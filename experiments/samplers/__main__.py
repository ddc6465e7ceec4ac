"""Where geometry wins: `python -m experiments.samplers`."""

from experiments.samplers.geometry.run import main
from experiments.support.failures import fail_cleanly

if __name__ == "__main__":
    fail_cleanly(main)
