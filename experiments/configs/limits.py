"""What a setting may be at most."""

# Of steps, samples and the like: each is kept for the way back, and beyond it an allocation aborts the process.
MAX_LOOP = 10_000
MAX_WIDTH = 100_000
MAX_TEMPERATURES = 1_000_000
