"""What each bound makes of one decoder held fixed: `python -m experiments.study`."""

from experiments.study.run import main
from experiments.support.failures import fail_cleanly

fail_cleanly(main)
