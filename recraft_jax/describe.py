"""What a run says before it trains: data, source head, phases."""

from typing import Any

import jax
import ml_collections
import numpy as np

from recraft_jax import build, naming, tree
from recraft_jax import phase as phases_lib
from recraft_jax.data import tasks

NUM_SIZES = 20  # of classes that are listed


def target(config: ml_collections.ConfigDict, found: build.Target) -> str:
    """Say what is about to be trained on."""
    splits = found.task.splits
    counts = ", ".join(f"{len(splits[s]['x'])} {s}" for s in tasks.SPLITS)
    sizes = np.bincount(found.labels["train"], minlength=found.num_classes).tolist()
    if len(sizes) > NUM_SIZES:
        sizes = f"{min(sizes)} to {max(sizes)}"
    return (
        f"{config.task}: {counts} samples; {found.num_classes} target labels of sizes "
        f"{sizes}; {naming.method(config.method)}"
    )


def source(report: dict[str, Any]) -> list[str]:
    """Say what the source head knows of data it has not seen, and how steep it is."""
    lines = [
        f"stage 0, source head on {report['name']}, held out: accuracy "
        f"{report['accuracy']:.3f} (majority {report['majority']:.3f}), log-loss "
        f"{report['log_loss']:.3f}, information {report['information']:.3f} of "
        f"{report['entropy']:.3f} nats"
    ]
    found = report.get("lipschitz")
    if found:
        before, after = found["before"], found["after"]
        lines.append(
            f"         recalibrated ({found['method']}) to tau {found['tau']:.3g}: "
            f"information {before['information']:.3f} -> {after['information']:.3f}, "
            f"log-loss {before['log_loss']:.3f} -> {after['log_loss']:.3f}, slope (95 "
            f"%) {before['slope']['0.95']:.3f} -> {after['slope']['0.95']:.3f}, share "
            f"above tau {before['delta']:.3f} -> {after['delta']:.3f}"
        )
    return lines


def phase(one: phases_lib.Phase, params: dict[str, jax.Array]) -> str:
    """Say how long a phase is and how much it trains."""
    trained, _ = tree.split(params, one.trainable)
    return (
        f"phase {one.name}: {one.num_steps} steps of {one.batch_size}, trains "
        f"{tree.count(trained):,} of {tree.count(params):,} values"
    )
