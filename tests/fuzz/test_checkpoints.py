"""Checkpoints with bytes flipped, files cut off or gone: the same bits as before, or an error that names the folder."""

import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import hmcvae
from hmcvae.saved import Description
from hmcvae.training import Checkpoints, adam, init_state
from tests.support.fuzz import changed_json, damages, fuzz, refusal

DESCRIPTION = Description((3, 3, 1), 2, "bernoulli", hidden=(3,))

# Where the checksums are gone Orbax meets the damage itself, and leaves other reads behind the one that fails.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")


def state(seed):
    _, init_params, _ = DESCRIPTION.build()
    params = {"vae": init_params(jax.random.key(seed)), "bound": {}}
    return init_state(params, adam(1e-3, "cosine", 2), seed)


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """(the folder of a run, its state, what its files hold)."""
    run = tmp_path_factory.mktemp("run")
    own = state(0)
    checkpoints = Checkpoints(run / "checkpoints")
    checkpoints.save(1, own)
    checkpoints.close()
    (run / "model.json").write_text(json.dumps(DESCRIPTION.to_json()))
    files = {path.relative_to(run): path.read_bytes() for path in run.rglob("*") if path.is_file()}
    return run, own, files


def write_again(run, files):
    shutil.rmtree(run / "checkpoints", ignore_errors=True)
    for name, raw in files.items():
        (run / name).parent.mkdir(parents=True, exist_ok=True)
        (run / name).write_bytes(raw)


def same(a, b):
    pairs = zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    return all(x.dtype == y.dtype and np.array_equal(x, y) for x, y in pairs)


@st.composite
def damaged_runs(draw):
    """files -> files: one of the checkpoint's is damaged or gone, and the checksums of all are there or not, as of a
    save that was killed before them."""
    place, has_checksums = draw(st.floats(0, 1, exclude_max=True)), draw(st.booleans())
    damage, is_gone = draw(damages()), draw(st.integers(0, 5)) == 0

    def change(files):
        names = sorted(
            name for name in files if "checkpoints" in name.parts and name.name != "checksums.json"
        )
        # Half of them where most of the numbers are.
        largest = max(names, key=lambda name: len(files[name]))
        chosen = largest if place < 0.5 else names[int((2 * place - 1) * len(names))]
        kept = {name: raw for name, raw in files.items() if has_checksums or name.name != "checksums.json"}
        if is_gone:
            kept.pop(chosen)
        else:
            kept[chosen] = damage(kept[chosen])
        return kept

    return change


@fuzz(70)
@given(damaged_runs())
def test_a_damaged_checkpoint_is_never_restored_as_other_numbers(written, change):
    run, own, files = written
    write_again(run, change(files))
    like = state(1)
    found = []

    def restore():
        checkpoints = Checkpoints(run / "checkpoints")
        try:
            found.append(checkpoints.restore(like))
        finally:
            checkpoints.close()

    said = refusal(restore, ValueError, OSError)
    if said is None:
        assert same(found[0], own)
    else:
        assert str(run / "checkpoints") in said


@fuzz(70)
@given(damaged_runs())
def test_a_damaged_checkpoint_is_never_loaded_as_another_model(written, change):
    run, own, files = written
    write_again(run, change(files))
    found = []
    said = refusal(lambda: found.append(hmcvae.load(run)), ValueError, OSError)
    if said is None:
        assert same(found[0].params, own.params["vae"])
    else:
        assert str(run) in said


@fuzz(60)
@given(changed_json(DESCRIPTION.to_json()))
def test_a_changed_description_is_of_this_model_or_refused(written, values):
    run, own, files = written
    write_again(run, files)
    (run / "model.json").write_text(json.dumps(values))
    found = []
    said = refusal(lambda: found.append(hmcvae.load(run)), ValueError)
    if said is None:
        assert same(found[0].params, own.params["vae"])
        assert np.all(np.isfinite(found[0].decode(jnp.zeros((1, 2), jnp.float32))))
    else:
        assert str(run) in said


@pytest.mark.parametrize(
    ("tree", "message"),
    [
        ({"params": {"vae": {"w": np.zeros(3)}}}, "is not of a training: expected .* a whole epoch"),
        ({"params": {"vae": {"w": np.zeros(3, int)}}, "epoch": 1}, "expected floats, got int"),
        ({"own": np.zeros(3)}, "is not of a training"),
        ({"params": np.zeros(3), "epoch": 1}, "is not of a training"),
    ],
)
def test_a_checkpoint_of_something_else_is_refused(tmp_path, tree, message):
    checkpoints = Checkpoints(tmp_path / "checkpoints")
    checkpoints.save(1, tree)
    checkpoints.close()
    (tmp_path / "model.json").write_text(json.dumps(DESCRIPTION.to_json()))
    with pytest.raises(ValueError, match=message):
        hmcvae.load(tmp_path)
