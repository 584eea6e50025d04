"""Tokenizers learnt from captions: every text comes back, ends are the last two numbers, the rest is cut."""

import json

import pytest
from tokenizers import Tokenizer as Reference

from stablerep.errors import InvalidInput, NotFound
from stablerep.models.tokenizer import learn_tokenizer, load_tokenizer

TEXTS = [f"{colour} shoe with {part}" for colour in ("A red", "a blue") for part in ("laces", "a heel")]

SIZE = 275
"""Few enough that there are so many."""


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "own.json"
    path.write_bytes(learn_tokenizer(TEXTS, SIZE))
    return path


def test_any_text_comes_back(path):
    tokenizer, reference = load_tokenizer(str(path)), Reference.from_file(str(path))
    assert tokenizer.size == reference.get_vocab_size() == SIZE
    texts = ["a red shoe", "", "漢字 and émojis 🏖️ that it never saw"]
    tokens, cut = tokenizer(texts)
    assert cut == 0
    for row, text in zip(tokens.tolist(), texts, strict=True):
        end = row.index(SIZE - 1)
        assert row[0] == SIZE - 2
        assert set(row[end + 1 :]) <= {0}
        assert reference.decode(row[1:end]).strip() == text.lower()


def test_what_it_learnt_from_takes_fewer_tokens(path):
    path.write_bytes(learn_tokenizer(TEXTS, 400))
    (learnt, _), (unknown, _) = (load_tokenizer(str(path))([text]) for text in (TEXTS[0], "qzx wvk jjq qqz"))
    assert learnt.shape[1] == 5 + 2  # a word is a token
    assert unknown.shape[1] > 14


@pytest.mark.parametrize("own", [True, False])
def test_a_text_that_spells_the_ends_out_does_not_end(path, own):
    tokenizer = load_tokenizer(str(path) if own else "")
    row = tokenizer(["a <|endoftext|> shoe <|startoftext|>"])[0][0].tolist()
    assert row.count(tokenizer.size - 1) == row.count(tokenizer.size - 2) == 1
    assert row[-1] == tokenizer.size - 1


def test_long_texts_are_cut_and_counted(path):
    tokens, cut = load_tokenizer(str(path))(["red " * 200, "red"])
    assert tokens.shape == (2, 77)
    assert cut == 1
    assert tokens[0, -1] == SIZE - 1


def test_it_is_the_same_again():
    assert learn_tokenizer(TEXTS, SIZE) == learn_tokenizer(iter(TEXTS), SIZE)


def test_what_is_no_tokenizer_is_refused(tmp_path, path):
    with pytest.raises(InvalidInput, match="258"):
        learn_tokenizer(TEXTS, 257)
    with pytest.raises(NotFound, match="`stablerep tokenizer` makes one"):
        load_tokenizer(str(tmp_path / "none.json"))
    (tmp_path / "other.json").write_text("{}", encoding="utf-8")
    with pytest.raises(InvalidInput, match=r"other\.json is no tokenizer"):
        load_tokenizer(str(tmp_path / "other.json"))
    (tmp_path / "picture.json").write_bytes(b"\xff\xd8\xff")
    with pytest.raises(InvalidInput, match=r"picture\.json is no tokenizer"):
        load_tokenizer(str(tmp_path / "picture.json"))
    content = json.loads(path.read_text(encoding="utf-8"))
    content["added_tokens"] = []
    (tmp_path / "endless.json").write_text(json.dumps(content), encoding="utf-8")
    with pytest.raises(InvalidInput, match="the last two of its 273 tokens"):
        load_tokenizer(str(tmp_path / "endless.json"))
