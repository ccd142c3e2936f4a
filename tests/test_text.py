import collections
import json

import numpy as np
import pytest
import tokenizers

from recraft_jax import assets, errors
from recraft_jax.data import text

PIECES = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "the", "cat", "sat", "on"]
PIECES += ["mat", "##s", "##ting", "a", "."]
ID = {piece: i for i, piece in enumerate(PIECES)}


@pytest.fixture
def vocab_folder(tmp_path):
    folder = tmp_path / "vocab"
    folder.mkdir()
    (folder / "vocab.txt").write_text("\n".join(PIECES) + "\n")
    return folder


@pytest.fixture
def json_folder(tmp_path, vocab_folder):
    folder = tmp_path / "json"
    folder.mkdir()
    tokenizer = tokenizers.BertWordPieceTokenizer(str(vocab_folder / "vocab.txt"))
    tokenizer.enable_padding(length=128, pad_id=0)
    tokenizer.enable_truncation(4)
    tokenizer.save(str(folder / "tokenizer.json"))
    stored = json.loads((folder / "tokenizer.json").read_text())
    assert stored["padding"] and stored["truncation"]  # the trap is there
    return folder


@pytest.fixture(params=["vocab_folder", "json_folder"])
def folder(request):
    return request.getfixturevalue(request.param)


def _write(tmp_path, content):
    path = tmp_path / "data.txt"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def _bad(read, path, number):
    with pytest.raises(errors.InputError) as info:
        read(path)
    message = str(info.value)
    assert "\n" not in message and message.startswith(f"{path}, line {number}: ")


def test_read_trec(tmp_path):
    lines = ["NUM:date When ?", "HUM:ind Who is it ?", "NUM:date When ?", ""]
    lines += ["NUM:count When ?", "HUM:ind  Who is it ? ", "LOC:city Où\u2028x ?"]
    sentences, labels = text.read_trec(_write(tmp_path, "\r\n".join(lines)))
    assert sentences == ["When ?", "Who is it ?", "When ?", "Où\u2028x ?"]
    assert labels == ["NUM", "HUM", "NUM", "LOC"]


@pytest.mark.parametrize("line", ["NUM When ?", "NUM:date", ":date x", "NUM: x"])
def test_read_trec_bad_line(tmp_path, line):
    _bad(text.read_trec, _write(tmp_path, f"NUM:date When ?\n\n{line}\n"), 3)


def test_read_conll(tmp_path):
    content = (
        "\nNew\tB-geo-loc\nYork\tI-geo-loc\nis\tO\n\t\n\t\nhe\tO\n\tO\nBob B-person"
    )
    words, tags = text.read_conll(_write(tmp_path, content + "\n\n\n"))
    assert words == [["New", "York", "is"], ["he"], ["Bob"]]
    assert tags == [["geo-loc", "geo-loc", "O"], ["O"], ["person"]]


@pytest.mark.parametrize("line", ["word", "word\t", "a b c", "a\tb\tc", "word\tB-"])
def test_read_conll_bad_line(tmp_path, line):
    _bad(text.read_conll, _write(tmp_path, f"a\tO\n{line}\n"), 2)


def test_read_table(tmp_path):
    content = "\ufeffgood\tfine thing\n\n bad \tone\ttwo \r\ngood\tfine thing"
    sentences, labels = text.read_table(_write(tmp_path, content))
    assert sentences == ["fine thing", "one\ttwo", "fine thing"]
    assert labels == ["good", "bad", "good"]


@pytest.mark.parametrize("line", ["good", "good\t", "\ttext", "good text"])
def test_read_table_bad_line(tmp_path, line):
    _bad(text.read_table, _write(tmp_path, f"a\tb\n{line}\n"), 2)


@pytest.mark.parametrize("read", [text.read_trec, text.read_conll, text.read_table])
def test_unreadable_files(tmp_path, read):
    _bad(read, _write(tmp_path, b"\n\n\xff\xfe\tO\n"), 3)
    for path in (_write(tmp_path, "\n \n"), tmp_path / "none.txt", tmp_path):
        with pytest.raises(errors.InputError, match="^" + str(path)):
            read(path)


def test_encode_sentences(folder):
    sentences = ["The cats sat.", "a MAT", "dog"]
    got = text.encode_sentences(folder, sentences, ["z", "a", "z"], 16)
    rows = [["the", "cat", "##s", "sat", "."], ["a", "mat"], ["[UNK]"]]
    want = np.zeros((3, 7), np.int32)
    for i, row in enumerate(rows):
        row = ["[CLS]", *row, "[SEP]"]
        want[i, : len(row)] = [ID[piece] for piece in row]
    np.testing.assert_array_equal(got.ids, want)
    np.testing.assert_array_equal(got.mask.sum(axis=1), [7, 4, 3])
    np.testing.assert_array_equal(got.mask, want != 0)
    np.testing.assert_array_equal(got.labels, [1, 0, 1])
    assert got.ids.dtype == got.labels.dtype == np.int32 and got.mask.dtype == bool
    assert got.names == ("a", "z") and got.level == "sentence"


def test_encode_sentences_cuts(folder):
    got = text.encode_sentences(folder, ["the cat sat on the mat", "a"], ["x", "y"], 5)
    want = [ID[p] for p in ("[CLS]", "the", "cat", "sat", "[SEP]")]
    assert got.ids.shape == (2, 5)
    np.testing.assert_array_equal(got.ids[0], want)


def test_encode_words(folder):
    words = [["The", "cats", "sat"], ["mats"], ["on", "\x00", "mat", "."]]
    tags = [["O", "animal", "O"], ["thing"], ["O", "lost", "thing", "O"]]
    got = text.encode_words(folder, words, tags, 16)
    assert got.names == ("O", "animal", "lost", "thing") and got.level == "token"
    # [CLS] the cat ##s sat [SEP] / [CLS] mat ##s [SEP] / [CLS] on mat . [SEP]
    want = [
        [-1, 0, 1, -1, 0, -1],
        [-1, 3, -1, -1, -1, -1],
        [-1, 0, 3, 0, -1, -1],
    ]
    np.testing.assert_array_equal(got.labels, want)
    np.testing.assert_array_equal(got.mask.sum(axis=1), [6, 4, 5])
    assert got.labels.dtype == got.ids.dtype == np.int32
    assert not np.any(got.labels[~got.mask] != text.NO_LABEL)


def test_encode_words_cuts(folder):
    words, tags = [["cat", "cats", "mat"]], [["a", "b", "c"]]
    got = text.encode_words(folder, words, tags, 4)  # [CLS] cat cat [SEP]
    np.testing.assert_array_equal(got.labels, [[-1, 0, 1, -1]])
    assert got.names == ("a", "b", "c")


def test_tokenizer_errors(tmp_path, vocab_folder):
    with pytest.raises(errors.InputError, match="neither tokenizer.json nor vocab.txt"):
        text.encode_sentences(tmp_path, ["a"], ["x"], 8)
    (vocab_folder / "tokenizer.json").write_text("{}")
    with pytest.raises(errors.InputError, match="tokenizer.json: not a tokenizer"):
        text.encode_sentences(vocab_folder, ["a"], ["x"], 8)


def test_bad_arguments(vocab_folder):
    with pytest.raises(ValueError, match="max_length 2"):
        text.encode_sentences(vocab_folder, ["a"], ["x"], 2)
    with pytest.raises(ValueError, match="1 sentences, 2 labels"):
        text.encode_sentences(vocab_folder, ["a"], ["x", "y"], 8)
    with pytest.raises(ValueError, match="0 sentences"):
        text.encode_words(vocab_folder, [], [], 8)
    with pytest.raises(ValueError, match="sentence 0: 2 words, 1 tags"):
        text.encode_words(vocab_folder, [["a", "cat"]], [["x"]], 8)


@pytest.mark.network
def test_real_trec(tmp_path):
    path = assets.fetch("trec6", str(tmp_path)) / "question_labels.txt"
    sentences, labels = text.read_trec(path)
    assert len(sentences) == len(labels) == 5382
    counts = dict(ENTY=1245, HUM=1215, DESC=1153, NUM=859, LOC=824, ABBR=86)
    assert collections.Counter(labels) == counts


@pytest.mark.network
def test_real_wnut(tmp_path):
    words, tags = text.read_conll(assets.fetch("wnut16", str(tmp_path)) / "ner.txt")
    assert len(words) == 2394 and max(map(len, words)) == 39
    counts = collections.Counter(tag for row in tags for tag in row)
    assert sum(counts.values()) == 46469
    want = dict(person=664, other=545, facility=209, company=207, product=177)
    want |= dict(musicartist=116, movie=80, sportsteam=74, tvshow=65, O=44007)
    assert counts == want | {"geo-loc": 325}


@pytest.mark.network
def test_real_tokenizer():
    folder = assets.fetch("minilm")  # 83.5 MB: from the user's cache when it is there
    got = text.encode_sentences(folder, ["A man is eating food."], ["x"], 128)
    want = [101, 1037, 2158, 2003, 5983, 2833, 1012, 102]
    np.testing.assert_array_equal(got.ids, [want])
