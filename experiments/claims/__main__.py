"""What the published pages claim, held to the JSON it comes from: `python -m experiments.claims`."""

from experiments.claims.run import main
from experiments.support.failures import fail_cleanly

fail_cleanly(main)
