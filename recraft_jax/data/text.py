"""Labelled text: the source data of the text tower, read and tokenised.

Readers return plain Python lists; the two `encode_*` functions make arrays of them.
Classes are numbered in the order of their sorted names. At token level "O" (outside of
any entity) is a class like the others; whoever needs entities alone drops it.
"""

import json
import os
import pathlib
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import tokenizers
import tokenizers.implementations
import tokenizers.models
import tokenizers.pre_tokenizers
import tokenizers.processors
from jaxtyping import Bool, Int

from recraft_jax import errors

NO_LABEL = -1


class Text(NamedTuple):
    """Token ids with labels per sentence or per token."""

    ids: Int[np.ndarray, "n l"]  # int32, padded at the end
    mask: Bool[np.ndarray, "n l"]  # False at padding
    labels: Int[np.ndarray, " n"] | Int[np.ndarray, "n l"]  # int32, see `level`
    names: tuple[str, ...]  # class names, sorted
    level: str  # "sentence": labels [n]; "token": labels [n l], -1 where there is none


def read_trec(path: str | os.PathLike) -> tuple[list[str], list[str]]:
    """Read TREC questions, `COARSE:fine question` a line.

    The file holds nested subsets, hence each line up to five times: a line is kept at
    its first occurrence only. A question with two fine labels under one coarse label
    stays twice (there is one); split by question if that matters.

    Returns:
        The questions and their coarse labels (ABBR, DESC, ENTY, HUM, LOC, NUM).
    """
    rows = {}  # an ordered set
    for number, line in _lines(path):
        label, _, question = line.strip().partition(" ")
        coarse, colon, fine = label.partition(":")
        if not (coarse and colon and fine and question.strip()):
            raise _bad_line(path, number, line, "'COARSE:fine question'")
        rows[coarse, fine, question.strip()] = None
    _check_rows(path, rows)
    return [row[2] for row in rows], [row[0] for row in rows]


def read_conll(path: str | os.PathLike) -> tuple[list[list[str]], list[list[str]]]:
    """Read words and their tags, the first and last column; blank lines separate.

    Columns are separated by tabs or spaces, as many in every line: two, or four in
    CoNLL-2003 (token, part of speech, chunk, entity). A line whose first column is
    empty (a lone tab) or `-DOCSTART-` separates too. BIO tags are collapsed to their
    types: `B-person` and `I-person` become `person`; `O` is kept, as are tags without a
    prefix.

    Args:
        path: The file; or a folder with CoNLL-2003's `eng.train` or, failing that,
            `train.txt`.

    Returns:
        The words of each sentence and their tags, of equal lengths.
    """
    path = _conll_file(pathlib.Path(path))
    words, tags = [], []
    is_open = False
    num_columns = 0
    for number, line in _lines(path, keep_blank=True):
        columns = line.split("\t") if "\t" in line else line.split()
        columns = [column.strip() for column in columns]
        if not columns or columns[0] in ("", "-DOCSTART-"):
            is_open = False
            continue
        num_columns = num_columns or max(len(columns), 2)
        if len(columns) != num_columns or columns[-1] in ("", "B-", "I-"):
            want = f"'token tag' in {num_columns} columns, first and last"
            raise _bad_line(path, number, line, want)
        if not is_open:
            words.append([])
            tags.append([])
            is_open = True
        words[-1].append(columns[0])
        tags[-1].append(entity_type(columns[-1]))
    _check_rows(path, words)
    return words, tags


def entity_type(tag: str) -> str:
    """Return the type of a BIO tag; `O` and tags without a prefix are their own."""
    return tag[2:] if tag.startswith(("B-", "I-")) else tag


def read_table(path: str | os.PathLike) -> tuple[list[str], list[str]]:
    """Read a user's own file, `label<TAB>sentence` a line; blank lines are skipped.

    Returns:
        The sentences and their labels, in the order of the file, repeats included.
    """
    sentences, labels = [], []
    for number, line in _lines(path):
        label, _, sentence = line.partition("\t")
        if not (label.strip() and sentence.strip()):
            raise _bad_line(path, number, line, "'label<TAB>sentence'")
        sentences.append(sentence.strip())
        labels.append(label.strip())
    _check_rows(path, sentences)
    return sentences, labels


def encode_sentences(
    tokenizer_folder: str | os.PathLike,
    sentences: Sequence[str],
    labels: Sequence[str],
    max_length: int,
) -> Text:
    """Tokenise sentences that carry one label each.

    Args:
        tokenizer_folder: Holds `tokenizer.json` or, failing that, `vocab.txt` (a
            lower-casing BERT WordPiece vocabulary) or `vocab.json` and `merges.txt`
            (RoBERTa's byte-level BPE).
        sentences: Text, one string a sentence.
        labels: Class names, one a sentence.
        max_length: Longer sentences are cut to it, special tokens included.

    Returns:
        Arrays padded to the longest encoded sentence.
    """
    _check_pairs(sentences, labels)
    tokenizer = _tokenizer(tokenizer_folder, max_length)
    ids, mask = _pad(tokenizer, tokenizer.encode_batch(list(sentences)))
    names = tuple(sorted(set(labels)))
    index = {name: k for k, name in enumerate(names)}
    classes = np.array([index[label] for label in labels], np.int32)
    return Text(ids, mask, classes, names, "sentence")


def encode_words(
    tokenizer_folder: str | os.PathLike,
    words: Sequence[Sequence[str]],
    tags: Sequence[Sequence[str]],
    max_length: int,
) -> Text:
    """Tokenise sentences whose words carry one label each.

    The first piece of a word carries its label; further pieces, special tokens and
    padding get -1. A word the tokenizer drops (control characters) or that `max_length`
    cuts off loses its label with it; its class keeps its number. Byte-level BPE, for
    which " word" and "word" differ, sees every word with a space before it, the first
    too, whatever its `add_prefix_space` says.

    Args:
        tokenizer_folder: See `encode_sentences`.
        words: The words of each sentence.
        tags: Their class names, of equal lengths.
        max_length: Longer sentences are cut to it, special tokens included.

    Returns:
        Arrays padded to the longest encoded sentence.
    """
    _check_pairs(words, tags)
    for i, (row, row_tags) in enumerate(zip(words, tags, strict=True)):
        if len(row) != len(row_tags):
            raise ValueError(f"sentence {i}: {len(row)} words, {len(row_tags)} tags")
    tokenizer = _tokenizer(tokenizer_folder, max_length)
    # Not by add_prefix_space: some files split words first and would then add a space
    # before each part.
    space = " " if _is_byte_level(tokenizer) else ""
    rows = [[space + word for word in row] for row in words]
    encodings = tokenizer.encode_batch(rows, is_pretokenized=True)
    ids, mask = _pad(tokenizer, encodings)
    names = tuple(sorted({tag for row in tags for tag in row}))
    index = {name: k for k, name in enumerate(names)}
    classes = np.full(ids.shape, NO_LABEL, np.int32)
    for i, encoding in enumerate(encodings):
        last = None
        for j, word in enumerate(encoding.word_ids):
            if word is not None and word != last:
                classes[i, j] = index[tags[i][word]]
            last = word
    return Text(ids, mask, classes, names, "token")


def _lines(
    path: str | os.PathLike, keep_blank: bool = False
) -> Iterator[tuple[int, str]]:
    """Yield line numbers from 1 and lines; only a newline ends a line."""
    try:
        raw = pathlib.Path(path).read_bytes()
    except OSError as error:
        raise errors.InputError(f"{path}: cannot be read ({error.strerror})") from error
    for number, line in enumerate(raw.removeprefix(b"\xef\xbb\xbf").split(b"\n"), 1):
        try:
            text = line.decode("utf-8").removesuffix("\r")
        except UnicodeDecodeError as error:
            raise errors.InputError(f"{path}, line {number}: not UTF-8") from error
        if keep_blank or text.strip():
            yield number, text


def _conll_file(path: pathlib.Path) -> pathlib.Path:
    if not path.is_dir():
        return path
    for name in ("eng.train", "train.txt"):
        if (path / name).is_file():
            return path / name
    raise errors.InputError(f"{path}: neither eng.train nor train.txt in this folder")


def _bad_line(
    path: str | os.PathLike, number: int, line: str, want: str
) -> errors.InputError:
    return errors.InputError(
        f"{path}, line {number}: expected {want}, got {line[:80]!r}"
    )


def _check_rows(path: str | os.PathLike, rows: Sequence | dict) -> None:
    if not rows:
        raise errors.InputError(f"{path}: holds no labelled text")


def _check_pairs(texts: Sequence, labels: Sequence) -> None:
    if len(texts) != len(labels) or not texts:
        raise ValueError(f"{len(texts)} sentences, {len(labels)} labels")


# The vocab.txt class wraps a Tokenizer instead of being one.
_Tokenizer = tokenizers.Tokenizer | tokenizers.implementations.BaseTokenizer


def _tokenizer(folder: str | os.PathLike, max_length: int) -> _Tokenizer:
    if max_length < 3:
        raise ValueError(f"max_length {max_length}: at least 3, [CLS] token [SEP]")
    folder = pathlib.Path(folder)
    there = [
        names for names in _LOADERS if all((folder / name).is_file() for name in names)
    ]
    if not there:
        allowed = ", or ".join(" with ".join(names) for names in _LOADERS)
        raise errors.InputError(f"{folder}: no tokenizer; allowed: {allowed}")
    paths = [str(folder / name) for name in there[0]]
    try:
        tokenizer = _LOADERS[there[0]](*paths)
    except Exception as error:  # the Rust side raises bare Exception
        reason = " ".join(str(error).split())
        raise errors.InputError(f"{paths[0]}: not a tokenizer ({reason})") from error
    # The packaged file has padding to 128 and truncation at 128 switched on.
    tokenizer.no_padding()
    tokenizer.no_truncation()
    tokenizer.enable_truncation(max_length)
    return tokenizer


def _wordpiece(vocabulary: str) -> _Tokenizer:
    return tokenizers.BertWordPieceTokenizer(vocabulary, lowercase=True)


def _roberta(vocabulary: str, merges: str) -> _Tokenizer:
    """Byte-level BPE with RoBERTa's special tokens around, `<s> ... </s>`."""
    pieces, pairs = tokenizers.models.BPE.read_file(vocabulary, merges)
    lacking = [name for name in ("<s>", "</s>") if name not in pieces]
    if lacking:
        raise ValueError(f"no {' and no '.join(lacking)} in the vocabulary")
    unknown = "<unk>" if "<unk>" in pieces else None
    model = tokenizers.models.BPE(pieces, pairs, unk_token=unknown)
    tokenizer = tokenizers.Tokenizer(model)
    special = ("<s>", "<pad>", "</s>", "<unk>", "<mask>")
    tokenizer.add_special_tokens([name for name in special if name in pieces])
    byte_level = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.pre_tokenizer = byte_level
    ends = [(name, pieces[name]) for name in ("</s>", "<s>")]
    tokenizer.post_processor = tokenizers.processors.RobertaProcessing(*ends)
    return tokenizer


# Files of a tokenizer -> how to read them; the first that are all there.
_LOADERS = {
    ("tokenizer.json",): tokenizers.Tokenizer.from_file,
    ("vocab.txt",): _wordpiece,
    ("vocab.json", "merges.txt"): _roberta,
}


def _is_byte_level(tokenizer: _Tokenizer) -> bool:
    stored = json.loads(tokenizer.to_str())["pre_tokenizer"]
    return '"ByteLevel"' in json.dumps(stored)


def _pad(
    tokenizer: _Tokenizer, encodings: Sequence[tokenizers.Encoding]
) -> tuple[Int[np.ndarray, "n l"], Bool[np.ndarray, "n l"]]:
    # Without a padding token any id will do: those positions are masked.
    pad = tokenizer.token_to_id("[PAD]") or tokenizer.token_to_id("<pad>") or 0
    length = max(len(encoding.ids) for encoding in encodings)
    ids = np.full((len(encodings), length), pad, np.int32)
    mask = np.zeros(ids.shape, bool)
    for i, encoding in enumerate(encodings):
        ids[i, : len(encoding.ids)] = encoding.ids
        mask[i, : len(encoding.ids)] = True
    return ids, mask
