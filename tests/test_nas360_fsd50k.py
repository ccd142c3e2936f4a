"""FSD50K: the spectrogram by another computation, masks, noise, lists."""

import csv
import sys

import nas360_big_files
import numpy as np
import pytest
import soundfile

from recraft_jax import errors
from recraft_jax.data.nas360 import fsd50k, mel

PLAIN = {"mix_prob": 0.0, "augment": False, "seed": 0}


def by_hand(audio):
    """Mel spectrogram in numpy: frames, Hann window, triangles on the HTK scale."""
    padded = np.pad(np.float64(audio), 960, mode="reflect")
    window = np.zeros(1920)
    window[629 : 629 + 661] = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(661) / 661)
    starts = range(0, len(audio) + 1, 220)
    frames = np.stack([padded[s : s + 1920] * window for s in starts])
    power = abs(np.fft.rfft(frames)) ** 2
    top = 2595 * np.log10(1 + 11025 / 700)
    corners = 700 * (10 ** (np.linspace(0, top, 98) / 2595) - 1)
    frequency = np.arange(961) * 22050 / 1920
    values = []
    for left, peak, right in zip(corners, corners[1:], corners[2:], strict=False):
        rise = (frequency - left) / (peak - left)
        fall = (right - frequency) / (right - peak)
        values.append(power @ np.maximum(0, np.minimum(rise, fall)))
    level = 10 * np.log10(np.maximum(values, 1e-10))
    level = np.maximum(level, level.max() - 80)
    return level - level.mean()


@pytest.mark.parametrize("seconds", [1, 1.37])
def test_spectrogram_by_hand(seconds):
    audio = nas360_big_files.tone(np.random.default_rng(0), seconds) / np.float32(32768)
    audio[7000:12000] = 0  # silence, which the 80 dB cut off
    got = mel.spectrogram(audio)
    assert got.dtype == np.float32
    assert got.shape == (96, 1 + len(audio) // 220)
    want = by_hand(audio)
    assert np.sum(want == want.min()) > 500
    np.testing.assert_allclose(got, want, atol=2e-3)


def test_loud_and_quiet_sound_look_alike():
    audio = nas360_big_files.tone(np.random.default_rng(0), 1) / np.float32(32768)
    np.testing.assert_allclose(
        mel.spectrogram(audio), mel.spectrogram(audio / 8), atol=1e-3
    )


class Fixed(np.random.Generator):
    """Numbers for `mel.masked` in the order in which it asks."""

    def __init__(self, num, shares):
        super().__init__(np.random.PCG64(0))
        self.num, self.shares = num, iter(shares)

    def integers(self, low, high):
        assert (low, high) == (1, 3)
        return self.num

    def uniform(self, low, high):
        return low + next(self.shares) * (high - low)


def test_masks_by_hand():
    values = np.arange(96 * 101, dtype=np.float32).reshape(96, 101) - 50
    # 0.15 * 0.5 * 96 = 7.2 channels from 0.3 * (96 - 7) = 26.7; 0.2 * 0.25 * 101 = 5.05
    # frames from 0.9 * 96 = 86.4; then 14 channels from 0, no frames.
    got = mel.masked(values, Fixed(2, [0.5, 0.3, 0.25, 0.9, 0.99, 0, 0.04, 0.5]))
    want = values.copy()
    want[26:33] = want[:14] = want[:, 86:91] = -50
    np.testing.assert_array_equal(got, want)
    got = mel.masked(values, Fixed(1, [0, 0.3, 0.25, 0]))
    want = values.copy()
    want[:, :5] = -50
    np.testing.assert_array_equal(got, want)
    assert values[0, 0] == -50 and values[50, 0] == 5000  # left as it was


def test_chunks_labels_and_groups(tmp_path):
    wrote = nas360_big_files.write_fsd50k(tmp_path)
    found = fsd50k.load(tmp_path, **PLAIN)
    for split in ("val", "test"):
        want = [
            (mel.spectrogram(chunk), labels, clip)
            for clip, (chunks, labels) in sorted(wrote[split].items())
            for chunk in chunks
        ]
        x, y, group = (found[split][key] for key in ("x", "y", "group"))
        assert x.shape == (len(want), 96, 102, 1) and y.shape == (len(want), 200)
        assert x[0].dtype == y.dtype == np.float32 and group.dtype == np.int32
        assert group.tolist() == [clip for _, _, clip in want]
        for row, (values, labels, _) in enumerate(want):
            np.testing.assert_array_equal(x[row][:, :101, 0], values)
            assert not x[row][:, 101].any()
            assert np.flatnonzero(y[row]).tolist() == sorted(
                int(label.removeprefix("Sound_")) for label in labels
            )
            assert y[row].max() == 1
    train = found["train"]
    assert train["group"].tolist() == sorted(wrote["train"])
    assert train["x"].shape == (6, 96, 102, 1) and train["y"].shape == (6, 200)
    for row, (chunks, _) in enumerate(wrote["train"].values()):
        same = [
            np.array_equal(train["x"][row][:, :101, 0], mel.spectrogram(chunk))
            for chunk in chunks
        ]
        assert sum(same) == 1


def test_chunk_is_drawn_for_each_seed(tmp_path):
    wrote = nas360_big_files.write_fsd50k(tmp_path, num_train=3, num_noise=0)
    clip, (chunks, _) = list(wrote["train"].items())[2]
    chunks = [mel.spectrogram(chunk) for chunk in chunks]
    drawn = []
    for seed in range(60):
        train = fsd50k.load(tmp_path, **PLAIN | {"seed": seed})["train"]
        row = train["group"].tolist().index(clip)
        got = train["x"][row][:, :101, 0]
        drawn.append([np.array_equal(got, each) for each in chunks].index(True))
    assert np.bincount(drawn).min() >= 10  # of 20


def mixtures(values, chunk, noise):
    """Share of noise if `values` is a mixture with some cut of it, else None."""
    for other in noise:
        for first in range(other.shape[1] - 100):
            step = other[:, first : first + 101] - chunk
            share = np.vdot(step, values - chunk) / np.vdot(step, step)
            if abs(chunk + share * step - values).max() < 1e-3:
                return share
    return None


def test_noise_and_masks_come_as_often_as_asked(tmp_path):
    wrote = nas360_big_files.write_fsd50k(tmp_path, num_train=1)
    ((chunk,), _) = wrote["train"][95]
    chunk = mel.spectrogram(chunk)
    noise = [mel.spectrogram(wave) for wave in wrote["noise"]]

    def drawn(mix_prob, num):
        found = []
        for seed in range(num):
            switches = {"mix_prob": mix_prob, "augment": True, "seed": seed}
            train = fsd50k.load(tmp_path, **switches)["train"]
            found.append(train["x"][0][:, :101, 0])
        return found

    plain = drawn(0.0, 40)
    is_masked = [not np.array_equal(each, chunk) for each in plain]
    assert 10 <= sum(is_masked) <= 30
    for each in plain:  # masked pixels hold the minimum
        assert (each[each != chunk] == chunk.min()).all()
    mixed = drawn(1.0, 40)
    assert not any(np.array_equal(each, chunk) for each in mixed)
    shares = [mixtures(each, chunk, noise) for each in mixed]
    shares = [share for share in shares if share is not None]
    assert 3 <= len(shares) <= 18  # a quarter has no mask in either
    assert 0 < min(shares) and max(shares) < 0.5
    assert min(shares) < 0.15 and max(shares) > 0.35
    # Draws before the mixing are the same, so equal samples are those without noise.
    some = drawn(0.75, 40)
    num_equal = sum(np.array_equal(a, b) for a, b in zip(some, plain, strict=True))
    assert 3 <= num_equal <= 18
    for a, b, c in zip(some, plain, mixed, strict=True):
        assert np.array_equal(a, b) or np.array_equal(a, c)


def test_samples_depend_on_the_seed_alone(tmp_path):
    nas360_big_files.write_fsd50k(tmp_path)
    switches = {"mix_prob": 0.75, "augment": True, "seed": 4}
    first = fsd50k.load(tmp_path, **switches)["train"]["x"]
    again = fsd50k.load(tmp_path, **switches)["train"]["x"]
    want = first[:]
    np.testing.assert_array_equal(again[[5, 2, 2]], want[[5, 2, 2]])
    other = fsd50k.load(tmp_path, **switches | {"seed": 5})["train"]["x"]
    assert not np.array_equal(other[:], want)


def test_short_files_are_repeated(tmp_path):
    nas360_big_files.write_fsd50k(tmp_path)
    wave = nas360_big_files.tone(np.random.default_rng(9), 0.4)
    path = tmp_path / "fsd" / "eval_chunks" / "135_0000.wav"
    soundfile.write(path, wave, 22050)
    got = fsd50k.load(tmp_path, **PLAIN)["test"]["x"][0][:, :101, 0]
    wave = np.tile(wave, 3)[:22050] / np.float32(32768)
    np.testing.assert_array_equal(got, mel.spectrogram(wave))


def test_faults_get_one_line(tmp_path, monkeypatch):
    folder = tmp_path / "fsd"
    lists = folder / "chunks"

    def refused(message, switches=(), split=None):
        with pytest.raises(errors.InputError, match=message) as info:
            found = fsd50k.load(tmp_path, **PLAIN | dict(switches))
            if split:
                found[split]["x"][0]
        assert "\n" not in str(info.value)

    refused("lbl_map.json: cannot be read")
    nas360_big_files.write_fsd50k(tmp_path)
    refused("mix_prob = 1.5; allowed: 0 to 1", {"mix_prob": 1.5})
    refused("seed = -1", {"seed": -1})
    long = folder / "eval_chunks" / "135_0000.wav"
    soundfile.write(long, np.zeros(22300), 22050)
    refused("102 frames; allowed: chunks of up to one second", split="test")
    soundfile.write(long, np.zeros((22050, 2)), 22050)
    refused(r"22050 Hz, shape \(22050, 2\); allowed: ", split="test")
    soundfile.write(long, np.zeros(22050), 44100)
    refused("44100 Hz", split="test")
    long.write_bytes(b"text")
    refused("135_0000.wav: cannot be read", split="test")
    for path in (folder / "noise_22050").iterdir():
        path.unlink()
    refused("no noise to mix with", {"augment": True, "mix_prob": 0.1})

    whole = (lists / "val.csv").read_text()

    def refused_list(message, *lines):
        with open(lists / "val.csv", "w", newline="") as stream:
            csv.writer(stream).writerows([("files", "labels", "ext"), *lines])
        refused(f"val.csv: {message}")

    chunk = "x/dev_chunks/125_0000.wav"
    refused_list("no chunks")
    refused_list("line 2: ext is 'a'; allowed: a number", (chunk, "Sound_7", "a"))
    refused_list("no file 'x/y.wav', nor any end of", ("x/y.wav", "Sound_7", 1))
    refused_list("clip 1 has label 'Sound_200'", (chunk, "Sound_200", 1))
    refused_list(
        "line 3: clip 1 has labels 'Sound_8' after 'Sound_7'",
        *((chunk, "Sound_7", 1), (chunk, "Sound_8", 1)),
    )
    refused_list("line 2 has .*allowed: files, labels, ext", (chunk, "Sound_7"))
    (lists / "val.csv").write_text(whole)
    (lists / "lbl_map.json").write_text('{"a": 0, "b": 2}')
    refused("lbl_map.json: allowed: labels with 0, 1, ... each once")
    for name in ("librosa", "soundfile"):
        with monkeypatch.context() as patch:
            patch.setitem(sys.modules, name, None)
            refused(rf"package {name}: pip install 'recraft_jax\[audio\]'")
