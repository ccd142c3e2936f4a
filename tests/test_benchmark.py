"""The benchmark command: fields, peers, ratios, arguments. Nothing here is timed."""

import functools
import json
import sys
from importlib import metadata

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from recraft_jax import (
    benchmark,
    benchmark_alignment,
    benchmark_bodies,
    benchmark_jobs,
    errors,
    measure,
)
from recraft_jax.losses import ot

SIZES = 12, 8, 5
TINY = {
    "vocab_size": 4,
    "max_position_embeddings": 8,
    "hidden_size": 8,
    "num_hidden_layers": 1,
    "num_attention_heads": 1,
    "intermediate_size": 8,
}
FA = functools.partial(
    benchmark_alignment.alignment, power=2, epsilon=0.5, tokens=1, sizes=SIZES
)


@pytest.fixture
def no_peer(monkeypatch):
    """As if neither were installed: `None` makes their import fail."""
    for name in ("torch", "geomloss"):
        monkeypatch.setitem(sys.modules, name, None)


@pytest.fixture
def fake_peer(monkeypatch):
    """Stands in for GeomLoss: exact, slow to a known degree, with a known error."""

    def setup(x, y, power, epsilon, scaling):
        (value, _), grad = benchmark_alignment.value_and_grad(
            x, y, power=power, epsilon=epsilon, self_x=None, threshold=1e-5
        )
        return {
            "call": lambda: None,
            "seconds": 1.0,
            "value": float(value),
            "grad": np.asarray(grad),
            "error": 1e-4 / scaling,
        }

    monkeypatch.setattr(benchmark_alignment, "_geomloss", setup)


def clouds():
    n, m, d = SIZES
    x = benchmark_alignment.features(n, d, seed=0)
    y = benchmark_alignment.features(m, d, seed=1, shift=0.3)
    return jnp.asarray(x), jnp.asarray(y)


class TestValueAndGrad:
    @pytest.mark.parametrize("power", [1, 2])
    def test_is_in_the_target(self, power):
        x, y = clouds()

        def step(y):
            (value, info), grad = benchmark_alignment.value_and_grad(
                x, y, power=power, epsilon=0.5, self_x=0.25, threshold=1e-5
            )
            assert info["converged"]
            return value, grad

        _, grad = step(y)
        assert grad.shape == y.shape
        move = jnp.asarray(np.random.default_rng(0).normal(size=y.shape), jnp.float32)
        move = 1e-2 * move / jnp.linalg.norm(move)
        slope = (step(y + move)[0] - step(y - move)[0]) / 2
        np.testing.assert_allclose(jnp.sum(grad * move), slope, rtol=1e-2, atol=1e-5)

    def test_features(self):
        x = benchmark_alignment.features(50, 64, seed=0, tokens=4)
        np.testing.assert_allclose(x.mean(1), 0, atol=1e-6)
        np.testing.assert_allclose(x.std(1), 0.5, rtol=1e-5)
        np.testing.assert_array_equal(
            x, benchmark_alignment.features(50, 64, seed=0, tokens=4)
        )
        assert np.any(x != benchmark_alignment.features(50, 64, seed=1, tokens=4))


class TestMeasure:
    @pytest.mark.parametrize("power", [1, 2])
    def test_marginal_error(self, power):
        x, y = (np.asarray(v) for v in clouds())
        cost = measure.pair_costs(x, y, power)
        want = np.linalg.norm(x[3] - y[2]) ** power / power
        np.testing.assert_allclose(cost[3, 2], want, rtol=1e-6)
        f, g = np.zeros(len(x)), np.zeros(len(y))
        for _ in range(500):
            f = -np.log(np.exp(g - cost).mean(1))
            g = -np.log(np.exp(f[:, None] - cost).mean(0))
        assert measure.marginal_error(f, g, cost, 1.0) < 1e-9
        # Twice the mass everywhere is an error of 1 in either marginal.
        error = measure.marginal_error(f + np.log(2), g, cost, 1.0)
        np.testing.assert_allclose(error, 1, rtol=1e-6)
        # The worse marginal counts.
        g[0] += np.log(2)
        error = measure.marginal_error(f, g, cost, 1.0)
        np.testing.assert_allclose(error, 1 / len(y), rtol=1e-6)

    def test_workers_take_turns(self):
        call = "measure.serve({'a': lambda: 1, 'b': lambda: print('x') or [2]})"
        with measure.worker("one", "measure", call) as ask:
            assert [ask(name)[1] for name in "aba"] == [1, [2], 1]

    def test_first_call_of_a_turn_does_not_count(self):
        asked = []

        def worker(name, first):
            def ask(action):
                asked.append(name)
                is_first = asked[-2:-1] != [name]
                return (first if is_first else 1.0), None

            return ask

        found = measure.take_turns([worker("a", 9.0), worker("b", 7.0)], "step", 2)
        assert found == [1.0, 1.0]
        assert asked == (["a"] * 3 + ["b"] * 3) * 2

    def test_a_worker_that_fails(self):
        with pytest.raises(errors.RunError, match="one: .* ZeroDivisionError"):
            with measure.worker("one", "measure", "1 / 0") as ask:
                ask("a")
        with pytest.raises(errors.RunError, match="KeyError: 'b'"):
            with measure.worker("one", "measure", "measure.serve({})") as ask:
                ask("b")

    def test_compile_seconds_restores_the_cache(self, tmp_path):
        before = jax.config.jax_compilation_cache_dir
        cold, warm = measure.compile_seconds(lambda x: jnp.sin(x) @ x, jnp.ones(7))
        assert cold > 0 and warm > 0
        assert jax.config.jax_compilation_cache_dir == before

    def test_calls_take_turns(self):
        calls = []
        measure.in_turns(
            lambda: calls.append("ours"), lambda: calls.append("peer"), 2, 2
        )
        assert calls == ["ours", "ours", "peer"] * 2
        seconds, peer_seconds = measure.in_turns(lambda: None, None, 1)
        assert seconds > 0 and peer_seconds is None


class TestRows:
    @pytest.mark.slow
    def test_without_a_peer(self, no_peer):
        piece = functools.partial(FA, power=1, epsilon=None)
        (row,), notes = benchmark.run(["fa"], 1, {"fa": piece})
        epsilon = float(ot.wasserstein1(*clouds())[1]["epsilon"])
        assert f"epsilon {epsilon:.4g} (the default)" in notes[0]
        assert not any("geomloss" in line for line in notes)
        assert tuple(row) == measure.FIELDS
        assert row["name"] == "fa" and row["dtype"] == "float32"
        for name in ("peer", "peer_seconds", "ratio", "peak_bytes"):
            assert row[name] is None
        for name in ("seconds", "flops_share", "compile_cold", "compile_warm"):
            assert row[name] > 0

    def test_ratio_and_threshold(self, fake_peer):
        (row,), notes = FA("fa", repeats=1)
        assert row["peer"] == "geomloss"
        assert row["ratio"] == row["seconds"] / row["peer_seconds"]
        assert "(threshold 1.1e-04)" in notes[1]  # the finer of the two scalings
        assert "scaling 0.5" in notes[2] and "scaling 0.9" in notes[3]
        gaps = [float(n.split("gradient ")[1].split()[0]) for n in notes[2:]]
        assert max(gaps) < 1e-2

    def test_blocks_in_a_process_of_their_own(self):
        (row,), notes = benchmark_alignment.blocks("fa_blocks", repeats=1, sizes=SIZES)
        assert tuple(row) == measure.FIELDS
        assert row["peak_bytes"] > 50e6 and row["seconds"] > 0
        assert row["peer"] is None and row["ratio"] is None
        assert "12 x 8 x 5" in notes[0]

    @pytest.mark.parametrize(
        "work",
        [
            "train",
            pytest.param("fld", marks=pytest.mark.slow),
            pytest.param("predict", marks=pytest.mark.slow),
        ],
    )
    def test_bodies(self, no_peer, work):
        sizes = {"x_shape": (8, 1), "patch": 2, "batch_size": 12}
        rows, notes = benchmark_bodies.piece(
            "one", repeats=1, body="roberta_base", work=work, sizes=sizes, config=TINY
        )
        assert [row["dtype"] for row in rows] == ["float32", "bfloat16"]
        for row in rows:
            assert tuple(row) == measure.FIELDS
            assert row["compile_cold"] > row["compile_warm"] > 0
            assert row["peak_bytes"] > 50e6 and row["flops_share"] > 0
            assert row["peer"] is None and row["ratio"] is None
        # 4 tokens of 2 values to width 8, its norm and positions; one layer; the head.
        embedder = (2 * 8 + 8) + 2 * 8 + 4 * 8
        layer = 6 * (8 * 8 + 8) + 2 * 2 * 8
        head = 8 * 2 + 2
        moved = {"fld": embedder}.get(work, embedder + layer + head)
        assert f"{work} of embedder, body and head, {moved:,} values" in notes[0]

    @pytest.mark.slow
    def test_checkpoint(self, no_peer):
        (row,), notes = benchmark_jobs.checkpoint("one", repeats=1, num=1000)
        assert row["seconds"] > 0 and "1,000 values" in notes[0]

    @pytest.mark.slow
    def test_pipeline(self):
        config = TINY | {"max_position_embeddings": 16}
        call = f"benchmark_jobs.serve_pipeline('minilm', {config!r}, 2)"
        with measure.worker("one", "benchmark_jobs", call) as ask:
            assert ask("epoch")[0] > 0
            assert 0 < ask("waiting")[1] < 1

    def test_fields_as_tokens(self):
        fields = np.arange(2 * 3 * 4 * 4).reshape(2, 3, 4, 4, 1)
        tokens = benchmark_jobs._tokens(fields, 2)
        assert tokens.shape == (2, 3, 4, 4)
        np.testing.assert_array_equal(tokens[1, 2, 1], fields[1, 2, :2, 2:, 0].ravel())

    def test_blocks_that_fail(self):
        with pytest.raises(errors.RunError, match="fa_blocks"):
            benchmark_alignment.blocks("fa_blocks", repeats=1, sizes=(0, 8, 5))


class TestCommand:
    def test_writes_and_prints(self, no_peer, tmp_path, capsys):
        def piece(name, repeats):
            row = measure.row(name, seconds=repeats)
            return [row], [f"what {name} compared"]

        path = tmp_path / "out.json"
        argv = [f"--out={path}", "--only=one,two", "--repeats=2"]
        assert benchmark.main(argv, dict.fromkeys(("one", "no", "two"), piece)) == 0
        rows = json.loads(path.read_text())
        assert [row["name"] for row in rows] == ["one", "two"]
        assert all(row["seconds"] == 2 and row["peer"] is None for row in rows)
        out = capsys.readouterr().out
        assert "what two compared" in out and "pip install -e '.[bench]'" in out
        assert f"jax {metadata.version('jax')}" in out and "cores" in out

    @pytest.mark.parametrize(
        ("argv", "allowed"),
        [
            (["--only=fa_distance,speed"], "fa_distance"),
            (["--only="], "fa_blocks"),
            (["--repeats=0"], "1, 2"),
            (["--repeats=x"], "1, 2"),
            (["--out=no/such/folder/x.json"], "exists"),
            (["--sizes=3"], "--repeats"),
            (["--only"], "--only"),
            (["extra"], "--out"),
        ],
    )
    def test_bad_arguments(self, argv, allowed, capsys):
        assert benchmark.main(argv) == errors.InputError.exit_code == 2
        out, err = capsys.readouterr()
        assert out == "" and err.startswith("error: ") and err.count("\n") == 1
        assert "allowed: " in err and allowed in err.split("allowed: ")[1]
