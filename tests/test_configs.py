"""Experiment files: every task at every scale is a config that can run."""

import itertools

import pytest

from configs import offline, pde
from recraft_jax import defaults, main, targets

# Task: optimiser, learning rate, weight decay, epochs, warm-up epochs, clipping norm,
# loss, tokens of one sample (RECRAFT's YAML files and the loaders' lengths).
PUBLISHED = {
    "advection": ("adam", 1e-4, 1e-5, 200, 5, 1.0, "relative_l2", 256),
    "burgers": ("adam", 1e-5, 1e-5, 200, 5, 1.0, "rmse", 512),
    "diffusion_reaction": ("sgd", 1e-3, 1e-5, 200, 5, 1.0, "relative_l2", 256),
    "diffusion_sorption": ("adamw", 1e-4, 0.0, 200, 5, 1.0, "relative_l2", 32),
    "cfd_1d": ("adamw", 1e-4, 1e-3, 200, 5, 1.0, "rmse", 128),
    "darcy": ("adamw", 1e-4, 1e-5, 100, 5, 0.0, "relative_l2", None),
    "shallow_water": ("adamw", 1e-4, 0.0, 200, 10, 1.0, "relative_l2", None),
    "diffusion_reaction_2d": ("adam", 1e-4, 1e-3, 200, 5, 1.0, "relative_l2", None),
    "cfd_2d": ("adamw", 1e-3, 1e-3, 200, 5, 1.0, "relative_l2", None),
}
LENGTHS = {"advection": 256, "cfd_1d": 3072}  # others: 1024


@pytest.mark.parametrize("task", pde.TASKS)
def test_every_choice_is_a_valid_config(task):
    for method, scale, protocol in itertools.product(
        defaults.METHODS, defaults.SCALES, defaults.PROTOCOLS
    ):
        arg = f"{task},method={method},scale={scale},protocol={protocol}"
        config = pde.get_config(arg)
        main.check(config)
        assert (config.task, config.method) == (task, method)


@pytest.mark.parametrize("task", PUBLISHED)
def test_paper_scale_has_the_published_values(task):
    config = pde.get_config(f"{task},scale=paper,protocol=official")
    name, lr, decay, epochs, warmup, clip, loss, tokens = PUBLISHED[task]
    optim = config.stage2.optim
    assert (optim.name, optim.lr, optim.weight_decay) == (name, lr, decay)
    assert (config.stage2.num_epochs, config.stage2.batch_size) == (epochs, 4)
    assert optim.warmup_frac * epochs == pytest.approx(warmup)
    assert (optim.clip, optim.b2, config.data.loss) == (clip, 0.98, loss)
    assert optim.b1 == (0.99 if name == "sgd" else 0.9)
    # The published decay is linear to zero at epoch 200, whenever training stops.
    assert optim.end_factor == pytest.approx((200 - epochs) / (200 - warmup))
    if tokens:
        assert LENGTHS.get(task, 1024) / config.embedder.patch == tokens
    assert config.data.scale_x == config.data.scale_y == "none"
    assert config.data.mode == "compat"
    few = task in ("shallow_water", "diffusion_reaction_2d")
    assert config.data.num_samples == (900 if few else 9000)
    assert config.data.num_test == (100 if few else 1000)


def test_corrected_fluid_has_as_many_tokens_on_a_shorter_grid():
    config = pde.get_config("cfd_1d,scale=paper")
    assert 1024 / config.embedder.patch == 128
    assert config.data.scale_y == "point"


def test_fno_has_pdebenchs_hyperparameters_at_paper_scale():
    config = pde.get_config("darcy,method=fno,scale=paper")
    assert config.fno.to_dict() == {"modes": 12, "width": 20, "padding": 2}
    assert (config.stage2.num_epochs, config.backbone) == (500, "none")
    optim = config.stage2.optim
    assert (optim.name, optim.lr, optim.weight_decay) == ("adam", 1e-3, 1e-4)
    assert (optim.clip, optim.warmup_frac) == (0, 0)
    assert config.stage1.num_steps == 0


@pytest.mark.parametrize("task", offline.TASKS)
def test_every_offline_choice_is_a_valid_config(task):
    for method, scale in itertools.product(defaults.METHODS, defaults.SCALES):
        config = offline.get_config(f"{task},method={method},scale={scale}")
        main.check(config)
        assert (config.task, config.method) == (task, method)
        assert config.embedder.patch > 0 and 0 < config.data.val_frac < 0.5


def test_offline_tasks_are_those_with_packaged_data():
    made = {"waves", "tones"}
    assert set(offline.TASKS) == set(targets.TARGETS) - made


@pytest.mark.parametrize("task", offline.TASKS)
def test_offline_scales_grow(task):
    found = []
    for scale in defaults.SCALES:  # demo, quick, paper
        config = offline.get_config(f"{task},scale={scale}")
        # 0 samples are all, more than any number asked for.
        found.append((config.data.num_samples or 10_000, config.stage2.num_epochs))
    demo, quick, paper = found
    assert quick[0] <= demo[0] <= paper[0] and quick[1] < demo[1] < paper[1]


def test_offline_keeps_the_settings_of_spoken_digits():
    config = offline.get_config()
    data, stage2 = config.data, config.stage2
    assert config.task == "spoken_digits"
    assert (data.num_samples, data.num_test, data.val_frac) == (250, 600, 0.2)
    assert (config.embedder.patch, config.stage1.num_steps) == (2, 20)
    assert (stage2.num_epochs, stage2.optim.new_lr_factor) == (12, 3.0)
    quick = offline.get_config("spoken_digits,scale=quick")
    assert (quick.data.num_samples, quick.stage2.num_epochs) == (250, 4)
    paper = offline.get_config("spoken_digits,scale=paper").data
    assert (paper.num_samples, paper.num_test, paper.val_frac) == (2400, 600, 0.1)


def test_omega_belongs_to_the_backbone():
    omegas = {
        name: pde.get_config(f"darcy16,backbone={name}").fa.omega
        for name in defaults.BACKBONES
    }
    assert omegas.pop("vit-s") == 10.0
    assert set(omegas.values()) == {1.0}
    # `fld` alone has omega 0, and recalibrates to what the others do.
    config = pde.get_config("darcy16,method=fld,backbone=vit-s")
    assert (config.fa.omega, config.lipschitz.tau) == (0.0, 10.0)
