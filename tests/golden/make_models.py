"""Write small random Hugging Face models and their outputs, to hold ours against.

    pip install torch transformers safetensors
    python tests/golden/make_models.py

Not run by the tests. `bert`, `roberta`, `swin`, `swin_mim` and `dinov2` beside this
file came with the project's reference material in the same layout; these are the cases
they leave out: padding in the text, windows that do not divide the map, odd maps,
images that are no square, positions interpolated, a gated MLP, no bias of query, key
and value. `resampling.npz` holds PyTorch's resizing and pooling.
"""

import pathlib

import numpy as np
import torch
import transformers
from torch.nn import functional

HERE = pathlib.Path(__file__).parent
SMALL = {"hidden_size": 16, "num_hidden_layers": 3, "num_attention_heads": 2}


def save(name, model, arrays):
    """Write config.json, model.safetensors and golden.npz."""
    model.save_pretrained(HERE / name)
    np.savez_compressed(HERE / name / "golden.npz", **arrays)


def shaken(model):
    """Replace every parameter by noise: zeros and ones hide mistakes."""
    for name, value in model.named_parameters():
        scale = 0.3 if value.ndim > 1 else 0.1
        base = 1.0 if "norm" in name.lower() and name.endswith("weight") else 0.0
        value.data = base + scale * torch.randn_like(value)
    return model.eval()


def images(model, sizes, **options):
    """Embeddings and outputs of images of several sizes, channels last."""
    arrays = {}
    core = getattr(model, model.base_model_prefix, model)
    for size in sizes:
        pixels = torch.randn(2, core.config.num_channels, *size)
        tokens = core.embeddings(pixels, **options)
        tokens = tokens[0] if isinstance(tokens, tuple) else tokens
        out = core(pixels, **options).last_hidden_state
        key = f"{size[0]}x{size[1]}"
        arrays[f"pixels_{key}"] = pixels.permute(0, 2, 3, 1).numpy()
        arrays[f"tokens_{key}"] = tokens.numpy()
        arrays[f"hidden_{key}"] = out.numpy()
    return arrays


@torch.no_grad()
def main():
    """Write all of them."""
    torch.manual_seed(0)
    config = transformers.RobertaConfig(
        **SMALL, vocab_size=40, intermediate_size=24, max_position_embeddings=20
    )
    model = shaken(transformers.RobertaModel(config, add_pooling_layer=True))
    ids = torch.randint(3, 40, (3, 9))
    ids[1, 6:] = ids[2, 2] = config.pad_token_id
    mask = (ids != config.pad_token_id).long()
    save(
        "roberta_padded",
        model,
        {
            "ids": ids.numpy(),
            "mask": mask.numpy().astype(bool),
            "tokens": model.embeddings(ids).numpy(),
            "hidden": model(ids, attention_mask=mask).last_hidden_state.numpy(),
        },
    )
    config = transformers.SwinConfig(
        image_size=44,
        embed_dim=8,
        depths=[3, 2, 1],
        num_heads=[1, 2, 4],
        window_size=3,
        mlp_ratio=2.5,
        qkv_bias=False,
        use_absolute_embeddings=True,
        layer_norm_eps=1e-4,
    )
    model = shaken(transformers.SwinModel(config))
    sizes = [(42, 42), (48, 60)]
    save("swin_odd", model, images(model, sizes, interpolate_pos_encoding=True))
    config = transformers.Dinov2Config(
        **SMALL,
        image_size=28,
        patch_size=7,
        use_swiglu_ffn=True,
        qkv_bias=False,
        num_channels=2,
        mlp_ratio=2,
    )
    model = shaken(transformers.Dinov2Model(config))
    save("dinov2_gated", model, images(model, [(28, 28), (42, 24)]))
    config = transformers.ViTConfig(
        **SMALL, image_size=24, patch_size=6, intermediate_size=24
    )
    model = shaken(transformers.ViTForImageClassification(config))
    sizes = [(24, 24), (36, 18)]
    save("vit", model, images(model, sizes, interpolate_pos_encoding=True))
    x = torch.randn(2, 3, 7, 10)
    arrays = {"x": x.permute(0, 2, 3, 1).numpy()}
    for size in ((7, 25), (16, 4), (3, 6)):
        key = f"{size[0]}x{size[1]}"
        for name, out in (
            ("linear", functional.interpolate(x, size, mode="bilinear")),
            ("cubic", functional.interpolate(x, size, mode="bicubic")),
            ("pooling", functional.adaptive_avg_pool2d(x, size)),
        ):
            arrays[f"{name}_{key}"] = out.permute(0, 2, 3, 1).numpy()
    values = torch.randn(2, 5 * 4, 2, 3)
    arrays["values"] = values.flatten(2).transpose(1, 2).numpy()
    shuffled = functional.pixel_shuffle(values, 2)
    arrays["shuffled"] = shuffled.permute(0, 2, 3, 1).numpy()
    np.savez_compressed(HERE / "resampling.npz", **arrays)


if __name__ == "__main__":
    main()
