"""The benchmark's work in PyTorch, with what its users have: transformers and GeomLoss.

Written as one writes it there: eager mode, autocast for bfloat16, torch's own Adam.
Only the benchmark comes here, and only in a process of its own.
"""

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


def job(path: str) -> dict[str, Any]:
    """Run stages 1 and 2 of the default job on what `benchmark_jobs.dump` wrote.

    The same batches, schedules, losses and numbers of steps; the epoch with the best
    validation score is kept, and gives the test score.
    """
    start = time.perf_counter()
    with np.load(path) as file:
        data = {k: torch.from_numpy(file[k]) for k in file.files if file[k].ndim}
        scalars = {k: file[k].item() for k in file.files if not file[k].ndim}
    sizes = ("vocab_size", "max_position_embeddings", "hidden_size")
    sizes += ("num_hidden_layers", "num_attention_heads", "intermediate_size")
    patch = data["x_train"].shape[-1]
    model = Text("minilm", {name: scalars[name] for name in sizes}, patch=patch)
    body = {k.removeprefix("body/"): v for k, v in data.items() if k[:5] == "body/"}
    model.encoder.load_state_dict(body)
    with torch.no_grad():
        for name in ("patch.weight", "patch.bias", "norm.weight", "norm.bias"):
            model.get_parameter(name).copy_(data[f"embedder/{name}"])
        model.position[: len(data["embedder/position"])] = data["embedder/position"]
        torch.nn.init.trunc_normal_(model.head.weight, std=0.02)
        model.head.bias.zero_()
    embedder = [*model.patch.parameters(), *model.norm.parameters(), model.position]
    ready = time.perf_counter()

    def optimiser(groups, rates):
        made = torch.optim.AdamW(groups, lr=1.0, weight_decay=0.0)
        factors = [group["lr"] for group in made.param_groups]

        def take(step, loss):
            for group, factor in zip(made.param_groups, factors, strict=True):
                group["lr"] = factor * float(rates[step])
            made.zero_grad()
            loss.backward()
            leaves = [p for group in groups for p in group["params"]]
            torch.nn.utils.clip_grad_norm_(leaves, 1.0)
            made.step()

        return take

    def groups(leaves, factor):
        decayed = {id(m.weight) for m in model.modules() if hasattr(m, "weight")}
        decayed -= {id(m.weight) for m in model.modules() if "Norm" in type(m).__name__}
        split = ([p for p in leaves if id(p) in decayed], leaves)
        first = {id(p) for p in split[0]}
        rest = [p for p in leaves if id(p) not in first]
        decay = scalars["weight_decay"]
        return [
            {"params": split[0], "lr": factor, "weight_decay": decay},
            {"params": rest, "lr": factor, "weight_decay": 0.0},
        ]

    # ------------------------------------------------------------------------ stage 1
    sinkhorn = geomloss.SamplesLoss(
        "sinkhorn", p=1, blur=scalars["epsilon"], backend="tensorized"
    )
    source = data["source/features"]
    take = optimiser(groups(embedder, scalars["new_lr_factor"]), data["align_rates"])
    targets = torch.eye(int(data["label"].max()) + 1)
    model.encoder.requires_grad_(False)
    for step, rows in enumerate(data["align_rows"]):
        _, tokens, hidden = model(data["x_train"][rows])
        logits = hidden.mean(1) @ data["source/kernel"] + data["source/bias"]
        weights = data["weight"][rows]
        weights = weights / weights.sum()
        uniform = torch.full((len(source),), 1 / len(source))
        fa = sinkhorn(uniform, source, weights, tokens.mean(1))
        fld = distortion(logits.log_softmax(1), targets[data["label"][rows]], weights)
        take(step, scalars["omega"] * fa + scalars["fld_weight"] * fld)
    model.encoder.requires_grad_(True)
    aligned = time.perf_counter()

    # ------------------------------------------------------------------------ stage 2
    def relative(split, rows=slice(None)):
        pred = model(data[f"x_{split}"][rows])[0]
        pred = pred * scalars["y_std"] + scalars["y_mean"]
        y = data[f"y_{split}"][rows]
        return ((pred - y).flatten(1).norm(dim=1) / y.flatten(1).norm(dim=1)).mean()

    new = [*embedder, *model.head.parameters()]
    moved = groups(list(model.encoder.parameters()), 1.0)
    take = optimiser(
        [*moved, *groups(new, scalars["new_lr_factor"])], data["fit_rates"]
    )
    best, kept = math.inf, None
    for step, rows in enumerate(data["fit_rows"]):
        take(step, relative("train", rows))
        if (step + 1) % scalars["epoch_steps"] == 0:
            with torch.no_grad():
                value = float(relative("val"))
            if value < best:
                best, kept = (
                    value,
                    {k: v.clone() for k, v in model.state_dict().items()},
                )
    model.load_state_dict(kept)
    with torch.no_grad():
        test = float(relative("test"))
    end = time.perf_counter()
    return {
        "test": test,
        "start": ready - start,
        "align": aligned - ready,
        "fit": end - aligned,
    }


def serve_pipeline(batch_size: int, arrays: Callable[[], Mapping[str, np.ndarray]]):
    """Serve `epoch`: all batches of a shuffling DataLoader over the arrays, once."""
    tensors = [torch.from_numpy(array) for array in arrays().values()]
    data = torch.utils.data.TensorDataset(*tensors)
    loader = torch.utils.data.DataLoader(data, batch_size=batch_size, shuffle=True)

    def epoch():
        for _ in loader:
            pass

    measure.serve({"epoch": epoch})


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
