"""Threads enough for jaxlib's factorisations, on machines of few cores."""

import os

# Of the pool, on a machine that has fewer cores.
MIN_THREADS = 4


def spare_threads() -> None:
    """Give XLA's CPU pool at least four threads, unless NPROC is set; to be called before JAX computes anything.

    jaxlib's batched factorisations (eigh, LU) run on a thread of the pool, hand it the parts of their batch, and wait.
    Where one program has two at once, as SoftAbs under Newton's method and BlackJAX's rmhmc in float64 have, and
    the pool has two threads, both wait and neither is served: the program never ends. Seen with jaxlib 0.10.2 on two
    cores within 150 calls of

        jax.jit(lambda A, S: (jnp.linalg.eigh(S)[0], jnp.linalg.solve(A, jnp.ones((500, 20, 1)))))

    for A and S of shape [500, 20, 20] in float64; with four threads it ends.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if cores < MIN_THREADS:
        os.environ.setdefault("NPROC", str(MIN_THREADS))
