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


CONLL_2003 = """-DOCSTART- -X- O O

EU NNP I-NP I-ORG
rejects VBZ I-VP O

-DOCSTART- -X- O O
Peter NNP I-NP I-PER
Blackburn NNP I-NP I-PER
"""


def test_read_conll_2003(tmp_path):
    want = [["EU", "rejects"], ["Peter", "Blackburn"]], [["ORG", "O"], ["PER", "PER"]]
    with pytest.raises(errors.InputError, match="neither eng.train nor train.txt"):
        text.read_conll(tmp_path)
    (tmp_path / "train.txt").write_text(CONLL_2003.replace(" ", "\t"))
    assert text.read_conll(tmp_path) == want
    (tmp_path / "eng.train").write_text(CONLL_2003 + "\nand CC O O\n")
    words, tags = text.read_conll(tmp_path)
    assert words == [*want[0], ["and"]] and tags == [*want[1], ["O"]]


@pytest.mark.parametrize("line", ["a b c", "a O", "a b c d O", "a b c I-", "a\tb\tc\t"])
def test_read_conll_2003_bad_line(tmp_path, line):
    _bad(text.read_conll, _write(tmp_path, f"{CONLL_2003}{line}\n"), 9)


@pytest.mark.parametrize("line", ["good", "good\t", "\ttext", "good text"])
def test_read_table_bad_line(tmp_path, line):
    _bad(text.read_table, _write(tmp_path, f"a\tb\n{line}\n"), 2)


@pytest.mark.parametrize("read", [text.read_trec, text.read_conll, text.read_table])
def test_unreadable_files(tmp_path, read):
    _bad(read, _write(tmp_path, b"\n\n\xff\xfe\tO\n"), 3)
    (tmp_path / "folder").mkdir()
    folder = tmp_path / "folder"
    for path in (_write(tmp_path, "\n \n"), tmp_path / "none.txt", folder):
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


SENTENCES = ["the cat sat on the mat", "don't sit, cat! the U.N. sat", "Zoë sat"]


@pytest.fixture(scope="session")
def bpe():
    """A small byte-level BPE with RoBERTa's special tokens, and its reference."""
    trained = tokenizers.ByteLevelBPETokenizer()
    special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    trained.train_from_iterator(SENTENCES * 3, 290, 2, False, special)
    return trained


@pytest.fixture(params=["vocab.json", "tokenizer.json", "split"])
def bpe_folder(request, tmp_path, bpe):
    bpe.save_model(str(tmp_path))
    if request.param != "vocab.json":
        pre = tokenizers.pre_tokenizers
        full = tokenizers.Tokenizer.from_str(bpe.to_str())
        full.pre_tokenizer = pre.ByteLevel(add_prefix_space=False)
        if request.param == "split":  # words are split by another part, as in GPT-4
            regex = tokenizers.Regex(r"'t|\s?\w+|\s?[^\w\s]")
            split = pre.Split(regex, "isolated")
            level = pre.ByteLevel(add_prefix_space=False, use_regex=False)
            full.pre_tokenizer = pre.Sequence([split, level])
        ends = [(name, bpe.token_to_id(name)) for name in ("</s>", "<s>")]
        full.post_processor = tokenizers.processors.RobertaProcessing(*ends)
        full.enable_padding(length=64)
        full.save(str(tmp_path / "tokenizer.json"))
        for name in ("vocab.json", "merges.txt"):
            (tmp_path / name).unlink()
    return tmp_path


def _pieces(bpe, ids):
    return [bpe.id_to_token(int(i)) for i in ids]


def test_encode_sentences_bpe(bpe, bpe_folder):
    got = text.encode_sentences(bpe_folder, ["the cat sat", "cat"], ["x", "y"], 16)
    rows = [_pieces(bpe, ids) for ids in got.ids]
    # Ġ stands for the space; the first word of a sentence has none.
    first = bpe.encode("the").tokens
    assert rows[0] == ["<s>", *first, "Ġcat", "Ġsat", "</s>"]
    second = ["<s>", *bpe.encode("cat").tokens, "</s>"]
    assert rows[1] == second + ["<pad>"] * (len(rows[0]) - len(second))
    np.testing.assert_array_equal(got.mask[1], np.arange(len(rows[0])) < len(second))


def test_encode_words_bpe(bpe, bpe_folder):
    words = [["cat", "don't", "the", "U.N.", "cat", "cat"], ["the"]]
    tags = [["animal", "verb", "O", "org", "animal", "thing"], ["O"]]
    got = text.encode_words(bpe_folder, words, tags, 40)
    # Every word as in the middle of a sentence, the first too.
    parts = [[bpe.encode(f" {word}").tokens for word in row] for row in words]
    assert parts[0][0] == ["Ġcat"] and len(parts[0][1]) > 1 and len(parts[0][3]) > 3
    for i, row in enumerate(parts):
        want = [piece for part in row for piece in part]
        assert _pieces(bpe, got.ids[i][got.mask[i]]) == ["<s>", *want, "</s>"]
        classes = [-1]
        for part, tag in zip(row, tags[i], strict=True):
            classes += [got.names.index(tag)] + [-1] * (len(part) - 1)
        classes += [-1] * (got.ids.shape[1] - len(classes))
        np.testing.assert_array_equal(got.labels[i], classes)


def test_bpe_cuts(bpe, bpe_folder):
    got = text.encode_words(bpe_folder, [["cat", "sat", "cat"]], [["a", "b", "a"]], 4)
    assert _pieces(bpe, got.ids[0]) == ["<s>", "Ġcat", "Ġsat", "</s>"]
    np.testing.assert_array_equal(got.labels, [[-1, 0, 1, -1]])


def test_bpe_without_its_files_or_special_tokens(bpe, tmp_path):
    bpe.save_model(str(tmp_path))
    merges = (tmp_path / "merges.txt").read_text()
    (tmp_path / "merges.txt").unlink()
    with pytest.raises(errors.InputError, match="vocab.json with merges.txt$"):
        text.encode_sentences(tmp_path, ["a"], ["x"], 8)
    (tmp_path / "merges.txt").write_text(merges)
    vocabulary = json.loads((tmp_path / "vocab.json").read_text())
    del vocabulary["</s>"]
    (tmp_path / "vocab.json").write_text(json.dumps(vocabulary))
    with pytest.raises(errors.InputError, match="not a tokenizer .no </s> in the voc"):
        text.encode_sentences(tmp_path, ["a"], ["x"], 8)
    (tmp_path / "vocab.json").write_text("{")
    with pytest.raises(errors.InputError, match="vocab.json: not a tokenizer"):
        text.encode_sentences(tmp_path, ["a"], ["x"], 8)


def test_tokenizer_errors(tmp_path, vocab_folder):
    allowed = "tokenizer.json, or vocab.txt, or vocab.json with merges.txt$"
    with pytest.raises(errors.InputError, match=allowed):
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
