"""Default settings of every run, and the choices that decide them.

Structural choices are names here; every number is a field of the config that
`--config.section.name=value` overrides. `configs/` builds experiments on it, the Python
API (`estimators.py`) its own.
"""

import ml_collections

METHODS = (
    *("recraft", "fa", "fld", "nft", "scratch"),
    *("orca", "pare", "mona"),
    *("fno", "unet"),
)
NO_BACKBONE = ("fno", "unet")  # methods with a model of their own
BACKBONES = ("minilm", "vit-s", "roberta-base", "swin-base")
# Of FA, in nats per unit of feature distance: where features are small, 1 would leave
# nothing of the source head (docs/results.md).
OMEGA = {"vit-s": 10.0}
NO_STAGE1 = ("nft", "scratch", "pare", "fno", "unet")
SCALES = ("demo", "quick", "paper")
PROTOCOLS = ("corrected", "official")
PRESETS = ("default", "paper", "official")

# What the released code does to the losses, fault by fault; `docs/theory.md` has the
# list. D5 is an option there, off by default, and D8 a part of D7.
OFFICIAL = {
    "stage1.mode": "sequential",
    "stage1.num_steps": 60,  # one an epoch (D10)
    "stage1.batch_size": 128,
    "stage1.optim.decay": "step",
    "stage1.optim.warmup_frac": 0.0,
    "stage1.label_lr": 1e-4,
    "embedder.init": "xavier",
    "head.kind": "pool",
    "fa.kind": "otdd_single_label",
    "lipschitz.tau": 0.4,  # of the head only; FA has weight 1 (D2)
    "fld.kind": "entropy",
    "fld.train_source_head": True,
    "fld.dense_1d_per_token": True,
    "lipschitz.norm_axis": "tokens",
    "lipschitz.mean_loss_grad": True,
    "lipschitz.u_space": "mixed",
    "lipschitz.one_d": False,
    "legacy.batch_count_scale": True,
    "legacy.double_softmax_1d": True,
    "legacy.negative_index_bug": True,
}


def base(choice: dict) -> ml_collections.ConfigDict:
    """Build the defaults of every experiment, at `demo` scale.

    Args:
      choice: of `parse_arg`.
    """
    config = ml_collections.ConfigDict(choice)
    config.data = ml_collections.ConfigDict(
        {
            "val_frac": 0.1,
            "split_seed": 0,
            "scale_x": "channel",  # standardisation: channel, point, column or none
            "scale_y": "channel",
            "pos_weight": 1.0,  # of labels that are on, in multi-label losses
            "loss": "relative_l2",  # of dense tasks, or rmse
            "num_samples": 0,  # training and validation; 0 is all of a file
            "num_test": 0,
            "num_points": 0,  # of generated tasks: cells of an axis
            "noise": 0.0,
            "seed": 2022,
            # Of the PDEBench tasks: a file or its folder, else what to generate.
            "path": "",
            "mode": "accurate",  # or compat
            "key": -1,  # of the first run, or first seed; -1 is the published one
        }
    )
    config.assets = ml_collections.ConfigDict({"cache": ""})
    config.source = ml_collections.ConfigDict(
        {
            # Text backbones: trec6, wnut16, table (label<TAB>text), conll or
            # tfds_conll2003; image backbones: mnist5k, npz, cifar10 or tfds_cifar10.
            "name": "auto",  # trec6 or mnist5k
            "path": "",  # of your own file or folder; of TFDS' data
            "num_samples": 3000,  # sentences or images; 0 is all
            "max_length": 48,
            "num_features": 1024,
            "test_frac": 0.2,
            "seed": 0,
        }
    )
    config.body = ml_collections.ConfigDict(
        {
            "dtype": "float32",  # of the products, or bfloat16
            "revision": "",  # of a hub id: branch, tag or commit
        }
    )
    config.embedder = ml_collections.ConfigDict(
        {
            "patch": 4,  # points, for text backbones; 0: by max_tokens
            "max_tokens": 512,
            # Image backbones: side of the square that inputs are resized to; 0 is the
            # size the backbone was trained on, for the packaged one 518.
            "image_size": 112 if choice["backbone"] == "vit-s" else 0,
            "init": "pretrained",  # xavier (D20) or normal
        }
    )
    config.head = ml_collections.ConfigDict({"kind": "linear"})  # or pool, as released
    config.fno = ml_collections.ConfigDict({"modes": 12, "width": 20, "padding": 2})
    config.unet = ml_collections.ConfigDict({"features": 32})
    config.lipschitz = ml_collections.ConfigDict(
        {
            "method": "penalty",  # penalty, rescale or none
            "tau": 0.0,  # nats per unit of feature distance; 0 is fa.omega
            "delta": 0.05,  # share of samples that may be steeper than tau
            "rho": 100.0,
            "num_samples": 512,
            "u_space": "pooled",  # or mixed (D13)
            "norm_axis": "sample",  # or tokens (D11)
            "mean_loss_grad": False,  # D12
            "one_d": True,  # also for text sources (D15)
        }
    )
    config.fa = ml_collections.ConfigDict(
        {
            "kind": "w1",  # w1, w2sq_half (D8) or otdd_single_label (D7)
            "omega": OMEGA.get(choice["backbone"], 1.0),
            "epsilon": 0.0,  # 0 is the default of the kind
        }
    )
    config.fld = ml_collections.ConfigDict(
        {
            "kind": "mi",  # mi, transport, entropy (D4) or negative_sets (D5)
            "weight": 1.0,
            "num_clusters": 10,
            "raw_clusters": False,  # of targets as they are (T16)
            "momentum": 0.0,  # of the moving-average joint; 0 is none
            "transport_cost": "prototype",  # prototype, class or joint
            "transport_epsilon": 0.1,  # over the median cost
            "train_source_head": False,  # D6
            "dense_1d_per_token": False,  # D16
        }
    )
    config.orca = ml_collections.ConfigDict(
        {"epsilon": 0.1, "max_source": 512, "threshold": 1e-2}
    )
    config.pare = ml_collections.ConfigDict(
        {
            # Shares of the tokens of a target sample that source tokens replace.
            "begin_frac": 0.5,
            "end_frac": 0.0,
            "relaxed_frac": 0.15,  # of the steps, in which the choice is drawn
            "temperature": 0.9,
            "weight": 0.1,  # of what mixtures must predict
        }
    )
    config.mona = ml_collections.ConfigDict(
        {
            "lam": 0.4,  # of the outer loss
            "inner_lr": 3e-4,
            "inner": r"head/.*|body/.*norm/(?:scale|bias)",  # what the task teaches
            "reset": False,  # teach anew in each step
        }
    )
    config.legacy = ml_collections.ConfigDict(
        {
            "batch_count_scale": False,  # D9
            "double_softmax_1d": False,  # D14
            "negative_index_bug": False,  # D18
            "pare_replace_highest": False,  # target tokens, once nothing is drawn
        }
    )
    config.stage1 = ml_collections.ConfigDict(
        {
            "mode": "joint",  # or sequential (D1)
            "num_steps": 40,
            "batch_size": 80,
            # Of the label term where it comes after alignment; 0 is as above.
            "num_label_steps": 0,
            "label_batch_size": 0,
            "label_lr": 0.0,
            "optim": _optim(lr=3e-3),
        }
    )
    config.stage2 = ml_collections.ConfigDict(
        {
            "trainable": "full",  # or norms (of the body), or head (nothing of it)
            "num_epochs": 8,
            "batch_size": 16,
            "accumulate": 1,  # parts of a batch, computed one after the other
            "freeze_embedder": False,
            "eval_batch_size": 128,
            "optim": _optim(lr=3e-4, new_lr_factor=10.0),
        }
    )
    # Where and how, not what: a run may resume with others.
    config.devices = ml_collections.ConfigDict({"fsdp": False})  # split large weights
    config.input = ml_collections.ConfigDict({"num_workers": 0})  # processes that read
    config.log = ml_collections.ConfigDict({"every_steps": 50})
    config.checkpoint = ml_collections.ConfigDict(
        {"every_steps": 250, "keep": 2}  # newest ones; 0 keeps all
    )
    if choice["preset"] == "paper":
        config.stage2.freeze_embedder = True
    if choice["preset"] == "official":
        config.update_from_flattened_dict(OFFICIAL)
        if choice["method"] in NO_STAGE1:  # as it does without a stage 1
            config.embedder.init = "normal"
    if choice["method"] == "fa":
        config.fld.weight = 0.0
    if choice["method"] == "fld":
        config.lipschitz.tau = config.fa.omega
        config.fa.omega = 0.0
    if choice["method"] in NO_STAGE1:
        config.stage1.num_steps = 0
    if choice["method"] == "mona":  # each step costs five of the others
        config.stage1.batch_size = config.stage2.batch_size
    if choice["method"] in NO_BACKBONE:
        config.stage2.optim.lr = 3e-3 if choice["method"] == "fno" else 1e-3
        config.stage2.optim.new_lr_factor = 1.0
    return config


def custom(choice: dict) -> ml_collections.ConfigDict:
    """Build the settings of somebody's own arrays.

    What is `auto`, 0 epochs, 0 points a patch and a factor of 0 of the learning rate
    follow from the arrays (`targets_custom.resolve`).

    Args:
      choice: as of `base`, with `task` custom.
    """
    config = base(choice)
    config.data.update(
        {
            "x": "auto",  # name of the inputs; of tables several, with commas
            "y": "auto",
            "split": "auto",  # name of a column, or none
            "group": "auto",
            "kind": "auto",
            "channels": "auto",  # last, first or none
            "metric": "auto",
            "scale_x": "auto",
            "scale_y": "auto",
            "loss": "auto",  # of dense tasks
            "test_frac": 0.2,
            "keep_duplicates_together": False,
            "columns": (),  # that x turned out to be
            "sha256": "",
        }
    )
    config.data.val_frac = 0.15
    config.data.num_samples, config.data.num_test = 2000, 1000  # at most
    config.embedder.patch = 0
    config.embedder.max_tokens = 20
    config.stage1.num_steps = min(config.stage1.num_steps, 20)
    config.stage2.num_epochs = 0
    if choice["method"] in NO_BACKBONE:
        config.fno.modes = 8
    else:
        config.stage2.optim.new_lr_factor = 0.0
    if choice["scale"] == "quick":
        config.data.num_samples = 500
        config.stage1.batch_size = min(config.stage1.batch_size, 40)
        config.unet.features = 16
    if choice["scale"] == "paper":
        published_1d(config)
    return config


def published_1d(config: ml_collections.ConfigDict) -> None:
    """Set the published values of Satellite, a 1-D classification on a text body.

    Without its accumulation of gradients over 4 batches, and on all samples.
    """
    config.data.num_samples = config.data.num_test = 0
    config.stage2.batch_size = 16
    config.stage2.num_epochs = 60
    config.stage2.optim.lr = 3e-5
    config.stage2.optim.new_lr_factor = 1.0
    config.stage2.optim.weight_decay = 3e-6
    config.stage2.optim.clip = 0.0
    config.stage2.optim.b2 = 0.98
    config.stage2.optim.warmup_frac = 5 / config.stage2.num_epochs
    config.stage2.optim.decay = "linear"
    if config.stage1.num_steps:
        config.stage1.num_steps = 2000


def _optim(lr: float, new_lr_factor: float = 1.0) -> ml_collections.ConfigDict:
    return ml_collections.ConfigDict(
        {
            "name": "adamw",
            "lr": lr,
            "new_lr_factor": new_lr_factor,  # of embedder and head, over the body's
            "weight_decay": 1e-4,
            "b1": 0.9,
            "b2": 0.999,
            "clip": 1.0,
            "warmup_frac": 0.1,
            "decay": "cosine",
            "end_factor": 0.0,  # of the learning rate, where the decay ends
        }
    )
