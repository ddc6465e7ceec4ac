"""Riemannian HMC against BlackJAX, mici and its own floor: `python -m experiments.bench_riemannian [--quick]`.

The density is a Bayesian logistic regression on made-up data: standard normal covariates, coefficients drawn from
0.5 N(0, 1), prior N(0, 100), 1000 × 25 unless said otherwise. The metric is its Fisher information; ε = 0.5, six
steps. Chains start at the mode; 20 transitions are made before any clock runs, and compilation is timed apart.

- **Against BlackJAX**: transitions per second of `hmcvae.rmhmc` (generalized leapfrog), of BlackJAX's `rmhmc`
  (implicit midpoint, its own defaults), and of our kernel with our implicit midpoint, for the same integrator.
  Contestants take turns within each round, as in `bench_integrators`; every call goes on from where the last one ended.
  In float64 our default tolerance is 2e-12 of the scale of what is solved for; BlackJAX stops at a last correction of
  1e-6, whatever the scale. A row of ours with a relative tolerance of 1e-8 (about 1e-6 for these momenta) shows the
  same accuracy at the same price.
- **Against mici**: the least effective sample size (ArviZ's bulk ESS, of all z_i and z_i²) per CPU second of all
  threads, one chain in float64, the number of steps drawn from 1 … 6. mici's implicit leapfrog advances 2ε of time in
  a step of size ε, so it is given ε/2; that one step is then ours is checked before anything is timed. Its range of
  steps leaves out the upper end (against its documentation), so it is given (1, 7). It has explicit NumPy functions for
  the density, gradient, metric and the metric's vector-Jacobian product, sharing what can be shared, and BLAS on one
  thread, which is its fastest. It checks the reversibility of every step, as ours does by default. The minimum over
  50 estimates is lower for a shorter chain, so ours is cut into stretches as long as mici's chain, of which the median
  counts.
- **The way back**: `hmcvae rmhmc` takes every step back, as it does by default; BlackJAX does not, and a row of ours
  says what it costs: "not taken back". All else here (midpoint rule, looser tolerance, floor, growth) is without.
- **The floor**: the seconds of a step inside a trajectory, against the sum of its parts, each alone in a loop of its
  own: building G and its Cholesky factor, the gradient of log |G| from there, ∇U, and the iterations that were made.
  For G, Cholesky and log-determinant the less of two counts: the three apart, or `metric.geometry`, which shares their
  work. Under `vmap` all chains make the iterations of the slowest.
- **Growth** of steps per second with the dimension, the rows of data and the number of chains. With d the
  coefficients shrink as 1/√d, so that the logits keep their spread.
"""
