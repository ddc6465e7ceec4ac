"""What a training epoch of each bound costs, and pythae's RHVAE: `python -m experiments.bench_bounds --data-dir DIR`.

Nets, images, batches, optimizer and the turns that the contestants take are those of `experiments.bench_training`; the
contestants are the bounds with a per-example metric, all with 3 leapfrog steps, and pythae's `RHVAE` with
n_lf = 3 and its own metric net.

A bound with the Fisher metric has to pay for the metric (the Fisher Gaussian's cost beyond that of the VAE) and for the
leapfrog steps (HVI's cost): `parts` is the sum of the two. RHVI's parts are a contestant of its own, measured beside
it: the same posterior, nets and positions, and at each of them the metric, its factor, the gradients of log |G| and of
log p, moved by explicit steps (`benchmarks/training/parts.py`). RHVI over it is the price of the solves and of the
forces.
"""
