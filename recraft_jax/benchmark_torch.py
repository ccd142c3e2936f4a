"""The benchmark's work in PyTorch, with what its users have: transformers and GeomLoss.

Written as one writes it there: eager mode, autocast for bfloat16, torch's own Adam.
Only the benchmark comes here, and only in a process of its own.
"""

import inspect
import json
import math
import time
from collections.abc import Callable, Mapping
from typing import Any

import geomloss
import numpy as np
import torch
import torch.nn.functional as F
import transformers

from recraft_jax import measure

_NO_DROPOUT = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
_TEXT = {
    "roberta_base": (transformers.RobertaConfig, transformers.RobertaModel),
    "minilm": (transformers.BertConfig, transformers.BertModel),
}

_LAYER = {  # of a BERT: their names to ours
    **{f"attention.self.{name}": f"attention/{name}" for name in ("query", "key")},
    "attention.self.value": "attention/value",
    "attention.output.dense": "attention/out",
    "attention.output.LayerNorm": "attention_norm",
    "intermediate.dense": "mlp/up",
    "output.dense": "mlp/down",
    "output.LayerNorm": "mlp_norm",
}


class Text(torch.nn.Module):
    """Patch map, norm and positions; the encoder of a text model; a dense head."""

    def __init__(self, family: str, config: Mapping[str, Any], *, patch: int, **given):
        """Build it with random weights; `patch` is values per token."""
        super().__init__()
        make_config, make = _TEXT[family]
        self.config = make_config(**config, **_NO_DROPOUT, **given)
        width = self.config.hidden_size
        self.patch = torch.nn.Linear(patch, width)
        self.norm = torch.nn.LayerNorm(width, eps=self.config.layer_norm_eps)
        self.position = torch.nn.Parameter(0.02 * torch.randn(1024, width))
        self.encoder = make(self.config, add_pooling_layer=False).encoder
        self.head = torch.nn.Linear(width, patch)

    def tokens(self, x):
        """Embed `[b l patch]`."""
        return self.norm(self.patch(x)) + self.position[: x.shape[1]]

    def forward(self, x):
        """Return the prediction `[b l patch]`, the tokens and the hidden states."""
        tokens = self.tokens(x)
        hidden = self.encoder(tokens).last_hidden_state
        return self.head(hidden), tokens, hidden


class Image(torch.nn.Module):
    """A Swin on resized fields, decoded by a dense map and pixel shuffle."""

    def __init__(self, config: Mapping[str, Any], *, image_size: int, channels: int):
        """Build it with random weights."""
        super().__init__()
        self.config = transformers.SwinConfig(
            **config,
            **_NO_DROPOUT,
            drop_path_rate=0.0,
            num_channels=channels,
            image_size=image_size,
        )
        self.body = transformers.SwinModel(self.config, add_pooling_layer=False)
        self.stride = 4 * 2 ** (len(self.config.depths) - 1)
        width = self.config.hidden_size
        self.head = torch.nn.Linear(width, self.stride**2 * channels)

    def forward(self, x):
        """Map `[b c h w]` to itself; also return nothing twice, as `Text` has more."""
        size = (self.config.image_size,) * 2
        image = F.interpolate(x, size, mode="bilinear")
        hidden = self.body(image).last_hidden_state
        side = math.isqrt(hidden.shape[1])
        grid = self.head(hidden).transpose(1, 2).unflatten(2, (side, side))
        decoded = F.pixel_shuffle(grid, self.stride)
        return F.interpolate(decoded, x.shape[2:], mode="area"), None, None


def distortion(log_probs, targets, weights):
    """Compute H(Z_t | Z_s) of the joint of predictions and labels, in nats."""
    joint = log_probs.exp().T @ (weights[:, None] * targets)
    conditional = joint / joint.sum(1, keepdim=True)
    return -torch.xlogy(joint, conditional).sum()


def serve(
    family: str,
    work: str,
    dtype: str,
    sizes: Mapping[str, Any],
    config: Mapping[str, Any],
    tuned: bool = False,
) -> None:
    """Serve `step` and `facts` as `benchmark_bodies.serve` does.

    With `tuned`, the attention of transformers that is fastest on CPU, `eager`, and a
    fused Adam; otherwise what one gets without asking.
    """
    torch.manual_seed(0)
    shape = (sizes["batch_size"], *sizes["x_shape"])
    if family == "swin_base":
        channels = shape[-1]
        model = Image(config, image_size=sizes["image_size"], channels=channels)
        x = torch.randn(shape).movedim(-1, 1)
    else:
        tokens = sizes.get("max_tokens") or shape[1] // sizes["patch"]
        given = {"attn_implementation": "eager"} if tuned else {}
        patch = math.prod(shape[1:]) // tokens
        model = Text(family, config, patch=patch, **given)
        x = torch.randn(shape).reshape(shape[0], tokens, -1)
    moved = list(model.parameters())
    if work == "fld":
        model.requires_grad_(False)
        moved = [*model.patch.parameters(), *model.norm.parameters(), model.position]
        for leaf in moved:
            leaf.requires_grad_()
        kernel = 0.1 * torch.randn(model.config.hidden_size, 6)
        targets = torch.eye(10)[torch.arange(len(x)) % 10]
        weights = torch.full((len(x),), 1 / len(x))
    optimiser = torch.optim.Adam(moved, lr=1e-4, **({"fused": True} if tuned else {}))

    def loss_fn():
        with torch.autocast("cpu", torch.bfloat16, enabled=dtype == "bfloat16"):
            pred, _, hidden = model(x)
        if work == "train":
            return (pred.float() - x).square().mean()
        logits = hidden.float().mean(1) @ kernel
        return distortion(logits.log_softmax(1), targets, weights)

    def step():
        optimiser.zero_grad()
        loss_fn().backward()
        optimiser.step()

    @torch.no_grad()
    def predict():
        with torch.autocast("cpu", torch.bfloat16, enabled=dtype == "bfloat16"):
            model(x)

    def facts():
        return {"peak_bytes": measure.peak_bytes()}

    measure.serve({"step": predict if work == "predict" else step, "facts": facts})


def report(path: str) -> None:
    """Run `job` and print what it returns and its peak memory, a JSON line."""
    found = job(path)
    print(json.dumps(found | {"peak_bytes": measure.peak_bytes()}))


def job(path: str) -> dict[str, float]:
    """Run stages 1 and 2 of a job that `benchmark_jobs.dump` wrote.

    The same batches, losses, learning rates and numbers of steps; FA and FLD of
    training and validation split are measured before and after stage 1; the epoch with
    the best validation score is kept; checkpoints are as frequent. FA is GeomLoss's
    divergence at the same epsilon.

    Returns:
      The `test` score, `fa` and `fld` (validation, after stage 1), and seconds of
      `load`, `align`, `measure` and `fit` (evaluation and checkpoints included).
    """
    start = time.perf_counter()
    with np.load(path) as file:
        data = {name: torch.from_numpy(file[name]) for name in file.files}
    model = _restored(data)
    embedder = [*model.patch.parameters(), *model.norm.parameters(), model.position]
    decay = float(data["weight_decay"])
    loaded = time.perf_counter()

    # ------------------------------------------------------------------------ stage 1
    sinkhorn = geomloss.SamplesLoss(
        "sinkhorn", p=1, blur=float(data["epsilon"]), backend="tensorized"
    )
    source = data["source/features"]
    uniform = torch.full((len(source),), 1 / len(source))
    targets = torch.eye(int(data["num_classes"]))
    measuring = 0.0

    def terms(x, label, weight):
        _, tokens, hidden = model(x)
        logits = hidden.mean(1) @ data["source/head/kernel"] + data["source/head/bias"]
        weight = weight / weight.sum()
        fa = sinkhorn(uniform, source, weight, tokens.mean(1))
        return fa, distortion(logits.log_softmax(1), targets[label], weight)

    def whole():
        nonlocal measuring
        begin, found = time.perf_counter(), {}
        with torch.no_grad():
            for split in ("train", "val"):
                x, label = data[f"{split}/x"], data[f"{split}/label"]
                found[split] = terms(x, label, torch.ones(len(x)))
        measuring += time.perf_counter() - begin
        return found

    whole()
    begin = time.perf_counter()
    model.encoder.requires_grad_(False)
    factor = float(data["align/factor"])
    take = _optimiser({factor: embedder}, decay, data["align/rates"])
    for step, batch in enumerate(
        zip(data["align/x"], data["align/label"], data["align/weight"], strict=True)
    ):
        fa, fld = terms(*batch)
        take(step, data["omega"] * fa + data["fld_weight"] * fld)
    model.encoder.requires_grad_(True)
    aligned = time.perf_counter()
    after = whole()["val"]

    # ------------------------------------------------------------------------ stage 2
    def score(x, y):
        error = (model(x)[0] * data["y_std"] + data["y_mean"] - y).flatten(1)
        return (error.norm(dim=1) / y.flatten(1).norm(dim=1)).mean()

    new = [*embedder, *model.head.parameters()]
    groups = {1.0: list(model.encoder.parameters()), float(data["fit/factor"]): new}
    take = _optimiser(groups, decay, data["fit/rates"])
    best, kept, fitting = math.inf, None, time.perf_counter()
    for step, (x, y) in enumerate(zip(data["fit/x"], data["fit/y"], strict=True)):
        take(step, score(x, y))
        if (step + 1) % int(data["save_steps"]) == 0 or step + 1 == len(data["fit/x"]):
            torch.save([model.state_dict(), take.optimiser.state_dict()], f"{path}.pt")
        if (step + 1) % int(data["epoch_steps"]) == 0:
            with torch.no_grad():
                value = float(score(data["val/x"], data["val/y"]))
            if value < best:
                state = model.state_dict()
                best, kept = value, {name: leaf.clone() for name, leaf in state.items()}
    model.load_state_dict(kept)
    with torch.no_grad():
        test = float(score(data["test/x"], data["test/y"]))
    return {
        "test": test,
        "fa": float(after[0]),
        "fld": float(after[1]),
        "load": loaded - start,
        "align": aligned - begin,
        "measure": measuring,
        "fit": time.perf_counter() - fitting,
    }


def _restored(data: Mapping[str, torch.Tensor]) -> Text:
    """Build the model of a job, with the weights that it starts from."""
    marked = "config/"
    sizes = {
        name.removeprefix(marked): int(value)
        for name, value in data.items()
        if name.startswith(marked)
    }
    names = inspect.signature(transformers.BertConfig).parameters
    config = {name: size for name, size in sizes.items() if name in names}
    model = Text("minilm", config, patch=data["fit/x"].shape[-1])
    leaves = {
        "patch.weight": data["embedder/patch/kernel"].T,
        "patch.bias": data["embedder/patch/bias"],
        "norm.weight": data["embedder/norm/scale"],
        "norm.bias": data["embedder/norm/bias"],
        "head.weight": data["head/out/kernel"].T,
        "head.bias": data["head/out/bias"],
    }
    layers = "body/encoder/layers"
    for theirs, ours in _LAYER.items():
        for layer in range(config["num_hidden_layers"]):
            for end in ("weight", "bias"):
                found = data[f"{layers}/{ours}/{_ends(ours)[end]}"][layer]
                name = f"encoder.layer.{layer}.{theirs}.{end}"
                leaves[name] = found.T if found.ndim == 2 else found
    with torch.no_grad():
        for name, leaf in leaves.items():
            model.get_parameter(name).copy_(leaf)
        model.position[: len(data["embedder/position"])] = data["embedder/position"]
    return model


def _ends(ours: str) -> dict[str, str]:
    return {"weight": "scale" if ours.endswith("norm") else "kernel", "bias": "bias"}


def _optimiser(groups: Mapping[float, Any], decay: float, rates) -> Callable:
    """AdamW with gradients clipped to norm 1; kernels alone decay.

    Args:
      groups: factor of the learning rate to leaves.
      decay: of the weights.
      rates: learning rate of each step.
    """
    made = []
    for factor, leaves in groups.items():
        for is_kernel in (True, False):
            some = [leaf for leaf in leaves if (leaf.ndim == 2) == is_kernel]
            rate = {"factor": factor, "weight_decay": decay if is_kernel else 0.0}
            made.append({"params": some, **rate})
    optimiser = torch.optim.AdamW(made, lr=1.0)
    every = [leaf for leaves in groups.values() for leaf in leaves]

    def take(step, loss):
        for group in optimiser.param_groups:
            group["lr"] = group["factor"] * float(rates[step])
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(every, 1.0)
        optimiser.step()

    take.optimiser = optimiser
    return take


def serve_pipeline(shapes: Mapping[str, tuple[int, ...]], batch_size: int) -> None:
    """Serve `epoch`: all batches of a shuffling DataLoader over arrays, once."""
    data = torch.utils.data.TensorDataset(*map(torch.randn, shapes.values()))
    loader = torch.utils.data.DataLoader(data, batch_size, shuffle=True, drop_last=True)
    measure.serve({"epoch": lambda: sum(1 for _ in loader)})


def serve_checkpoint(num: int, leaves: int, folder: str) -> None:
    """Serve `save` and `restore` of `num` values with torch.save and torch.load."""
    state = {str(i): torch.randn(num // leaves) for i in range(leaves)}
    path = f"{folder}/state.pt"
    measure.serve(
        {
            "save": lambda: torch.save(state, path),
            "restore": lambda: len(torch.load(path, weights_only=True)),
        }
    )
