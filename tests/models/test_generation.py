"""Greedy and beam search against chains whose best continuation is known, and on a real decoder."""

from __future__ import annotations

import itertools

import pytest
import torch

from cmai_core.errors import DataError, OptionError
from cmai_core.models.generation import generate_ids

PAD, BOS, EOS = 0, 1, 2
CONTEXT = 12


def chain(table):
    """A decoder that looks at the last token only: table V×V of probabilities, one per image row."""
    logits = table.clamp(min=1e-9).log()
    return lambda tokens, ids: logits[tokens[:, 0, 0].long().unsqueeze(1), ids]


def search(tables, prompt, *, max_tokens, beam):
    """Run on one chain per row. `prompt`: list of id lists."""
    lengths = torch.tensor([len(p) for p in prompt])
    ids = torch.full((len(prompt), int(lengths.max())), PAD)
    for row, values in enumerate(prompt):
        ids[row, : len(values)] = torch.tensor(values)
    tokens = torch.arange(len(prompt)).view(-1, 1, 1).float()
    return generate_ids(
        chain(torch.stack(tables)),
        tokens,
        ids,
        lengths,
        context_length=CONTEXT,
        max_tokens=max_tokens,
        beam=beam,
        eos_id=EOS,
        pad_id=PAD,
        forbidden=(PAD, BOS),
    )


def trap():
    """Greedy takes 3 (0.6), after which every way is worth 0.25; the better text begins with 4 (0.4), then is sure."""
    table = torch.full((8, 8), 1e-9)
    table[BOS, 3], table[BOS, 4] = 0.6, 0.4
    table[3, [4, 5, 6, EOS]] = 0.25
    table[4, 5] = 1.0
    table[5, EOS] = 1.0
    table[6, EOS] = 1.0
    return table


def test_beam_finds_what_greedy_misses():
    (greedy,) = search([trap()], [[BOS]], max_tokens=6, beam=1)
    (beamed,) = search([trap()], [[BOS]], max_tokens=6, beam=3)
    assert greedy[0] == 3
    assert beamed == [4, 5]


@pytest.mark.parametrize("seed", range(5))
def test_a_wide_beam_is_exhaustive(seed):
    """With as many hypotheses as there are texts, the result is the best of all texts by mean log-probability."""
    generator = torch.Generator().manual_seed(seed)
    table = torch.rand(5, 5, generator=generator) ** 2
    table[:, [PAD, BOS]] = 0
    table /= table.sum(dim=1, keepdim=True)
    best_score, best = -1e9, None
    for length in (1, 2, 3):
        for text in itertools.product((EOS, 3, 4), repeat=length):
            if EOS in text[:-1] or (length < 3 and text[-1] != EOS):
                continue
            score = sum(float(table[a, b].log()) for a, b in zip((BOS, *text), text, strict=False)) / length
            if score > best_score:
                best_score, best = score, list(text)
    (found,) = search([table], [[BOS]], max_tokens=3, beam=16)
    assert found == (best[:-1] if best[-1] == EOS else best)


def test_rows_with_prompts_of_different_length_do_not_mix():
    generator = torch.Generator().manual_seed(9)
    tables = [torch.rand(9, 9, generator=generator) for _ in range(3)]
    prompts = [[BOS], [BOS, 3, 4, 5], [BOS, 7]]
    for beam in (1, 3):
        together = search(tables, prompts, max_tokens=5, beam=beam)
        alone = [search([t], [p], max_tokens=5, beam=beam)[0] for t, p in zip(tables, prompts, strict=True)]
        assert together == alone
        assert all(not {PAD, BOS, EOS} & set(row) for row in together)


def test_it_stops_at_the_limit_and_at_the_end_of_the_context():
    endless = torch.full((8, 8), 1e-9)
    endless[:, 3] = 1.0
    assert search([endless], [[BOS]], max_tokens=4, beam=2) == [[3] * 4]
    assert search([endless], [[BOS, 5, 5]], max_tokens=99, beam=2) == [[3] * (CONTEXT - 3)]


def test_it_stops_at_the_end_token():
    table = torch.full((8, 8), 1e-9)
    table[BOS, 4], table[4, EOS], table[EOS, 5] = 1.0, 1.0, 1.0
    assert search([table], [[BOS]], max_tokens=9, beam=1) == [[4]]
    table[BOS] = table[4]
    assert search([table], [[BOS]], max_tokens=9, beam=1) == [[]]


# --- on a real decoder ------------------------------------------------------------------------------------------------


def test_greedy_follows_the_likeliest_token_of_open_clips_own_forward(small, pixels):
    cfg = small.clip.visual.preprocess_cfg
    normalised = (pixels - torch.tensor(cfg["mean"]).view(3, 1, 1)) / torch.tensor(cfg["std"]).view(3, 1, 1)
    ids = small.tokenize(["is there a cube?"] * 3)
    end = int((ids[0] == EOS).nonzero()[0])
    ids = ids[:, :end]
    for _ in range(5):
        with torch.no_grad():
            logits = small.clip(normalised, ids, output_labels=False)["logits"][:, -1]
        logits[:, [PAD, BOS]] = float("-inf")
        ids = torch.cat([ids, logits.argmax(1, keepdim=True)], 1)
    expected = []
    for row in ids[:, end:].tolist():
        expected.append(small.detokenize(row[: row.index(EOS)] if EOS in row else row))
    assert small.generate(pixels, "is there a cube?", max_tokens=5) == expected
    features = small.image_features(pixels)
    assert small.generate(features, ["is there a cube?"] * 3, max_tokens=5) == expected


def test_it_learns_to_say_a_caption(make, pixels):
    """A decoder trained on two captions writes them, ends by itself, and answers after a prompt."""
    model = make(3)
    texts = ["a red cube", "is there a ball? yes"]
    ids = model.trim(model.tokenize(texts))
    optimiser = torch.optim.AdamW(model.clip.parameters(), 3e-3)
    for _ in range(60):
        features = model.image_features(pixels[:2])
        logits = model.fusion_logits(features.tokens, ids)
        loss = torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten(), ignore_index=PAD)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    model.clip.eval()
    for beam in (1, 3):
        assert model.generate(pixels[:2], ["", "is there a ball?"], beam=beam) == ["a red cube", "yes"]


def test_bad_options(small, pixels):
    with pytest.raises(OptionError, match="beam"):
        small.generate(pixels, beam=0)
    with pytest.raises(OptionError, match="max_tokens"):
        small.generate(pixels, max_tokens=0)
    with pytest.raises(DataError, match=r"2.*3"):
        small.generate(pixels, ["a", "b"])
    with pytest.raises(DataError):
        small.generate(pixels, "a " * 60)
