"""What stage 0 asks of a frozen body and its labelled data, text or images."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np


class Units(NamedTuple):
    """Labelled units seen by the frozen body: sentences, tokens or images.

    Attributes:
      states: hidden states `[n d]`: the mean over a sample, or of one token.
      labels: classes `[n]`.
      sample: sentence or image that holds the unit `[n]`.
      position: token within it `[n]`, -1 for the mean over the sample.
    """

    states: np.ndarray
    labels: np.ndarray
    sample: np.ndarray
    position: np.ndarray

    def take(self, rows: np.ndarray) -> "Units":
        """Keep some of the units."""
        return Units(*(part[rows] for part in self))


class Tower(NamedTuple):
    """A frozen body on one labelled data set; nothing runs before it is asked for.

    Attributes:
      names: of the classes.
      level: what carries a label: `sentence`, `token` or `image`.
      num_samples: sentences or images.
      units: `() -> (pooled, units)`: the mean embedding u of each sample `[n d]`, and
        the labelled units. Their states may be of another width.
      labels: class of each sample `[n]`, None where tokens carry the labels.
      tokens: `rows -> (tokens [r l d], mask [r l])`, the native embedding of samples
        without the tokens that belong to no patch; False at padding.
      digest: hash of the data.
      gradients: `(kernel, units, *, pooled)` to the gradients in u of the logits
        `states @ kernel`: `[n d k]`, or `[n l d k]` in the tokens if not `pooled`.
    """

    names: tuple[str, ...]
    level: str
    num_samples: int
    labels: np.ndarray | None
    tokens: Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]
    digest: str
    units: Callable[[], tuple[np.ndarray, Units]]
    gradients: Callable[..., np.ndarray]

    @property
    def noun(self) -> str:
        """What to call the samples to a reader."""
        return "images" if self.level == "image" else "sentences"
