"""Bayesian logistic regression, beside Girolami & Calderhead (2011): `python -m experiments.logistic_regression`."""

from experiments.samplers.logistic import main
from experiments.support.failures import fail_cleanly

if __name__ == "__main__":
    fail_cleanly(main)
