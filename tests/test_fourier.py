"""Fourier series: closed forms."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from recraft_jax.pde import fourier


@pytest.mark.parametrize("offset", [0.0, 0.5])
def test_modes_and_fields_are_transforms_of_each_other(offset):
    points = (np.arange(32) + offset) / 32

    def field(x):
        angle = 2 * np.pi * x
        return 0.7 + np.cos(angle) - 3 * np.sin(2 * angle)

    with jax.enable_x64(True):
        modes = fourier.analyse(jnp.asarray(field(points)[None]), 5, offset)
        elsewhere = np.linspace(0.1, 0.9, 7)
        got = fourier.synthesise(modes, elsewhere)
    want = [[0.7, 0.5, 1.5j, 0, 0, 0]]
    np.testing.assert_allclose(modes, want, rtol=0, atol=1e-14)
    np.testing.assert_allclose(got[0], field(elsewhere), rtol=0, atol=1e-13)
