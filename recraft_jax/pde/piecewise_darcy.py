"""Darcy flow through two materials, `-div(a grad u) = 1`, as in the FNO's files.

The coefficient is one of two values, by the sign of a Gaussian random field with zero
flux on the border and covariance `tau^(2 alpha - 2) (-Laplace + tau^2)^(-alpha)`,
alpha = 2, tau = 3, of mean zero (Li et al. 2021, appendix A.3.2; the MATLAB generator
beside their code). u = 0 on the border of the unit square.

Field and solution live on the nodes of `linspace(0, 1, nodes)`, and u is zero on the
outer ones exactly. The MATLAB generator draws the field at cell centres, moves it to
nodes by a cubic spline, which overshoots at interfaces, solves there with the same
stencil and moves the solution back to cell centres, half a cell from the border.
"""

import contextlib
import os
import pathlib

import numpy as np
import scipy.io
import scipy.sparse
import scipy.sparse.linalg
from jaxtyping import Float

ALPHA = 2
TAU = 3.0
FILES = {
    "train": "piececonst_r421_N1024_smooth1.mat",
    "test": "piececonst_r421_N1024_smooth2.mat",
}


def sample(
    split: str,
    index: int,
    *,
    nodes: int = 421,
    seed: int = 0,
    high: float = 12.0,
    low: float = 4.0,
) -> tuple[Float[np.ndarray, "x y"], Float[np.ndarray, "x y"]]:
    """Make one sample: coefficient and solution, float64.

    It depends on the seed, the split and its index only; on another grid it is of the
    same field. One core takes 1 to 1.5 s for 421 x 421 nodes.

    Args:
      split: `train` or `test`, which sets the draws apart.
      index: of the sample.
      nodes: per axis.
      seed: of the draws.
      high: coefficient where the field is not negative; 12 in the MATLAB generator.
      low: coefficient elsewhere; 4 in the MATLAB generator, 3 in the paper and, as it
        seems, in the official files.
    """
    rng = np.random.default_rng((seed, list(FILES).index(split), index))
    coeff = np.where(random_field(rng, nodes) >= 0, high, low)
    return coeff, solve(coeff)


def write(
    path: pathlib.Path,
    coeff: Float[np.ndarray, "n x y"],
    sol: Float[np.ndarray, "n x y"],
) -> None:
    """Write a file in the official layout, MATLAB 5, whole or not at all."""
    partial = path.with_name(f".{path.name}.partial")
    try:
        with open(partial, "wb") as file:
            content = {"coeff": coeff, "sol": sol}
            scipy.io.savemat(file, content, do_compression=True)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            partial.unlink()
        raise


def random_field(rng: np.random.Generator, nodes: int) -> Float[np.ndarray, "x y"]:
    """Draw the Gaussian random field on `linspace(0, 1, nodes)` in x and y.

    It is `sum_jk sqrt(lambda_jk) xi_jk e_j(x) e_k(y)` with independent standard normal
    xi, the cosines `e_0 = 1`, `e_k(x) = sqrt(2) cos(k pi x)`, orthonormal on the unit
    interval, and `lambda` of `variances`; j and k are below `nodes`. Waves are drawn in
    the order of `max(j, k)`: a finer grid adds waves to the same field.
    """
    coef = np.sqrt(variances(nodes))
    for wave in range(1, nodes):
        drawn = rng.standard_normal(2 * wave + 1)
        coef[: wave + 1, wave] *= drawn[: wave + 1]
        coef[wave, :wave] *= drawn[wave + 1 :]
    angle = np.pi * np.arange(nodes)[:, None] * np.linspace(0, 1, nodes)
    waves = np.sqrt(2) * np.cos(angle)
    waves[0] = 1
    return waves.T @ coef @ waves


def variances(num: int) -> Float[np.ndarray, "j k"]:
    """Variances `lambda_jk` of the cosine waves below `num`, zero for the constant."""
    orders = (np.pi * np.arange(num)) ** 2
    found = TAU ** (2 * ALPHA - 2) * (orders[:, None] + orders + TAU**2) ** -ALPHA
    found[0, 0] = 0
    return found


def solve(
    a: Float[np.ndarray, "x y"], source: Float[np.ndarray, "x y"] | float = 1.0
) -> Float[np.ndarray, "x y"]:
    """Solve `-div(a grad u) = source` with u = 0 on the outer nodes.

    Five-point scheme of second order: the flux between two nodes goes with the
    arithmetic mean of their coefficients, as in the MATLAB generator. The linear system
    is solved directly, by LU after a minimum-degree ordering.

    Args:
      a: coefficient at the nodes, positive.
      source: at the nodes, or one number.
    """
    n = len(a) - 2  # inner nodes per axis
    across_x = (a[:-1, 1:-1] + a[1:, 1:-1]) / 2
    across_y = (a[1:-1, :-1] + a[1:-1, 1:]) / 2
    total = across_x[:-1] + across_x[1:] + across_y[:, :-1] + across_y[:, 1:]
    at = np.arange(n * n).reshape(n, n)
    pairs = (
        (at, at, total / 2),  # half, since each pair is entered both ways
        (at[:-1], at[1:], -across_x[1:-1]),
        (at[:, :-1], at[:, 1:], -across_y[:, 1:-1]),
    )
    rows, columns, values = (
        np.concatenate([part.ravel() for part in parts])
        for parts in zip(*pairs, strict=True)
    )
    half = scipy.sparse.csc_array((values, (rows, columns)), shape=(n * n, n * n))
    factors = scipy.sparse.linalg.splu(
        (half + half.T).tocsc(),
        permc_spec="MMD_AT_PLUS_A",
        diag_pivot_thresh=0.0,  # the matrix is symmetric and positive definite
        options={"SymmetricMode": True},
    )
    load = np.broadcast_to(source, a.shape)[1:-1, 1:-1] / (len(a) - 1) ** 2
    return np.pad(factors.solve(load.ravel()).reshape(n, n), 1)
