"""Write fno.npz and unet.npz: both networks in PyTorch, in float64, written apart.

    python tests/golden/make_pde_models.py

Needs torch. Weights are drawn here under the names and in the layouts of `recraft_jax`,
rounded to float32, and turned to PyTorch's layouts at each use.
"""

import pathlib

import numpy as np
import torch
import torch.nn.functional as F

FOLDER = pathlib.Path(__file__).parent
RNG = np.random.default_rng(0)


def draw(*shape, scale=1.0):
    values = scale * RNG.normal(size=shape).astype(np.float32)
    return torch.tensor(values.astype(np.float32), dtype=torch.float64)


def linear(p, name, x):
    return F.linear(x, p[f"{name}/kernel"].T, p[f"{name}/bias"])


# ---- FNO -----------------------------------------------------------------------------


def fno_params(axes, c, modes, width, out):
    def dense(name, i, o):
        return {f"{name}/kernel": draw(i, o, scale=i**-0.5), f"{name}/bias": draw(o)}

    p = dense("lift", c + axes, width) | dense("project", width, 128)
    p |= dense("out", 128, out)
    kept = (modes,) if axes == 1 else (2 * modes, modes)
    for index in range(4):
        p |= dense(f"local_{index}", width, width)
        for part in ("real", "imag"):
            p[f"spectral_{index}/{part}"] = draw(*kept, width, width, scale=0.3)
    return p


def spectral(weight, modes, v):
    """Multiply in frequency; `v` is channels first, `weight` channels last."""
    if v.ndim == 3:
        freq = torch.fft.rfft(v)
        out = torch.zeros_like(freq)
        out[:, :, :modes] = torch.einsum("bik,kio->bok", freq[:, :, :modes], weight)
        return torch.fft.irfft(out, n=v.shape[-1])
    freq = torch.fft.rfft2(v)
    out = torch.zeros_like(freq)
    for rows, corner in (
        (slice(None, modes), weight[:modes]),
        (slice(-modes, None), weight[modes:]),
    ):
        part = freq[:, :, rows, :modes]
        out[:, :, rows, :modes] = torch.einsum("bijk,jkio->bojk", part, corner)
    return torch.fft.irfft2(out, s=v.shape[-2:])


def fno(p, modes, x):
    spatial = x.shape[1:-1]
    axes = [torch.linspace(0, 1, n, dtype=x.dtype) for n in spatial]
    grid = torch.stack(torch.meshgrid(*axes, indexing="ij"), -1)
    x = torch.cat([x, grid.expand(len(x), *grid.shape)], -1)
    v = linear(p, "lift", x).movedim(-1, 1)
    v = F.pad(v, [0, 2] * len(spatial))
    for index in range(4):
        name = f"spectral_{index}"
        weight = torch.complex(p[f"{name}/real"], p[f"{name}/imag"])
        local = linear(p, f"local_{index}", v.movedim(1, -1)).movedim(-1, 1)
        v = spectral(weight, modes, v) + local
        v = F.gelu(v) if index < 3 else v
    v = v[..., :-2] if len(spatial) == 1 else v[..., :-2, :-2]
    return linear(p, "out", F.gelu(linear(p, "project", v.movedim(1, -1))))


# ---- U-Net ---------------------------------------------------------------------------


def unet_params(axes, c, features, out):
    p, stats = {}, {}

    def block(name, i, o):
        for index, inputs in ((1, i), (2, o)):
            scale = (inputs * 3**axes) ** -0.5
            p[f"{name}/conv_{index}/kernel"] = draw(*[3] * axes, inputs, o, scale=scale)
            p[f"{name}/norm_{index}/scale"] = 1 + draw(o, scale=0.2)
            p[f"{name}/norm_{index}/bias"] = draw(o, scale=0.2)
            stats[f"{name}/norm_{index}/mean"] = draw(o, scale=0.2)
            stats[f"{name}/norm_{index}/var"] = 0.5 + draw(o).abs()

    widths = [features * 2**level for level in range(5)]
    for level in range(4):
        block(f"encoder_{level}", widths[level - 1] if level else c, widths[level])
        p[f"up_{level}/kernel"] = draw(
            *[2] * axes, widths[level], widths[level + 1], scale=widths[level] ** -0.5
        )
        p[f"up_{level}/bias"] = draw(widths[level], scale=0.2)
        block(f"decoder_{level}", 2 * widths[level], widths[level])
    block("bottleneck", widths[3], widths[4])
    p["out/kernel"] = draw(features, out)
    p["out/bias"] = draw(out)
    return p, stats


def unet(p, stats, x, train):
    """Run the network; with `train`, `stats` is changed in place."""
    axes = x.ndim - 2
    conv = (F.conv1d, F.conv2d)[axes - 1]
    deconv = (F.conv_transpose1d, F.conv_transpose2d)[axes - 1]
    pool = (F.max_pool1d, F.max_pool2d)[axes - 1]
    points = range(axes)

    def block(name, v):
        for index in (1, 2):
            kernel = p[f"{name}/conv_{index}/kernel"].permute(-1, -2, *points)
            norm = f"{name}/norm_{index}"
            v = F.batch_norm(
                conv(v, kernel, padding=1),
                stats[f"{norm}/mean"],
                stats[f"{norm}/var"],
                p[f"{norm}/scale"],
                p[f"{norm}/bias"],
                training=train,
            ).tanh()
        return v

    v = x.movedim(-1, 1)
    skips = []
    for level in range(4):
        skips.append(block(f"encoder_{level}", v))
        v = pool(skips[-1], 2)
    v = block("bottleneck", v)
    for level in (3, 2, 1, 0):
        kernel = p[f"up_{level}/kernel"].permute(-1, -2, *points)
        v = deconv(v, kernel, p[f"up_{level}/bias"], stride=2)
        v = block(f"decoder_{level}", torch.cat([v, skips[level]], 1))
    return linear(p, "out", v.movedim(1, -1))


def main():
    arrays = {}
    for case, spatial in (("1d", (13,)), ("2d", (7, 10))):
        axes, modes = len(spatial), 3
        x = draw(2, *spatial, 2)
        p = fno_params(axes, c=2, modes=modes, width=4, out=3)
        arrays |= {f"{case}/params/{path}": leaf for path, leaf in p.items()}
        arrays |= {f"{case}/x": x, f"{case}/pred": fno(p, modes, x)}
    save("fno.npz", arrays)

    arrays = {}
    for case, spatial, features in (("1d", (32,), 2), ("2d", (32, 16), 1)):
        x = draw(2, *spatial, 3)
        p, stats = unet_params(len(spatial), c=3, features=features, out=2)
        arrays |= {f"{case}/params/{path}": leaf for path, leaf in p.items()}
        arrays |= {f"{case}/stats/{path}": leaf.clone() for path, leaf in stats.items()}
        arrays |= {f"{case}/x": x, f"{case}/eval": unet(p, stats, x, False)}
        x = x.clone().requires_grad_()
        pred = unet(p, stats, x, True)
        (slope,) = torch.autograd.grad(pred.square().mean(), x)
        arrays |= {f"{case}/train": pred, f"{case}/slope": slope}
        arrays |= {f"{case}/new_stats/{path}": leaf for path, leaf in stats.items()}
    save("unet.npz", arrays)


def save(name, arrays):
    arrays = {
        path: leaf.detach().numpy().astype(np.float32) for path, leaf in arrays.items()
    }
    np.savez_compressed(FOLDER / name, **arrays)


if __name__ == "__main__":
    main()
