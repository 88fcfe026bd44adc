import pytest
from transformers import AutoTokenizer

from cmai_core.data.tabletop.language import vocabulary
from cmai_core.errors import ModelError
from cmai_core.models.tokenizer import (
    BOS_ID,
    EOS_ID,
    FILES,
    PAD_ID,
    PUNCTUATION,
    VOCABULARY_SIZE,
    build_bundled_tokenizer,
    build_tokenizer,
    bundled_tokenizer_dir,
    word_list,
)


@pytest.fixture(scope="module")
def tokenizer():
    return AutoTokenizer.from_pretrained(bundled_tokenizer_dir())


def inner_ids(tokenizer, text):
    ids = tokenizer(text).input_ids
    assert ids[0] == BOS_ID and ids[-1] == EOS_ID
    return ids[1:-1]


def test_rebuilding_gives_the_bundled_files_byte_for_byte(tmp_path):
    build_bundled_tokenizer(tmp_path)
    for name in FILES:
        assert (tmp_path / name).read_bytes() == (bundled_tokenizer_dir() / name).read_bytes(), name


def test_ids_of_the_special_tokens_and_size(tokenizer):
    assert (tokenizer.pad_token_id, tokenizer.bos_token_id, tokenizer.eos_token_id) == (PAD_ID, BOS_ID, EOS_ID)
    assert len(tokenizer) == VOCABULARY_SIZE
    assert sorted(tokenizer.get_vocab().values()) == list(range(VOCABULARY_SIZE))


def test_every_word_of_tabletop_is_the_same_single_token_wherever_it_stands(tokenizer):
    words = [word for word in vocabulary() if word not in PUNCTUATION]
    assert len(words) > 80
    for word in words:
        (alone,) = inner_ids(tokenizer, word)
        assert inner_ids(tokenizer, word.upper()) == [alone], word
        for text in (f"{word}, zebra", f"zebra {word}", f"zebra,{word}.", f"({word})", f"zebra\t{word}?"):
            assert alone in inner_ids(tokenizer, text), (word, text)


def test_the_word_list_covers_the_language_and_its_punctuation(tokenizer):
    assert set(vocabulary()) <= set(word_list("tabletop")) | set(PUNCTUATION)
    for mark in PUNCTUATION:
        assert len(inner_ids(tokenizer, mark)) == 1


@pytest.mark.parametrize("literal", ["<eos>", "<bos>", "<pad>"])
def test_literal_special_strings_stay_text(tokenizer, literal):
    ids = inner_ids(tokenizer, f"a red {literal} cube")
    assert not {PAD_ID, BOS_ID, EOS_ID} & set(ids)
    assert tokenizer.decode(ids).replace(" ", "") == f"ared{literal}cube"


def test_without_the_guard_literal_special_strings_would_become_special(tokenizer):
    unguarded = AutoTokenizer.from_pretrained(bundled_tokenizer_dir(), split_special_tokens=False)
    assert unguarded("a <eos> cube").input_ids.count(EOS_ID) == 2


@pytest.mark.parametrize(
    "text",
    [
        "is there a red cube? yes",
        "both pictures show exactly two balls. true",
        "a cube, a ball and 2 cones.",
        "straße naïve 日本語 🧊 Ωmega\u00a0x",
        "100 antidisestablishmentarianisms",
        "",
    ],
)
def test_nothing_is_lost_but_case_and_spacing(tokenizer, text):
    import unicodedata

    decoded = tokenizer.decode(inner_ids(tokenizer, text))
    expected = unicodedata.normalize("NFKC", text).lower()
    assert decoded.replace(" ", "") == "".join(expected.split())


def test_sentences_decode_to_the_same_sentence(tokenizer):
    for text in (
        "is there a red cube? yes",
        "there are two balls, a cone and a left-most cube.",
        "it's a cube (shiny)!",
    ):
        assert tokenizer.decode(inner_ids(tokenizer, text)) == text


def test_open_clip_alone_reads_it_and_pads_with_zero(small):
    ids = small.tokenizer(["a cube", "a " * 100])
    assert ids.shape == (2, 48)
    assert ids[0].tolist() == [BOS_ID, *inner_ids(small.tokenizer.tokenizer, "a cube"), EOS_ID] + [PAD_ID] * 44
    assert ids[1, 0] == BOS_ID and ids[1, -1] == EOS_ID, "a text that is too long keeps its end"


def test_word_lists_that_cannot_be_built_say_why(tmp_path):
    with pytest.raises(ModelError, match=r"two words.*2"):
        build_tokenizer(["a b"], tmp_path, ["two words"])
    with pytest.raises(ModelError, match=r"2000.*1024"):
        build_tokenizer(["a b"], tmp_path, [f"w{i}" for i in range(2000)])
    with pytest.raises(ModelError, match=r"\d+ of 1024"):
        build_tokenizer(["a b"], tmp_path, ["cube"])
    assert list(tmp_path.iterdir()) == []
