"""SoftAbs's softness: which one, in which units.

Riemannian HMC with `metrics.softabs` at softnesses from hard to soft, in the units of the posterior as it is written
(`scale=None`) and in its standard deviations, from the same starts, each with a step size of its own: failed solves,
and iterations of the solvers for an effective draw.
"""
