"""The folder of compiled programs that the workers of these tests share (see conftest.py)."""

from pathlib import Path

import jax


def test_half_of_a_program_is_compiled_anew():
    """As a worker finds it that reads while another writes: its warning is no error of a test."""

    @jax.jit
    def a_program_of_this_test(x):
        return 3 * x

    assert a_program_of_this_test(2) == 6
    (entry,) = Path(jax.config.jax_compilation_cache_dir).glob("jit_a_program_of_this_test-*-cache")
    entry.write_bytes(entry.read_bytes()[:20])
    jax.clear_caches()
    assert a_program_of_this_test(2) == 6
