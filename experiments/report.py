"""Tables and pictures of a study: `python -m experiments.report`."""

from experiments.study.report import main
from experiments.support.failures import fail_cleanly

if __name__ == "__main__":
    fail_cleanly(main)
