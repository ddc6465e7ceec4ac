"""Seconds of first and later calls, against BlackJAX's.

A user waits for compilation at the first call, and again wherever one thing is another. Each sampler makes a run of
warm-up and draws of a stochastic volatility in a new process, then runs in which only the key, a length, the object or
the data differ. JAX reports by itself how long it traced, lowered and compiled. Ours are called through
`hmcvae.sample`, with its checks and diagnostics; BlackJAX's as its documentation has it, in one jitted function.
"""
