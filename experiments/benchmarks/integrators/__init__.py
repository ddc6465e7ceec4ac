"""Leapfrog steps per second: `python -m experiments.bench_integrators [--quick] [--peers blackjax mici]`.

In one run, each density × number of chains × dtype is integrated by every contestant:

- **ours**: `hmcvae.integrators.integrate` over `leapfrog`, with a diagonal metric;
- **BlackJAX**: `velocity_verlet` in its own trajectory loop, with the same diagonal mass;
- **the bare gradient**: a chained scan of `z ← z + τ jax.grad(logdensity_fn)(z)`. It holds the gradient of log p,
  one fused multiply-add of the position, and the loop; each position waits for the last gradient, so that nothing
  can be hoisted or overlapped. It has no momentum, mass or value of log p: no integrator can be cheaper. τ is so small
  that the chain stays where it began, since exp and log cost more far out than where a trajectory runs.

All start from the same draws from the density (its Laplace approximation for the logistic one), under `jax.vmap`
over chains and one `jax.jit`. A call is one trajectory of L steps, L chosen for a call of some 50 ms. Contestants
take turns within each round, so that a noisy machine is equally unfair to all. Over the calmer half of the rounds,
a rate is from the median time, and a ratio is the median of the ratios within a round (± its standard error).

Gaussians have a dense precision matrix P, log p = -½ zᵀ P z, whose gradient by `jax.grad` is two products with P:
work that a real density does too. The logistic regression has 1000 rows and 25 coefficients.

With `--peers` given, the Riemannian integrators are measured against those libraries too: see `bench_riemannian`.
"""
