"""log p(x) between two bounds: annealed importance sampling with HMC transitions, and its reverse from an exact draw.

Annealed importance sampling (Neal 2001) from N(0, s²) in the coordinates y of a Gaussian
(`hmcvae.posteriors`) to the posterior,

    log p_β(y) = (1 - β) log N(y; 0, s²) + β [log p(x, c + A y) + log |det A|],   0 = β_0 < β_1 < … < β_T = 1,
    log w = Σ_t (β_t - β_{t-1}) [log p(x, y_{t-1}) - log N(y_{t-1}; 0, s²)],   E[w] = p(x),

with y_t from y_{t-1} by transitions that leave p_{β_t} invariant, so that log (1/K) Σ w_k is in the mean below
log p(x). Run backwards from an exact draw of the posterior the same sum is an unbiased estimate of 1 / p(x), so that
-log (1/K) Σ 1/w'_k is in the mean above it (Grosse, Ghahramani & Adams 2015; Wu et al. 2017 for decoders). Exact draws
are had for data that the model itself has made.
"""

from hmcvae.annealing.chains import sigmoid_schedule
from hmcvae.annealing.estimates import AISEstimate, ais, reverse_ais
from hmcvae.annealing.simulation import simulate

__all__ = ["AISEstimate", "ais", "reverse_ais", "sigmoid_schedule", "simulate"]
