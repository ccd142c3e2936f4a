"""Compressible Navier-Stokes in two dimensions, eta = zeta = 0.1, periodic on (0, 1)^2.

PDEBench's `2D_CFD_Rand_M1.0_Eta0.1_Zeta0.1_periodic_128_Train`: the equations of
`compressible`. Everything starts as a random sum of waves: a turbulent velocity of mean
Mach number 1, and small perturbations of a constant density and pressure; half of the
samples are at rest and constant outside a window.

How far mode `accurate` is from a solution on 288 points along each axis, at t <= 0.5:
relative errors of pressure and velocity are below 1e-4, and those of the density where
the flow is slow. Nothing smooths the density: fast flow (temperature 9) folds it into
layers thinner than the grid, and it is off by 1e-4 at t = 0.1 and 3e-3 at t = 0.5.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from recraft_jax import errors
from recraft_jax.pde import compressible, equation, sines, spectral_flow

DOMAIN = (0.0, 1.0)
TIMES = np.linspace(0.0, 1.0, 21)
MACH = 1.0
MAX_ORDER = 4  # waves per unit length, along each axis
MIN_CELLS = 16  # four per period of the shortest wave

FIELDS = ("density", "pressure", "Vx", "Vy")
# What is uniform per sample: mean density and temperature, relative perturbations, the
# ends of the window along each axis.
RANGES = {
    "mean_density": (0.1, 10.0),
    "temperature": (0.1, 10.0),
    "density_size": (0.01, 0.2),
    "pressure_size": (0.01, 0.2),
    "x_left": (0.1, 0.45),
    "x_right": (0.55, 0.9),
    "y_left": (0.1, 0.45),
    "y_right": (0.55, 0.9),
}

# Mode accurate: least number of points along each axis, steps between frames, and how
# often they are halved before each of the frames. Windows are sharp at the beginning.
NUM_FINE = 192
NUM_STEPS = 16
HALVINGS = (4, 2, 2, *[1] * 17)


def draw(key: int, num: int, nx: int) -> dict[str, np.ndarray]:
    """Draw the initial fields of a run; `nx` does not change them.

    PDEBench's order of draws is not on record; here each quantity has a key of its own,
    `key` folded with its place in `RANGES`, then in `FIELDS`, then the last one.

    Returns:
      The quantities of `RANGES` `[num]`; `phase_...` `[num i j]` of the waves of each
      field; `is_windowed` `[num]`.

    Raises:
      InputError: too few cells or samples.
    """
    if num < 1 or nx < MIN_CELLS:
        raise errors.InputError(
            f"{num} samples of {nx} cells; allowed: at least 1 sample of {MIN_CELLS}"
        )
    with jax.threefry_partitionable(False), jax.enable_x64(False):
        places = range(len(RANGES) + len(FIELDS) + 1)
        keys = [jax.random.fold_in(jax.random.PRNGKey(key), i) for i in places]
        sample = {}
        for name, (least, most) in RANGES.items():
            sample[name] = jax.random.uniform(
                keys.pop(0), (num,), minval=least, maxval=most
            )
        shape = (num, 2 * MAX_ORDER + 1, 2 * MAX_ORDER + 1)
        for name in FIELDS:
            phase = jax.random.uniform(keys.pop(0), shape, maxval=2 * jnp.pi)
            sample[f"phase_{name}"] = phase
        sample["is_windowed"] = jax.random.bernoulli(keys.pop(0), shape=(num,))
    return jax.tree.map(np.asarray, sample)


def initial(sample: equation.Sample, nx: int, every: int, dtype) -> compressible.Fields:
    """Evaluate the fields on a grid `every` times as fine, from the first centre on.

    Means are over the `nx` cells of the grid itself.
    """
    spacing = 1 / (nx * every)
    points = equation.centres(DOMAIN, nx)[0] + spacing * np.arange(nx * every)
    points = points.astype(dtype)
    get = {name: jnp.asarray(values)[:, None, None] for name, values in sample.items()}
    get = {
        name: values if name == "is_windowed" else values.astype(dtype)
        for name, values in get.items()
    }

    def cell_mean(u):
        return u[:, ::every, ::every].mean((1, 2), keepdims=True)

    def waves(name):
        return superpose(jnp.asarray(sample[f"phase_{name}"], dtype), points)

    density, temperature = get["mean_density"], get["temperature"]
    pressure = density * temperature
    inside = _window(points, get["x_left"][:, 0], get["x_right"][:, 0])[:, :, None]
    inside = (
        inside * _window(points, get["y_left"][:, 0], get["y_right"][:, 0])[:, None]
    )
    inside = jnp.where(get["is_windowed"], inside, 1)

    def perturbed(name, mean):
        w = waves(name)
        return mean * (1 + inside * get[f"{name}_size"] * w / cell_mean(jnp.abs(w)))

    velocity = [waves("Vx"), waves("Vy")]
    speed = cell_mean(jnp.sqrt(velocity[0] ** 2 + velocity[1] ** 2))
    scale = inside * MACH * jnp.sqrt(compressible.GAMMA * temperature) / speed
    return (
        perturbed("density", density),
        perturbed("pressure", pressure),
        *(scale * v for v in velocity),
    )


def superpose(
    phase: Float[Array, "b i j"], points: Float[np.ndarray, " x"]
) -> Float[Array, "b x y"]:
    """Sum `|k|^(-1/2) sin(k . x + phase)`, k = 2 pi (i, j), neither i nor j zero."""
    order = np.arange(-MAX_ORDER, MAX_ORDER + 1)
    norm = 2 * np.pi * np.hypot(order[:, None], order)
    is_in = order[:, None] * order != 0
    size = np.where(is_in, 1 / np.sqrt(np.where(is_in, norm, 1)), 0).astype(phase.dtype)
    angle = 2 * np.pi * order[:, None] * points
    cos, sin = np.cos(angle), np.sin(angle)

    def product(rows, amplitude, columns):
        return jnp.einsum("ix,bij,jy->bxy", rows, amplitude, columns)

    real, imaginary = size * jnp.cos(phase), size * jnp.sin(phase)
    return (
        product(sin, real, cos)
        + product(cos, real, sin)
        + product(cos, imaginary, cos)
        - product(sin, imaginary, sin)
    )


def _window(points, left, right):
    rise = jnp.tanh((points - left) / sines.WINDOW_SLOPE)
    return 0.5 * (rise - jnp.tanh((points - right) / sines.WINDOW_SLOPE))


def viscous(
    fields: compressible.Fields, dt: Float[Array, " b"], dx: float
) -> compressible.Fields:
    """Take the explicit viscous steps that add up to `dt`: full ones, then the rest.

    Derivatives along a face are means of central differences in the cells beside it.
    """
    rho, energy, *_ = compressible.conserved(fields)
    step = compressible.viscous_step(dx)
    count = jnp.ceil(jnp.max(dt) / step).astype(jnp.int32)
    # Momentum through a face per difference of velocities, of one full step.
    faces = [
        compressible.mean(compressible.wrap(rho, 1, axis), axis) * (step / dx**2)
        for axis in (1, 2)
    ]

    def advance(index, carry):
        part = jnp.clip(dt / step - index, 0, 1)[:, None, None]
        return diffuse(carry, rho, faces, part)

    energy, v, w = jax.lax.fori_loop(0, count, advance, (energy, *fields[2:]))
    return compressible.primitive((rho, energy, rho * v, rho * w))


def diffuse(
    carry: tuple[Float[Array, "b x y"], ...],
    rho: Float[Array, "b x y"],
    faces: Sequence[Float[Array, "b _ _"]],
    part: Float[Array, "b 1 1"],
) -> tuple[Float[Array, "b x y"], ...]:
    """Add the viscous forces and their work to the energy and the two velocities."""
    energy, *speeds = carry
    eta, bulk = compressible.ETA, compressible.ZETA - 2 * compressible.ETA / 3
    gains = [0, 0, 0]
    for axis, face in zip((1, 2), faces, strict=True):
        other = 3 - axis
        normal, tangent = speeds[axis - 1], speeds[other - 1]

        def across(u, axis=axis):
            return compressible.difference(compressible.wrap(u, 1, axis), axis)

        def at_face(u, axis=axis):
            return compressible.mean(compressible.wrap(u, 1, axis), axis)

        def along(u, axis=axis, other=other):
            wide = compressible.wrap(u, 1, other)
            central = compressible.cut(wide, 2, 0, other)
            return at_face(0.5 * (central - compressible.cut(wide, 0, -2, other)), axis)

        pull = face * (
            compressible.DIFFUSIVITY * across(normal) + bulk * along(tangent)
        )
        shear = face * eta * (across(tangent) + along(normal))
        work = pull * at_face(normal) + shear * at_face(tangent)
        for place, flux in ((0, work), (axis, pull), (other, shear)):
            gains[place] += compressible.difference(flux, axis)
    energy = energy + part * gains[0]
    return (
        energy,
        *(v + part * g / rho for v, g in zip(speeds, gains[1:], strict=True)),
    )


def compat(
    sample: equation.Sample, nx: int, times: Sequence[float]
) -> list[Float[Array, "b t x y"]]:
    """Finite volumes as described in `compressible`, float32."""
    fields = initial(sample, nx, 1, np.float32)
    return list(compressible.solve(viscous, fields, 1 / nx, times))


def accurate(
    sample: equation.Sample,
    nx: int,
    times: Sequence[float],
    num_fine: int = NUM_FINE,
    num_steps: int = NUM_STEPS,
) -> list[Float[Array, "b t x y"]]:
    """Fourier series on a finer grid, float64.

    Args:
      sample: of `draw`, or some of its rows.
      nx: cells along each axis.
      times: of the frames.
      num_fine: points along each axis at least, of which the cells' centres are some.
      num_steps: from frame to frame, before they are halved.
    """
    every = -(-num_fine // nx)
    fields = initial(sample, nx, every, np.float64)
    halvings = HALVINGS[: len(times) - 1]
    frames = spectral_flow.solve(fields, 1.0, times, num_steps, halvings)
    return list(jnp.moveaxis(frames[..., ::every, ::every], 1, 0))


EQUATION = equation.Equation(
    draw=draw,
    solve=compressible.by_mode(compat, accurate, TIMES, FIELDS),
    times=TIMES,
    domain=DOMAIN,
    run_size=100,
    cost={"compat": (0.8, 64, 2.8), "accurate": (10.0, 64, 1)},
)
