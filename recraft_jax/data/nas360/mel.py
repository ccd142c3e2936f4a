"""Mel spectrograms of FSD50K as the released loaders make them, and their masks.

NAS-Bench-360 and ORCA took them from the repository fsd50k-pytorch: torchaudio's mel
spectrogram, then librosa's decibels. Here librosa does both, by torchaudio's defaults.
"""

import functools
import os

import numpy as np
from jaxtyping import Float

from recraft_jax import errors

RATE = 22_050  # samples a second
NUM_FFT = 1920
WINDOW = 661  # int(0.03 RATE), centred in NUM_FFT
HOP = 220  # int(0.01 RATE)
NUM_MELS = 96
NUM_FRAMES = 101  # of a second
TOP_DB = 80.0  # below the loudest value nothing is told apart


def require() -> None:
    """Raise `InputError` now if a package is missing, not at the first sample."""
    _librosa()
    _soundfile()


def spectrogram(audio: Float[np.ndarray, " n"]) -> Float[np.ndarray, "96 t"]:
    """Mel spectrogram in decibels, less its mean; `t = 1 + n // 220`.

    Power |STFT|^2 with a periodic Hann window, frames centred at multiples of 220 and
    the signal reflected at its ends; 96 triangles of height 1 (no norm) between 0 and
    11,025 Hz on the HTK scale; `10 log10(max(power, 1e-10))`, at least its maximum less
    80. The released code adds 75 before it takes the mean away, which changes nothing.

    Args:
      audio: at 22,050 Hz, at least 961 samples.
    """
    spectrum = _librosa().stft(
        audio,
        n_fft=NUM_FFT,
        win_length=WINDOW,
        hop_length=HOP,
        window="hann",
        center=True,
        pad_mode="reflect",
    )
    power = _triangles() @ np.abs(spectrum) ** 2
    found = _librosa().power_to_db(power, ref=1.0, amin=1e-10, top_db=TOP_DB)
    return np.float32(found - found.mean())


def read_audio(path: str | os.PathLike) -> Float[np.ndarray, " n"]:
    """Read a file of one channel; what is shorter than a second is repeated to one.

    Raises:
      InputError: a file that cannot be read, is empty, or has another rate or more
        channels.
    """
    soundfile = _soundfile()
    try:
        audio, rate = soundfile.read(path, dtype="float32")
    except (OSError, RuntimeError) as error:
        reason = getattr(error, "strerror", None) or " ".join(str(error).split())
        raise errors.InputError(f"{path}: cannot be read ({reason})") from None
    if rate != RATE or audio.ndim != 1 or len(audio) == 0:
        raise errors.InputError(
            f"{path}: {rate} Hz, shape {audio.shape}; allowed: {RATE} Hz, one channel"
        )
    return audio if len(audio) >= RATE else np.resize(audio, RATE)


def masked(
    values: Float[np.ndarray, "f t"], rng: np.random.Generator
) -> Float[np.ndarray, "f t"]:
    """SpecAugment: set one or two bands and as many intervals to the minimum.

    Each band is a share U(0, 0.15) of the channels wide, each interval U(0, 0.2) of the
    frames, rounded down.
    """
    least, values = values.min(), values.copy()
    num_channels, num_frames = values.shape
    for _ in range(rng.integers(1, 3)):
        width = int(rng.uniform(0, 0.15) * num_channels)
        first = int(rng.uniform(0, num_channels - width))
        values[first : first + width] = least
        width = int(rng.uniform(0, 0.2) * num_frames)
        first = int(rng.uniform(0, num_frames - width))
        values[:, first : first + width] = least
    return values


@functools.cache
def _triangles() -> Float[np.ndarray, "96 961"]:
    return _librosa().filters.mel(
        sr=RATE, n_fft=NUM_FFT, n_mels=NUM_MELS, htk=True, norm=None
    )


def _librosa():
    try:
        import librosa
    except ImportError:
        raise _missing("librosa") from None
    return librosa


def _soundfile():
    try:
        import soundfile
    except ImportError:
        raise _missing("soundfile") from None
    return soundfile


def _missing(name: str) -> errors.InputError:
    return errors.InputError(
        f"sound needs the package {name}: pip install 'recraft_jax[audio]'"
    )
