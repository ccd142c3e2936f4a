"""Small files in the official layouts of NAS-Bench-360, for tests.

Each writer puts one task below `root` and returns what it wrote.
"""


import numpy as np
import scipy.io


def write_darcy_flow(root, *, num_train=4, num_test=2, nodes=21, seed=0):
    """Smooth made-up pressures below random coefficients: not a solution."""
    rng = np.random.default_rng(seed)
    line = np.sin(np.pi * np.linspace(0, 1, nodes))
    line[-1] = 0
    wrote = {}
    for split, number, num in (("train", 1, num_train), ("test", 2, num_test)):
        coeff = rng.choice([4.0, 12.0], (num, nodes, nodes))
        size = rng.uniform(0.01, 0.02, (num, 1, 1))
        wrote[split] = {"coeff": coeff, "sol": size * line[:, None] * line**2}
        name = f"piececonst_r421_N1024_smooth{number}.mat"
        scipy.io.savemat(root / name, wrote[split])
    return wrote
