"""The comparison trains what is missing, keeps what is there, and writes its table and picture."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import pytest

from experiments.comparison import run as compare_bounds
from experiments.comparison.run import WARM, CompareConfig, compare, run_config
from experiments.configs import Elbo, Fisher, FullCovariance, Hvi, preset
from experiments.reporting import curves
from experiments.reporting.curves import DERIVATIVES, EPOCHS, SECONDS
from experiments.runs import evaluation as evaluate
from experiments.runs.model import build, load_data, load_run, start_params
from experiments.runs.training import train
from experiments.support.records import EpochRecord, Likelihood, Monitored
from hmcvae.annealing import AISEstimate


def options(tmp_path, **changes) -> CompareConfig:
    settings = {
        "presets": ("digits_vae", "digits"),
        "seeds": (0, 1),
        "num_epochs": (1,),
        "eval_samples": 4,
        "eval_images": 10,
        "eval_temperatures": 0,
        "folder": tmp_path / "runs",
        "results": tmp_path / "results",
        "name": "digits_bounds",
    }
    return CompareConfig(**(settings | changes))


@pytest.mark.slow
def test_compare_writes_a_table_and_repeats_nothing(tmp_path, monkeypatch):
    rows = compare(options(tmp_path, monitor_samples=3), "the command")
    records = [json.loads(p.read_text()) for p in (tmp_path / "runs").glob("*/metrics.jsonl")]
    assert [record["test_draws"] for record in records] == [3] * 4
    assert [row["method"] for row in rows] == ["VAE", "HVI, 4 leapfrog steps"]
    assert all(row["num_seeds"] == 2 and row["seconds_per_epoch"] > 0 for row in rows)
    report = json.loads((tmp_path / "results/digits_bounds.json").read_text())
    assert len(report["rows"][0]["bound"]["values"]) == 2
    assert all(1 <= row["ess"] <= 4 for row in report["rows"])
    assert "the command" in (tmp_path / "results/digits_bounds.md").read_text()
    assert (tmp_path / "results/digits_bounds.png").stat().st_size > 10_000

    def refuse(_):
        raise AssertionError("a finished run was trained again")

    monkeypatch.setattr(compare_bounds, "train", refuse)
    again = compare(options(tmp_path, monitor_samples=9), "the command")
    assert [row["bound"] for row in again] == [row["bound"] for row in rows]


def test_labels_name_the_method_and_its_lengths():
    assert preset("mnist_vae").method.label == "VAE"
    assert preset("mnist_iwae").method.label == "IWAE, K = 5"
    assert preset("mnist_hvi1").method.label == "HVI, 1 leapfrog step"
    assert preset("mnist_hvi_plain").method.label == "HVI, 4 leapfrog steps, standard momentum"


def test_epochs_are_for_all_or_for_each(tmp_path):
    assert run_config(options(tmp_path, num_epochs=(3, 7)), "digits", 1).training.num_epochs == 7
    assert run_config(options(tmp_path), "digits", 1).training.seed == 1
    with pytest.raises(ValueError, match="one number or one for each of 2 presets, got \\(1, 2, 3\\)"):
        options(tmp_path, num_epochs=(1, 2, 3))
    with pytest.raises(ValueError, match="presets must be among"):
        options(tmp_path, presets=("nope",))


def annealed(vae, params, seed, name, examples, num_simulated, *, num_temperatures, num_chains, **_):
    """In place of annealing, which takes long to compile: a tenth of a nat between the estimates."""

    def made(count: int, value: float) -> AISEstimate:
        ones = jnp.ones(count)
        return AISEstimate(value * ones, 0.5 * ones, 0.75 * num_chains * ones, 0.65 * ones, 0.0 * ones)

    return made(len(examples), -20.0), made(num_simulated, -19.1), made(num_simulated, -19.0)


@pytest.mark.slow
def test_at_equal_seconds_the_others_go_on_from_the_vae(tmp_path, monkeypatch):
    monkeypatch.setattr(evaluate, "anneal", annealed)
    monkeypatch.setattr(
        compare_bounds, "seconds_per_epoch", lambda *_, **__: {"digits_vae": 1.0, "digits": 2.0}
    )
    own = options(tmp_path, seconds=4.0, warm_start=0.5, seeds=(0,), eval_temperatures=5)
    rows = compare(own, "the command")
    plan = json.loads((tmp_path / "runs/plan.json").read_text())
    assert plan["epochs"] == {"digits_vae": 4, "digits": 1, "warm start": 2}
    assert rows[0]["gap"]["mean"] == pytest.approx(
        rows[0]["log_likelihood_ais"]["mean"] - rows[0]["bound"]["mean"]
    )
    started = json.loads((tmp_path / "runs/digits-seed0/config.json").read_text())
    assert started["start_from"].endswith("warm_start-seed0")
    assert [row["seconds"] for row in rows] == [4.0, 4.0]
    with pytest.raises(ValueError, match="of other seconds or another share"):
        compare(options(tmp_path, seconds=5.0, warm_start=0.5), "the command")
    more = dataclasses.replace(own, presets=(*own.presets, "digits_2d"))
    with pytest.raises(ValueError, match="has no pace of digits_2d"):
        compare(more, "the command")
    text = (tmp_path / "results/digits_bounds.md").read_text()
    assert "sandwich's width" in text
    assert "8 chains" in text
    assert rows[1]["ess_ais"] == 6.0
    assert rows[1]["width"]["mean"] == pytest.approx(0.1, abs=1e-5)
    assert "-20.00 (6.0)" in text
    # Another number of temperatures is another evaluation, of a file of its own and without training.
    config = dataclasses.replace(run_config(own, "digits", 0), eval_temperatures=6)
    monkeypatch.setattr(compare_bounds, "train", lambda _: pytest.fail("trained again"))
    before = (tmp_path / "runs/digits-seed0/evaluation.json").read_text()
    assert compare_bounds.run_one(config)[0]["ais"]["num_temperatures"] == 6
    assert (tmp_path / "runs/digits-seed0/evaluation.json").read_text() == before
    assert (tmp_path / "runs/digits-seed0/evaluation-epoch1-k4-n10-t6x8-seed0.json").is_file()
    other = dataclasses.replace(config, latent_dim=3)
    with pytest.raises(ValueError, match="of another config: latent_dim: 8 -> 3"):
        compare_bounds.run_one(other)


def test_a_run_starts_with_the_other_ones_nets_or_says_why_not(tmp_path):
    first = dataclasses.replace(
        preset("digits_vae"),
        run_dir=tmp_path / "first",
        eval_samples=2,
        eval_images=4,
        training=dataclasses.replace(preset("digits_vae").training, num_epochs=1),
    )
    train(first, quiet=True)
    trained = load_run(tmp_path / "first")[3]["vae"]
    for posterior in (FullCovariance(), Fisher()):
        config = dataclasses.replace(first, start_from=tmp_path / "first", method=Hvi(posterior))
        model = build(config, load_data(config))
        params = start_params(config, model)
        jax.tree.map(np.testing.assert_array_equal, params["vae"]["decoder"], trained["decoder"])
        head = params["vae"]["encoder"]["params"]["GaussianHead_0"]
        expected = trained["encoder"]["params"]["GaussianHead_0"]
        np.testing.assert_array_equal(head["mean"]["kernel"], expected["mean"]["kernel"])
        is_flat = not np.any(head["log_scale"]["kernel"])
        assert is_flat == isinstance(posterior, Fisher)
    # What another posterior has learned is taken over as far as it is the same.
    second = dataclasses.replace(
        first, method=Elbo(FullCovariance(num_centre_steps=1)), run_dir=tmp_path / "second"
    )
    train(second, quiet=True)
    learned = load_run(tmp_path / "second")[3]["bound"]["posterior"]
    config = dataclasses.replace(
        first, start_from=tmp_path / "second", method=Hvi(FullCovariance(num_centre_steps=2))
    )
    model = build(config, load_data(config))
    bound = start_params(config, model)["bound"]
    jax.tree.map(np.testing.assert_array_equal, bound["posterior"]["base"], learned["base"])
    assert jax.tree.leaves(learned["base"])
    assert np.any(
        jax.tree.leaves(learned["base"])[0] != jax.tree.leaves(model.params["bound"]["posterior"]["base"])[0]
    )
    assert bound["posterior"]["step"].shape == (2,)
    others = {name: own for name, own in bound.items() if name != "posterior"}
    jax.tree.map(
        np.testing.assert_array_equal, others, {name: model.params["bound"][name] for name in others}
    )
    other = dataclasses.replace(first, start_from=tmp_path / "first", latent_dim=3)
    with pytest.raises(ValueError, match="has other nets"):
        start_params(other, build(other, load_data(other)))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"seconds": -1.0}, "seconds must be a finite number of at least 0, got -1.0"),
        ({"warm_start": 1.0, "seconds": 3.0}, "warm_start must be below 1"),
        ({"warm_start": 0.5}, "warm_start needs seconds"),
        ({"monitor_samples": -1}, "monitor_samples must be a whole number of at least 0, got -1"),
    ],
)
def test_bad_plans_are_refused(tmp_path, changes, message):
    with pytest.raises(ValueError, match=message):
        options(tmp_path, **changes)


def test_methods_are_named_by_their_posterior():
    assert preset("mnist_recentred_gaussian").method.label == "Gaussian (full covariance, recentred × 2)"
    assert preset("mnist_amortised").method.label == "HVI (full covariance, recentred × 2), 4 leapfrog steps"
    assert Elbo(Fisher(rank=2, distillation=0.5)).label == "Gaussian (Fisher, rank 2, distilled)"


# The curves.


def records(bounds, gap=None, draws=20, split="test") -> list[EpochRecord]:
    """A run's, with these bounds by epoch; with a gap, log p(x) too, on images whose bound is a nat higher."""
    found = []
    for epoch, bound in enumerate(bounds, start=1):
        likelihood = None if gap is None else Likelihood(bound + 1 + gap, gap, draws)
        found.append(EpochRecord(epoch, bound, 1.0, 0.0, 0, 0, Monitored(split, bound, likelihood)))
    return found


def test_curves_of_runs_with_a_validation_set_are_of_that():
    runs = [records([-3.0], split="validation")]
    curve = curves.make_curve(runs, curves.quantities(runs), 1.0, 1)
    assert {name: values.tolist() for name, values in curve.values.items()} == {
        "validation bound, nats": [[-3.0]]
    }
    with pytest.raises(ValueError, match="monitored on the same images, got test and validation"):
        curves.quantities([*runs, records([-3.0])])


@pytest.fixture
def drawn(monkeypatch) -> list:
    """The figures that were drawn, before they are saved."""
    figures: list = []
    monkeypatch.setattr(curves, "save_figure", lambda figure, path: figures.append(figure))
    yield figures
    for figure in figures:
        plt.close(figure)


def test_a_curve_is_the_mean_over_seeds_with_its_standard_error():
    low, mean, high = curves.band(np.array([[1.0, 5.0], [2.0, 5.0], [6.0, 5.0]]))
    np.testing.assert_allclose(mean, [3.0, 5.0])
    # Squared deviations 4 + 1 + 9 over (3 - 1), over 3 seeds.
    np.testing.assert_allclose(high - mean, [np.sqrt(7 / 3), 0.0])
    np.testing.assert_allclose(mean - low, high - mean)


def test_log_likelihood_is_drawn_where_every_epoch_has_it_with_the_bound_of_its_images():
    with_it, without = records([-9.0, -8.0], gap=0.5), records([-9.0, -8.0])
    both = curves.quantities([with_it, with_it])
    assert list(both) == ["test bound, nats", "test log p(x), nats\n(20 draws an image)"]
    assert [of(with_it[1]) for of in both.values()] == [-7.0, -6.5]
    for runs in ([with_it, without], [without[:1] + with_it[1:]]):
        (bound_fn,) = curves.quantities(runs).values()
        assert bound_fn(with_it[1]) == -8.0
    more = records([-9.0, -8.0], gap=0.5, draws=25)
    assert list(curves.quantities([with_it, more]))[1].endswith("(20 to 25 draws an image)")


def test_seeds_of_other_lengths_are_refused():
    with pytest.raises(ValueError, match="seeds of the same epochs, got .2, 1. of them"):
        curves.make_curve([records([-2.0, -1.0]), records([-2.0])], {}, 1.0, 1)


def test_the_picture_has_bands_over_seeds_and_shows_the_end(tmp_path, drawn):
    """The first epoch's -500 sets no limit; the second method's end, long before the first one's, is in view."""
    own = options(tmp_path, seeds=(0, 1, 2))
    bounds = [-500.0, -60.0, -30.0, -26.0, -24.0, -23.0, -22.5, -22.0]
    runs = {
        (name, seed): records([bound + seed + shift for bound in bounds], gap=0.5)
        for name, shift in (("digits_vae", 0.0), ("digits", 1.0))
        for seed in own.seeds
    }
    compare_bounds._draw(own, runs, {"digits_vae": 2.0, "digits": 20.0}, tmp_path / "a.png")
    (figure,) = drawn
    grid = np.array(figure.axes).reshape(2, 3)
    assert [axes.get_xlabel() for axes in grid[1]] == [EPOCHS, SECONDS, DERIVATIVES]
    assert "digits: mean over 3 seeds (0, 1, 2), with bands of ± one standard error" in figure.get_suptitle()
    ends = [[line.get_xdata()[-1] for line in axes.lines] for axes in grid[0]]
    assert ends == [[8, 8], [16.0, 160.0], [8, 8 * 5]]
    for panels, level in ((grid[0], 1.0), (grid[1], 1.5)):
        for axes in panels:
            np.testing.assert_allclose(
                [line.get_ydata()[-1] for line in axes.lines], [level - 21, level - 20]
            )
            assert len(axes.collections) == 2
            low, high = axes.get_ylim()
            error = 1 / np.sqrt(3)
            assert low < level + 1 - 60 - error < low + 5
            assert high - 5 < level - 20 + error < high
    assert [axes.get_xscale() for axes in grid[1]] == ["linear", "log", "linear"]
    assert grid[1, 1].get_xlim()[0] < 16 < 160 < grid[1, 1].get_xlim()[1]


def test_the_legend_stands_below_the_curves(tmp_path, drawn):
    own = options(tmp_path)
    runs = {(name, seed): records([-3.0, -2.0]) for name in own.presets for seed in own.seeds}
    compare_bounds._draw(own, runs, {"digits_vae": 1.0, "digits": 3.0}, tmp_path / "a.png")
    (figure,) = drawn
    assert len(figure.axes) == 3
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == ["VAE", "HVI, 4 leapfrog steps"]
    figure.canvas.draw()
    assert all(axes.get_legend() is None for axes in figure.axes)
    assert legend.get_window_extent().y1 <= min(axes.get_tightbbox().y0 for axes in figure.axes)


@pytest.mark.parametrize("values", [[-5.0, float("nan"), -3.0, float("-inf")], [float("nan")]])
def test_curves_are_drawn_over_gaps_and_one_seed_has_no_band(tmp_path, drawn, values):
    own = options(tmp_path, seeds=(4,))
    runs = {(name, 4): records(values) for name in own.presets}
    compare_bounds._draw(own, runs, {"digits_vae": 1.0, "digits": 3.0}, tmp_path / "a.png")
    (figure,) = drawn
    assert not any(axes.collections for axes in figure.axes)
    assert figure.get_suptitle() == "digits: one seed (4)"


def test_after_a_warm_start_the_others_go_on_at_its_last_point(tmp_path, drawn):
    own = options(tmp_path, seconds=12.0, warm_start=0.5)
    lengths = {"digits_vae": 6, WARM: 3, "digits": 2}
    runs = {
        (name, seed): records(np.arange(length) - (40.0 if name == WARM else 30.0) + seed)
        for name, length in lengths.items()
        for seed in own.seeds
    }
    compare_bounds._draw(own, runs, {"digits_vae": 2.0, "digits": 3.0}, tmp_path / "a.png")
    (figure,) = drawn
    for axes, vae, hvi in zip(
        figure.axes, (6, 12, 6), ([3, 4, 5], [6, 9, 12], [3, 3 + 5, 3 + 10]), strict=True
    ):
        first, second = axes.lines
        assert first.get_xdata()[-1] == vae
        np.testing.assert_allclose(second.get_xdata(), hvi)
        np.testing.assert_allclose(second.get_ydata(), [-37.5, -29.5, -28.5])
    assert figure.get_suptitle().endswith("all but VAE go on from a VAE of 6 seconds")


def test_a_comparison_of_before_is_drawn_and_says_what_it_lacks(tmp_path, drawn, capsys):
    own = options(tmp_path, monitor_samples=20)
    runs = {(name, seed): records([-3.0, -2.0], gap=0.5) for name in own.presets for seed in own.seeds}
    runs["digits", 1] = records([-3.0, -2.0])
    compare_bounds._draw(own, runs, {"digits_vae": 1.0, "digits": 3.0}, tmp_path / "a.png")
    assert len(drawn[0].axes) == 3
    assert "log p(x) is not drawn" in capsys.readouterr().out
    assert run_config(own, "digits", 0).monitor_samples == 20
