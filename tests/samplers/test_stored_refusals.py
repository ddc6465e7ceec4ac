"""Folders of draws that are not this run's, are held by another process, or were damaged; and bad options."""

import json
import multiprocessing

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import hmcvae
from hmcvae import integrators, metrics
from hmcvae.samplers import pieces
from hmcvae.samplers.hamiltonian import hmc
from hmcvae.samplers.langevin import mmala
from hmcvae.samplers.lengths import uniform_steps
from hmcvae.samplers.nuts import nuts
from hmcvae.samplers.run_folder import RunFolder
from hmcvae.samplers.sampling import sample
from hmcvae.samplers.stored import Store
from tests.support.gaussians import normal
from tests.support.sampling import ALGORITHM, STARTS, draw

SLOW_START = ALGORITHM._replace(step_size=0.1)


def toward(folder, **options):
    return draw(algorithm=SLOW_START, num_warmup=60, folder=folder, **options)


class TestRefusals:
    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"resume": False}, "holds a run: give resume=True to go on with it, or another folder"),
            ({"seed": 9}, "holds another run: rng_key was"),
            ({"starts": STARTS + 1}, "holds another run: initial_positions was"),
            ({"thin": 2}, "holds another run: thin was 1, is 2"),
            ({"num_warmup": 61}, "holds another run: num_warmup was 60, is 61"),
            ({"num_samples": 11}, "holds 12 draws: num_samples must be at least as many, got 11"),
            ({"record": lambda state: state.position[0]}, "holds (another run: record was None|other draws)"),
        ],
    )
    def test_another_run(self, tmp_path, change, message):
        draw(algorithm=SLOW_START, num_warmup=60, num_samples=12, folder=tmp_path)
        options = {"num_warmup": 60, "num_samples": 30, "resume": True} | change
        with pytest.raises(ValueError, match=message):
            draw(algorithm=SLOW_START, folder=tmp_path, **options)
        assert hmcvae.load_samples(tmp_path).shape == (4, 12, 3)

    def test_another_algorithm(self, tmp_path):
        toward(tmp_path)
        other = hmcvae.mmala(normal, 0.1, hmcvae.metrics.identity())
        with pytest.raises(ValueError, match=r"holds another run: algorithm was 'hmc\(.*, is 'mmala\(\)'"):
            draw(algorithm=other, num_warmup=60, folder=tmp_path, resume=True)

    def test_a_folder_has_one_writer(self, tmp_path):
        context = multiprocessing.get_context("spawn")
        with context.Pool(1) as pool, Store(tmp_path).locked():
            held = pool.apply(is_held, (tmp_path,))
        assert held
        with Store(tmp_path).locked():
            pass

    @pytest.mark.parametrize("name", ["state.npz", "run.json", "draws/000-position.npy"])
    def test_a_file_that_is_cut(self, tmp_path, name):
        toward(tmp_path, num_samples=12)
        path = tmp_path / name
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
        with pytest.raises(ValueError, match=f"{path} (cannot be read|must hold 12 draws)"):
            hmcvae.load_samples(tmp_path)
        with pytest.raises(ValueError, match=f"{path} (cannot be read|must hold 12 draws)"):
            toward(tmp_path, resume=True, num_samples=12)
        if name.endswith("npy"):  # nor is what is missing filled in behind its back
            for change in (lambda: None, path.unlink):
                change()
                with pytest.raises(ValueError, match="must hold 12 draws.*it was cut"):
                    toward(tmp_path, resume=True)

    def test_options(self, tmp_path):
        a_file = tmp_path / "draws"
        a_file.touch()
        for options, message in [
            ({"thin": 0}, "thin must be a whole number of at least 1, got 0"),
            ({"record": 3}, "record must be"),
            ({"folder": 3}, "folder must be a path, got 3"),
            ({"folder": a_file}, "folder must be a folder, or be made as one, got the file"),
            ({"resume": True}, "resume needs the folder of a run"),
            ({"mesh": "cpu"}, "mesh must be a jax.sharding.Mesh"),
            ({"thin": 2**30}, "a chain takes at most 2146435072 transitions, got num_samples = 30"),
        ]:
            with pytest.raises(ValueError, match=message):
                draw(**options)
        with pytest.raises(ValueError, match="inside jit there is no folder to write to"):
            jax.jit(
                lambda x: sample(jax.random.key(0), ALGORITHM, x, num_samples=2, folder=tmp_path).position
            )(STARTS)
        with pytest.raises(FileNotFoundError, match="there is no run in"):
            hmcvae.load_samples(tmp_path / "none")


@pytest.mark.parametrize("name", ["thesis.txt", "state.npz", "draws/000-position.npy"])
def test_folders_of_something_else_are_left_alone(tmp_path, name):
    """Files in them may have the names of a run's."""
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text("mine")
    with pytest.raises(ValueError, match=f"new, empty or a run's, got .*, which holds {name.split('/')[0]}"):
        draw(num_samples=3, folder=tmp_path)
    assert (tmp_path / name).read_text() == "mine"
    assert [path.name for path in tmp_path.iterdir()] == [name.split("/")[0]]


def test_what_was_killed_before_it_began_is_begun_again(tmp_path):
    (tmp_path / "draws").mkdir()
    (tmp_path / "lock").touch()
    (tmp_path / "run.json.tmp").write_text("{")
    (tmp_path / ".DS_Store").touch()
    assert draw(num_samples=3, folder=tmp_path).shape == (4, 3, 3)


def is_held(folder):
    try:
        with Store(folder).locked():
            return False
    except ValueError as error:
        return "another process is writing to" in str(error)


class Stopped(BaseException):
    pass


def narrow(z):
    return -2 * jnp.sum(z**2)


def save_and_stop(self, stage, index, tree, save=RunFolder.save):
    save(self, stage, index, tree)
    if index > 9:
        raise Stopped


class TestAnotherRun:
    """Of its folder nothing is taken."""

    @pytest.mark.parametrize("num_samples", [0, 12])
    def test_another_density(self, tmp_path, num_samples, monkeypatch):
        """At the starts, all zero, the two densities and their gradients are equal."""
        monkeypatch.setattr(pieces, "MOST_DRAWS", 7)
        monkeypatch.setattr("hmcvae.samplers.running.SAVED", 0.0)
        options = {"starts": jnp.zeros((4, 3)), "num_warmup": 30, "folder": tmp_path}
        if num_samples:
            draw(algorithm=hmc(normal, 0.5, 2), num_samples=num_samples, **options)
        else:
            with monkeypatch.context() as context:
                context.setattr(RunFolder, "save", save_and_stop)
                with pytest.raises(Stopped):
                    draw(algorithm=hmc(normal, 0.5, 2), num_samples=12, **options)
        with pytest.raises(ValueError, match=r"another run: where chain \d stands, the log density was"):
            draw(algorithm=hmc(narrow, 0.5, 2), num_samples=20, resume=True, **options)
        found = draw(algorithm=hmc(lambda z: normal(z), 0.5, 2), num_samples=20, resume=True, **options)
        assert found.shape == (4, 20, 3)

    @pytest.mark.parametrize(
        ("one", "other", "message"),
        [
            (
                hmc(normal, 0.5, 2),
                hmc(normal, 0.5, 3),
                r"algorithm was 'hmc\(leapfrog, 2.*is 'hmc\(leapfrog, 3",
            ),
            (hmc(normal, 0.5, 2), hmc(normal, 0.5, 2, integrator=integrators.yoshida), "yoshida"),
            (hmc(normal, 0.5, 2), hmc(normal, 0.5, 2, divergence_threshold=10.0), "1000.*10"),
            (hmc(normal, 0.5, uniform_steps(1, 3)), hmc(normal, 0.5, uniform_steps(1, 4)), "high=3.*high=4"),
            (nuts(normal, 0.5, max_depth=3), nuts(normal, 0.5, max_depth=4), r"algorithm was 'nuts\("),
            (nuts(normal, 0.5, max_depth=3), hmc(normal, 0.5, 2), r"was 'nuts\(.*is 'hmc\("),
            (mmala(normal, 0.5, metrics.identity()), hmc(normal, 0.5, 2), r"was 'mmala\(\)', is 'hmc\("),
        ],
    )
    def test_another_kernel(self, tmp_path, one, other, message):
        draw(algorithm=one, num_samples=2, folder=tmp_path)
        with pytest.raises(ValueError, match=message):
            draw(algorithm=other, num_samples=3, folder=tmp_path, resume=True)

    def test_a_folder_of_an_older_version_says_no_kernel(self, tmp_path):
        draw(num_samples=2, folder=tmp_path)
        path = tmp_path / "run.json"
        found = json.loads(path.read_text())
        del found["run"]["algorithm"]
        path.write_text(json.dumps(found))
        assert draw(num_samples=3, folder=tmp_path, resume=True).shape == (4, 3, 3)

    @pytest.mark.parametrize("one", [1.0, 1, np.float32(1)])
    def test_equal_settings_of_other_kinds_are_the_same_run(self, tmp_path, one):
        draw(algorithm=hmc(normal, 0.5, 2, divergence_threshold=1.0), num_samples=2, folder=tmp_path)
        algorithm = hmc(normal, 0.5, np.int32(2), divergence_threshold=one)
        assert draw(algorithm=algorithm, num_samples=3, folder=tmp_path, resume=True).shape == (4, 3, 3)
