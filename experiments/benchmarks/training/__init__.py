"""Seconds an epoch against pythae: `python -m experiments.bench_training --data-dir DIR [--quick]`.

One net (784-300-300-20 tanh MLPs both ways), one batch size, one optimizer (Adam, 1e-3), the same 6,000 grey MNIST
images, and as many whole batches an epoch. The contestants:

- **hmcvae**: `training.make_epoch`, with `bounds.elbo(kl="analytic")`, which is pythae's own objective for its VAE,
  and with `bounds.hvi`: 3 leapfrog steps, learned masses, step size and reverse model, exact gradients. What it does
  besides is in its time: it shuffles, converts bytes to floats, draws its noise, checks every gradient for being
  finite. Two more rows draw new bits from the grey values in every epoch, as one would train.
- **pythae**: its `VAE` and `HVAE` (n_lf = 3, learned step size) with nets of the same shape, in a plain loop without
  DataLoader over float images made beforehand, and with Adam as PyTorch's single fused kernel, the fastest that it
  offers. Two more rows are pythae's own `BaseTrainer`, with its DataLoader and its Adam. `HVAE` refuses grey values
  unless torch's check of a distribution's arguments is off, so it is off, which also saves it time. Its gradient
  leaves out the second-order terms; one more row puts them in, to compare equal work.

Each library runs in processes of its own: one with all cores and one with a single core, where the figures depend
least on what else the machine does. They wait while another works: the contestants take turns, an epoch each, in
several rounds. Compilation and the first epoch come before. A ratio is of medians over the rounds, pythae's over ours
on as many cores. CPU seconds are those of all threads: they leave out the time when other programs held the cores.
"""
