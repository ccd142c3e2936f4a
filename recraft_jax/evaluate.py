"""The bound of a finished run as numbers, on data nobody has trained on.

    python -m recraft_jax.evaluate --workdir=DIR --bound [--split=test]

For every checkpoint in DIR, and for the parameters the run reports: the target error,
the source error, omega W1 and FLD, all in nats, and whether the inequality of Theorem 7
holds (`losses/bound.py`). Prints them and stores them in DIR/bound.json. Keep all
checkpoints of a run with --config.checkpoint.keep=0.

The source predictor p_s is always the pretrained body with the source head; phi and the
target predictor p_t are those of the checkpoint. p_t is the task's own head where it is
a classifier that has been trained, and elsewhere (pseudo-labels, stage 1) a logistic
regression on the hidden states, fitted on the training split.
"""

import json
import pathlib
import sys
from collections.abc import Sequence
from typing import Any

import jax
import ml_collections
import numpy as np
import rich.box
import rich.console
import rich.table

from recraft_jax import (
    assembly,
    build,
    checkpoints,
    cli,
    clock,
    errors,
    scoring,
    steps,
    tree,
    writer,
)
from recraft_jax import phase as phases_lib
from recraft_jax.losses import bound, lipschitz
from recraft_jax.methods import heads, source

SPLITS = ("test", "val")
SLOPE_SHARE = 0.95  # of the coupling whose slopes `omega_95` covers


def main(argv: Sequence[str]) -> int:
    """Run the command line; returns the exit code."""
    writer.set_up_logging()
    return cli.run(_evaluate, argv)


def _evaluate(argv: Sequence[str]) -> None:
    parser = cli.Parser("evaluate", __doc__)
    parser.add_argument("--workdir", type=pathlib.Path, required=True)
    parser.add_argument("--bound", action="store_true", help="evaluate the bound")
    parser.add_argument("--split", choices=SPLITS, default=SPLITS[0])
    given = parser.parse_args(argv)
    if not given.bound:
        raise errors.InputError("nothing to evaluate; allowed: --bound")
    found = evaluate_bound(given.workdir, given.split)
    writer.write_json(given.workdir / "bound.json", found)
    print_bound(found, given.workdir)


def read_config(workdir: pathlib.Path) -> ml_collections.ConfigDict:
    """Read the config of a finished run that has a source model.

    Raises:
      InputError: the run is not finished or has no source model.
    """
    try:
        results = json.loads((workdir / "results.json").read_text())
        config = json.loads((workdir / "config.json").read_text())
    except (OSError, ValueError) as error:
        raise errors.InputError(f"{workdir} holds no finished run: {error}") from None
    if "lipschitz" not in config:
        raise errors.InputError(
            f"{workdir} holds a run of an older version, without config.lipschitz; "
            "allowed: runs of this version"
        )
    if results["source"] is None:
        raise errors.InputError(
            f"{workdir}: method {results['method']} has no source model and so no "
            "bound; allowed: methods with a pretrained backbone"
        )
    return ml_collections.ConfigDict(config).lock()


def evaluate_bound(workdir: pathlib.Path, split: str) -> dict[str, Any]:
    """Evaluate the bound at every checkpoint of a finished run.

    Args:
      workdir: of the run.
      split: held-out target samples: `test`, or `val`, on which the run has chosen its
        best epoch.

    Returns:
      The content of `bound.json`: facts about the run, `checkpoints`, a list of the
      dicts of `measure` with `step` and `phase`, and `final`, the same for the
      parameters that the run reports (best on validation).

    Raises:
      InputError: the run cannot be evaluated.
    """
    config = read_config(workdir)
    build.keep_compiled(config)
    target = build.target(config)
    parts = assembly.make(config, target, workdir, clock.Clock())
    omega = build.recalibration(config, parts.body).tau or config.fa.omega
    views = Views(config, parts)
    folder = workdir / "checkpoints"
    rows = []
    for step in checkpoints.steps(folder):
        arrays, record = checkpoints.load(folder, step, parts.abstract)
        index, _ = phases_lib.locate(parts.phases, step)
        where = {"step": step, "phase": parts.phases[index].stage}
        params = arrays["state"].params
        rows.append(where | views.measure(params, where["phase"], split, omega))
        best = arrays.get("best")
    if not rows or rows[-1]["step"] != parts.starts[-1]:
        raise errors.InputError(f"{folder} lacks the last checkpoint of the run")
    final = rows[-1]
    if best and record["best"]["step"] != final["step"]:
        where = {"step": record["best"]["step"], "phase": "fit"}
        final = where | views.measure({**params, **best}, "fit", split, omega)
    named = ("task", "method", "backbone", "seed")
    return {name: config[name] for name in named} | {
        "backbone_name": parts.name,
        "split": split,
        "predictor": final["predictor"],
        "omega": omega,
        "num_classes": target.num_classes,
        "log_num_classes": float(np.log(target.num_classes)),
        "checkpoints": rows,
        "final": final,
    }


class Views:
    """What source and target model see of a run's splits, for any parameters."""

    def __init__(self, config: ml_collections.ConfigDict, parts: assembly.Assembly):
        """Compile the two views once for all checkpoints."""
        self.parts = parts
        self.settings = {
            "batch_size": config.stage2.eval_batch_size,
            "mesh": parts.mesh,
        }
        # Stage 2 moves `body/`; the source predictor keeps the pretrained weights.
        encoder = tree.under(parts.body.params, "encoder")
        pretrained = tree.prefixed(encoder, "body/encoder")

        def source_view(params, batch):
            frozen = {**params["run"], **params["pretrained"]}
            _, out = parts.model.apply(frozen, batch["x"])
            log_probs = source.predict(params["run"], out["hidden"].mean(1))
            return {"u": out["tokens"].mean(1), "log_probs": log_probs}

        def target_view(params, batch):
            pred, out = parts.model.apply(params["run"], batch["x"])
            return {"pred": pred, "hidden": out["hidden"].mean(1)}

        self.pretrained = jax.device_put(pretrained)
        self.source_step = steps.make_eval_step(source_view, mesh=parts.mesh)
        self.target_step = steps.make_eval_step(target_view, mesh=parts.mesh)

    def collect(self, step, params, split: str) -> dict[str, np.ndarray]:
        """Outputs of a view on a split."""
        both = {"run": params, "pretrained": self.pretrained}
        arrays = {"x": self.parts.target.inputs[split]["x"]}
        return scoring.collect(step, both, arrays, **self.settings)

    def target_log_probs(self, params, stage: str, split: str):
        """Log-probabilities `[n kt]` of the target predictor, and its name."""
        seen = self.collect(self.target_step, params, split)
        if stage == "fit" and self.parts.target.task.kind == "classification":
            return jax.nn.log_softmax(seen["pred"]), "head"
        labels = self.parts.target.labels
        states = {
            part: self.collect(self.target_step, params, part)["hidden"]
            for part in ("train", "val")
        }
        num_classes = self.parts.target.num_classes
        fitted, _ = heads.choose(
            heads.logistic,
            (states["train"], labels["train"]),
            (states["val"], labels["val"]),
            num_classes,
        )
        return heads.log_probs(fitted, seen["hidden"]), "probe"

    def measure(self, params, stage: str, split: str, omega: float) -> dict[str, Any]:
        """Evaluate the bound for one set of parameters.

        Args:
          params: flat dict of a checkpoint.
          stage: `align` or `fit`, where they come from.
          split: held-out samples.
          omega: Lipschitz constant of the bound.

        Returns:
          What `bound.target_error_bound` returns for delta = 0, and `holds` (err_t <=
          bound), `gap` = fa + fld_entropy (Eq. 11 at the best label map), `gap_bound` =
          err_s + gap and whether it holds too, which it need not, `predictor`, and the
          keys of `lipschitz.on_coupling`.
        """
        origin, labels = self.parts.origin, self.parts.target.labels[split]
        seen = self.collect(self.source_step, params, split)
        log_probs, predictor = self.target_log_probs(params, stage, split)
        found = bound.target_error_bound(
            log_probs,
            labels,
            seen["log_probs"],
            origin.held_log_probs,
            origin.held_labels,
            origin.held_features,
            seen["u"],
            omega=omega,
        )
        gap = found["fa"] + found["fld_entropy"]
        slopes = lipschitz.on_coupling(
            origin.held_log_probs,
            origin.held_labels,
            origin.held_features,
            seen["log_probs"],
            seen["u"],
            omega=omega,
            share=SLOPE_SHARE,
        )
        return found | {
            "holds": bool(found["err_t"] <= found["bound"]),
            "gap": gap,
            "gap_bound": found["err_s"] + gap,
            "gap_bound_holds": bool(found["err_t"] <= found["err_s"] + gap),
            "predictor": predictor,
            **slopes,
        }


def print_bound(found: dict[str, Any], workdir: pathlib.Path) -> None:
    """Print the table of a `bound.json`, and what it says."""
    final, rows = found["final"], found["checkpoints"]
    table = rich.table.Table(
        title=f"{found['task']}, {found['method']}: bound on {final['num_samples']} "
        f"{found['split']} samples at omega = {found['omega']:.3g}, in nats",
        title_justify="left",
        box=rich.box.SIMPLE_HEAD,
    )
    columns = {
        "err_t": "err_t",
        "err_s": "err_s",
        "fa": "FA",
        "fld_entropy": "H(Zt|Zs)",
        "fld_kl": "KL",
        "bound": "bound",
        "refined": "refined",
    }
    for name in ("step", "phase", *columns.values(), "holds"):
        table.add_column(name, justify="right", no_wrap=True)
    for label, row in [*((row["step"], row) for row in rows), ("reported", final)]:
        values = [f"{row[name]:.3f}" for name in columns]
        mark = "yes" if row["holds"] else "NO"
        table.add_row(str(label), row["phase"], *values, mark)
    console = rich.console.Console(highlight=False, soft_wrap=True)
    console.width = max(console.width, 100)  # ten columns, whatever the terminal
    console.print(table)
    count = {
        name: sum(row[name] for row in rows)
        for name in ("holds", "gap_bound_holds", "refined_holds")
    }
    guess = f"log K_t = {found['log_num_classes']:.3f}, what guessing reaches"
    verdict = "vacuous, above" if final["vacuous"] else "below"
    lines = (
        f"bound     holds at {count['holds']} of {len(rows)} checkpoints; reported: "
        f"{final['bound']:.3f}, {verdict} {guess}",
        f"gap       FA + H(Zt|Zs) = {final['gap']:.3f}; err_t <= err_s + gap, which "
        f"need not be: at {count['gap_bound_holds']} of {len(rows)}",
        f"refined   certified by B <= FA at {count['refined_holds']} of {len(rows)}; B "
        f"is {final['source_shift']:.3f}",
        f"slope     {final['delta']:.3f} of the coupling is steeper than omega, losses "
        f"differ there by up to {final['loss_range']:.3f}; {SLOPE_SHARE:.0%} of it is "
        f"below {final['omega_95']:.3f}",
        f"H(Zt|Zs)  corrected (Miller-Madow) {final['fld_entropy_corrected']:.3f}; "
        f"target predictor: {found['predictor']}",
        f"stored    {workdir / 'bound.json'}",
    )
    console.print("\n".join(lines), markup=False)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
