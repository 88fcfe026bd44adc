"""Text searches against answers that can be written down, and what every text attack promises."""

from __future__ import annotations

import itertools
import json
import threading

import pytest
import torch

from cmai_core.attacks import Consistency, TaskObjective, Untargeted
from cmai_core.attacks.objectives.objective import Objective
from cmai_core.attacks.objectives.success import Criterion, Raised
from cmai_core.attacks.objectives.text import (
    Mismatch,
    Misretrieved,
    PairConsistency,
    PairFlagged,
    TextTask,
    TextTaskWrong,
    pair_batch,
)
from cmai_core.attacks.text_attack import TextAttack
from cmai_core.attacks.text_searches.lexicon import Lexicon
from cmai_core.attacks.text_searches.proposers import (
    Characters,
    Eda,
    Homoglyphs,
    Injection,
    Synonyms,
    Vocabulary,
    end_literal,
)
from cmai_core.attacks.text_searches.search import BeamSearch, ImportanceSearch
from cmai_core.attacks.text_searches.tokens import HotFlip, RelaxedPGD
from cmai_core.attacks.threats.text import TextThreat
from cmai_core.data.pair import Batch
from cmai_core.data.words import Words, word_distance
from cmai_core.errors import DataError, OptionError
from cmai_core.progress import CancelToken

TEXTS = ["a red cube and a ball", "two large rings", "the small cone", "blue things"]
FORM = {"keep_case": True, "truth": "none"}


def best_substitution(model, batch, row, words):
    """−S_c of the best single substitution, by trying all."""
    text = Words.split(batch.texts[row])
    options = [text.spell(i, w) for i in range(len(text)) for w in words]
    image = model.image_features(batch.pixels[row : row + 1]).embedding
    with torch.no_grad():
        return float((-(model.encode_text([str(o) for o in options]) * image).sum(dim=1)).max())


@pytest.mark.parametrize("search", ["greedy", "beam", "hotflip", "relaxed"])
def test_the_best_single_substitution_is_found(search, tools):
    """The text embedding is linear in each word, so the gradient ranks substitutions exactly."""
    model, batch = tools.BagOfWords(), tools.text_batch(TEXTS)
    words = tuple(w for w in tools.WORDS[:60] if w.isalpha() and len(w) > 1 and w not in ("an",))
    searches = {
        "greedy": BeamSearch(proposer=Vocabulary(words=words)),
        "beam": BeamSearch(proposer=Vocabulary(words=words), beam=3),
        "hotflip": HotFlip(words=words, candidates=1),
        "relaxed": RelaxedPGD(words=words, steps=6, entropy=0.0),
    }
    result = TextAttack(threat=TextThreat(words=1, **FORM), search=searches[search])(model, batch, seed=1)
    for row in range(len(TEXTS)):
        best = max(best_substitution(model, batch, row, words), float(result.clean_objective[row]))
        assert float(result.objective[row]) == pytest.approx(best, abs=1e-9)
    assert (result.backwards > 0).all() == (search in ("hotflip", "relaxed"))


def test_two_substitutions_of_a_separable_objective_are_found_greedily(tools):
    """Words act independently, so the best two edits are found one after the other (HotFlip) and by PGD."""
    model, batch = tools.BagOfWords(), tools.text_batch(["red cube ball"])
    words = ("ring", "cone", "table", "picture")
    image = model.image_features(batch.pixels).embedding
    options = [
        " ".join(c)
        for c in itertools.product(*([w, *words] for w in ("red", "cube", "ball")))
        if word_distance(batch.texts[0], " ".join(c)) <= 2
    ]
    best = float((-(model.encode_text(options) * image).sum(dim=1)).max().detach())
    for search in (HotFlip(words=words), RelaxedPGD(words=words, steps=12, entropy=0.0)):
        result = TextAttack(threat=TextThreat(words=2), search=search)(model, batch)
        assert float(result.objective[0]) == pytest.approx(best, abs=1e-9)


def test_importance_is_what_leaving_a_word_out_does(tools):
    model, batch = tools.BagOfWords(), tools.text_batch(["red cube ball"])
    image = model.image_features(batch.pixels).embedding
    without = ["cube ball", "red ball", "red cube"]
    order = (-(model.encode_text(without) * image).sum(dim=1)).argsort(descending=True).tolist()

    class Spy:
        asked = None

        def propose(self, texts, words, randoms):
            self.asked = words[0]
            return [[] for _ in texts]

        def describe(self):
            return "spy"

    spy = Spy()
    result = TextAttack(threat=TextThreat(words=1), search=ImportanceSearch(proposer=spy))(model, batch)
    assert list(spy.asked) == order
    assert result.texts == batch.texts and result.queries.tolist() == [3]


SEARCHES = {
    "greedy": (BeamSearch(proposer=Eda()), {"words": 2}),
    "characters": (BeamSearch(proposer=Characters(letters=1)), {"words": 1, "characters": 1}),
    "importance": (ImportanceSearch(), {"words": 1}),
    "hotflip": (HotFlip(), {"words": 1}),
    "relaxed": (RelaxedPGD(steps=3, random_start=True, choices=8), {"words": 1}),
}


@pytest.mark.parametrize("name", SEARCHES)
def test_order_and_split_do_not_matter(name, tools):
    model, batch = tools.BagOfWords(), tools.text_batch([*TEXTS, TEXTS[0]])
    search, threat = SEARCHES[name]
    attack = TextAttack(threat=TextThreat(**threat), search=search)
    whole = attack(model, batch, seed=5)
    order = [3, 0, 4, 2, 1]
    shuffled = attack(model, tools.rows_of(batch, order), seed=5)
    assert shuffled.texts == tuple(whole.texts[k] for k in order)
    split = [attack(model, tools.rows_of(batch, rows), seed=5) for rows in ([0, 1], [2], [3, 4])]
    assert sum((part.texts for part in split), ()) == whole.texts
    assert shuffled.queries.tolist() == whole.queries[order].tolist()


@pytest.mark.parametrize("name", SEARCHES)
def test_everything_is_left_as_it_was(name, tools):
    model, batch = tools.BagOfWords().train(), tools.text_batch(TEXTS)
    model.table.grad = torch.ones_like(model.table)
    before, random_state = batch.pixels.clone(), torch.get_rng_state()
    search, threat = SEARCHES[name]
    result = TextAttack(threat=TextThreat(**threat), search=search)(model, batch, seed=1)
    assert model.training and model.table.requires_grad and bool((model.table.grad == 1).all())
    assert torch.equal(batch.pixels, before) and torch.equal(torch.get_rng_state(), random_state)
    with torch.no_grad():
        images = model.image_features(batch.pixels).embedding
        fresh = -(model.encode_text(list(result.texts)) * images).sum(dim=1)
    assert torch.allclose(fresh, result.objective) and torch.allclose(-fresh, result.consistency)
    assert torch.equal(result.success, fresh > result.clean_objective + 0)
    assert (result.objective >= result.clean_objective).all()
    assert torch.equal(result.objective_trace[-1], result.objective)
    assert (result.objective_trace.diff(dim=0) >= 0).all()
    record = json.loads(result.to_json())["pairs"][0]
    assert record["text"] == result.texts[0] and record["words_changed"] <= threat["words"]


def test_flipped_sign_and_idle_searches_would_be_noticed(tools):
    """The controls of the tests above: what an attack that does nothing, or the opposite, comes to."""
    model, batch = tools.BagOfWords(), tools.text_batch(TEXTS)
    up = TextAttack(objective=PairConsistency(), search=BeamSearch(proposer=Eda()))(model, batch)
    down = TextAttack(search=BeamSearch(proposer=Eda()))(model, batch)
    assert (up.consistency >= up.clean_consistency).all() and (down.consistency < up.consistency).all()
    idle = TextAttack(threat=TextThreat(words=0), search=BeamSearch(proposer=Eda()))(model, batch)
    assert idle.texts == batch.texts and idle.success_rate().hits == 0 and idle.queries.sum() == 0


@pytest.mark.parametrize(
    ("search", "threat"),
    [
        (BeamSearch(proposer=Synonyms()), {"words": 2}),
        (BeamSearch(proposer=Eda(count=4)), {"words": 1}),
        (BeamSearch(proposer=Characters(letters=1)), {"words": 1, "characters": 1}),
        (BeamSearch(proposer=Homoglyphs()), {"words": 1, "characters": 1}),
        (HotFlip(candidates=4, walk=200), {"words": 1}),
        (RelaxedPGD(steps=2, choices=4), {"words": 1}),
    ],
)
def test_edited_captions_stay_true_of_their_scene(search, threat, coca, tools):
    batch = tools.tabletop_batch(3)
    result = TextAttack(threat=TextThreat(truth="scene", **threat), search=search)(coca, batch)
    assert result.label_changed == (False, False, False)
    assert max(result.words_changed) <= threat["words"] and any(result.words_changed)
    assert result.label_change_rate().hits == 0
    assert result.success_rate(truthful=True).hits == int(result.success.sum())


def test_unconstrained_edits_report_how_often_they_make_the_caption_false(coca, tools):
    batch = tools.tabletop_batch(4)
    colours = Lexicon([["red", "green", "blue", "white", "purple", "cyan", "yellow", "orange"]])
    search = BeamSearch(proposer=Synonyms(colours))
    free = TextAttack(threat=TextThreat(words=1), search=search)(coca, batch)
    rate = free.label_change_rate()
    assert rate.total > 0 and rate.hits > 0
    truthful, plain = free.success_rate(truthful=True), free.success_rate()
    assert truthful.hits == plain.hits - rate.hits and truthful.total == plain.total
    bound = TextAttack(threat=TextThreat(words=1, truth="scene"), search=search)(coca, batch)
    assert bound.label_change_rate().hits == 0


def test_several_captions_of_one_image(tools):
    model = tools.BagOfWords()
    batch = tools.text_batch([*TEXTS, "a box"], owners=(0, 0, 1, 1, 1))
    result = TextAttack(search=BeamSearch(proposer=Eda()))(model, batch)
    assert result.ids == ("pair/0#0", "pair/0#1", "pair/1#0", "pair/1#1", "pair/1#2")
    assert result.image_of_text == (0, 0, 1, 1, 1)
    alone = tools.text_batch(TEXTS)
    assert pair_batch(alone) is alone
    with pytest.raises(DataError):
        pair_batch(Batch(batch.ids, batch.pixels, (), ()))


def test_progress_and_cancel_at_every_round(tools):
    model, batch = tools.BagOfWords(), tools.text_batch(TEXTS)
    for search, threat in ((BeamSearch(proposer=Eda()), 3), (RelaxedPGD(steps=4, choices=8), 1), (HotFlip(), 3)):
        token, seen = CancelToken(), []

        def listen(update, token=token, seen=seen):
            seen.append(update)
            if update.done == 1:
                token.cancel()

        attack = TextAttack(threat=TextThreat(words=threat), search=search)
        result = attack(model, batch, progress=listen, cancel=token, progress_interval=0.0)
        assert result.cancelled and result.steps_done == 1
        assert [*dict.fromkeys(u.done for u in seen)] == [0, 1] and len(seen[-1].data["texts"]) == 4
        assert len(seen[0].data["objective"]) == 1
        full = attack(model, batch)
        assert not full.cancelled and (full.objective >= result.objective).all()


def test_success_stops_a_pair(tools):
    model, batch = tools.BagOfWords(), tools.text_batch(TEXTS)
    attack = {"threat": TextThreat(words=3), "success": Raised()}
    early = TextAttack(search=BeamSearch(proposer=Eda(), stop_on_success=True), **attack)(model, batch)
    late = TextAttack(search=BeamSearch(proposer=Eda()), **attack)(model, batch)
    assert early.success.equal(late.success) and (early.queries < late.queries).any()
    assert max(early.words_changed) == 1


def test_an_embedding_is_computed_once_a_text(tools):
    model, batch = tools.BagOfWords(), tools.text_batch(TEXTS)
    TextAttack(threat=TextThreat(words=1), search=BeamSearch(proposer=Eda()))(model, batch)
    assert model.text_passes <= 3  # the clean texts, one round of candidates for all pairs together


def test_gallery_retrieval_has_the_known_margin(tools):
    model, batch = tools.BagOfWords(), tools.text_batch(TEXTS)
    images, texts = model.image_features(batch.pixels).embedding, model.encode_text(TEXTS)
    scores = (texts @ images.T).detach()
    eye = torch.eye(4, dtype=torch.bool)
    expected = {
        "image": scores.masked_fill(eye, -2).amax(dim=1) - scores.diag(),
        "text": scores.T.masked_fill(eye, -2).amax(dim=1) - scores.diag(),
    }
    expected["both"] = (expected["image"] + expected["text"]) / 2
    for direction, margin in expected.items():
        result = TextAttack(objective=Mismatch(direction), success=Misretrieved(direction), threat=TextThreat(words=0))(
            model, batch
        )
        assert torch.allclose(result.clean_objective, margin)
        assert torch.equal(result.clean_success, margin > 0)
    with pytest.raises(OptionError):
        TextAttack(objective=Mismatch())(model, tools.text_batch(TEXTS[:1]))


def test_an_item_that_is_true_is_no_wrong_item(coca, tools):
    """Two pairs with one scene: the other's image is right for the text, so it cannot be retrieved wrongly."""
    batch = tools.tabletop_batch(1)
    pair = batch.pairs[0]
    twin = Batch(("a", "b"), torch.rand(2, 3, 32, 32), (batch.texts[0],) * 2, (0, 1), (pair, pair))
    result = TextAttack(objective=Mismatch("image"), success=Misretrieved("image"))(coca, twin)
    assert not result.clean_success.any() and not result.success.any()


class Named:
    """A task whose text side is the caption: its loss is S_c's opposite, wrong where S_c < 0."""

    name = "named"

    def prepare(self, model, pairs, dataset=None):
        return model.encode_text([pair.captions[0] for pair in pairs])

    def loss(self, model, features, prepared):
        return -(features.embedding * prepared).sum(dim=1)

    def predict(self, model, features, prepared):
        from types import SimpleNamespace

        return [SimpleNamespace(correct=bool(v <= 0)) for v in self.loss(model, features, prepared)]


def test_any_task_can_be_attacked_through_its_text(tools):
    model, batch, task = tools.BagOfWords(), tools.text_batch(TEXTS), Named()
    search = BeamSearch(proposer=Eda())
    by_task = TextAttack(objective=TextTask(task), success=TextTaskWrong(task), search=search)(model, batch)
    by_pair = TextAttack(success=PairFlagged(0.0), search=search)(model, batch)
    assert by_task.texts == by_pair.texts and torch.equal(by_task.success, by_pair.success)
    with pytest.raises(OptionError, match="no gradient"):
        TextAttack(objective=TextTask(task), search=HotFlip())(model, batch)
    with pytest.raises(OptionError, match="question"):
        TextAttack(objective=TextTask(task, field="question"), search=search)(model, batch)


def test_parts_written_for_images_join_in(tools):
    """A task objective without `select_rows`, and a criterion on it: candidates of one pair are scored one by one."""
    model, batch, task = tools.BagOfWords(), tools.text_batch(TEXTS), Named()
    objective = 2.0 * TaskObjective(task) - PairConsistency()
    result = TextAttack(objective=objective, success=Untargeted(task), search=BeamSearch(proposer=Eda()))(model, batch)
    plain = TextAttack(search=BeamSearch(proposer=Eda()))(model, batch)
    assert torch.allclose(result.objective, plain.objective + 2 * plain.clean_objective)
    with pytest.raises(OptionError, match="consistency"):
        TextAttack(objective=-Consistency())


def test_refusals_name_what_is_accepted(tools):
    model, batch = tools.BagOfWords(), tools.text_batch(TEXTS)
    for make in (
        lambda: TextAttack(objective="S_c"),
        lambda: TextAttack(search=3),
        lambda: TextAttack(threat={}),
        lambda: TextAttack(steps=3),
        lambda: BeamSearch(proposer="synonyms"),
        lambda: BeamSearch(beam=0),
        lambda: HotFlip(candidates=0),
        lambda: RelaxedPGD(restarts=2),
        lambda: RelaxedPGD(entropy=2.0),
        lambda: Eda(operations=("shuffle",)),
        lambda: ImportanceSearch(mask=None),
        lambda: TextAttack(search=HotFlip(words=("quixotic",)))(model, batch),
    ):
        with pytest.raises(OptionError):
            make()
    with pytest.raises(DataError, match="truth='scene'"):
        TextAttack(threat=TextThreat(truth="scene"))(model, batch)


def test_hostile_captions_are_attacked_or_left_alone(coca, tools):
    texts = ["", "🙂🙂", "<end_of_text> a cube", "cube " * 80, "a\x00b", "ＣＵＢＥ [UNK] cube"]
    batch = tools.text_batch(texts, size=32)
    for search in (BeamSearch(proposer=Eda(count=2)), HotFlip(candidates=1, walk=8), RelaxedPGD(steps=1, choices=2)):
        result = TextAttack(threat=TextThreat(words=1), search=search)(coca, batch)
        assert result.objective.isfinite().all() and max(result.words_changed) <= 1
        json.loads(result.to_json())


def test_end_literals_are_found_where_they_work(coca):
    assert end_literal(coca) == ""

    class Clip:
        def token_ids(self):
            return 0, 1, 2

        def tokenize(self, texts):
            return torch.tensor([[1, 5, 2, 5, 2] if "<end_of_text>" in t else [1, 5, 6, 5, 2] for t in texts])

    assert end_literal(Clip()) == "<end_of_text>"


def test_an_end_literal_hides_the_rest_of_the_text(tools):
    """A tokenizer that obeys the literal reads "a <end_of_text> cube" as "a"; the injection finds the best cut."""

    class Obeys(tools.BagOfWords):
        def encode_text(self, x, pad_mask=None):
            return super().encode_text([t.split("<end_of_text>")[0] for t in x])

    model, batch = Obeys(), tools.text_batch(["red cube ball ring"])
    image = model.image_features(batch.pixels).embedding
    cuts = ["", "red", "red cube", "red cube ball", "red cube ball ring"]
    best = float((-(model.encode_text(cuts) * image).sum(dim=1)).max().detach())
    threat = TextThreat(words=8, special_tokens=True, keep_punctuation=False)
    search = BeamSearch(proposer=Injection(payloads=()), rounds=1)
    result = TextAttack(threat=threat, search=search)(model, batch)
    assert float(result.objective[0]) == pytest.approx(best, abs=1e-9)


def test_a_criterion_is_asked_and_a_success_kept_before_a_higher_objective(tools):
    class Marked(Criterion):
        def bind(self, model, batch, shared=None):
            return self

        def select(self, rows):
            return self

        def __call__(self, scored):
            return torch.tensor(["ring" in t for t in scored.features.strings])

        def describe(self):
            return "marked"

    model, batch = tools.BagOfWords(), tools.text_batch(["red cube ball"])
    proposer = Vocabulary(words=("ring", "cone", "table", "large"))
    result = TextAttack(search=BeamSearch(proposer=proposer), success=Marked())(model, batch)
    assert bool(result.success[0]) and "ring" in result.texts[0]


def test_an_objective_that_is_not_a_number_is_named(tools):
    class Broken(PairConsistency):
        def __call__(self, model, pixels, features):
            value = super().__call__(model, pixels, features)
            return torch.where(torch.tensor([t == TEXTS[1] for t in features.strings]), torch.nan, value)

    model, batch = tools.BagOfWords(), tools.text_batch(TEXTS)
    assert isinstance(Broken(), Objective)
    result = TextAttack(objective=-Broken(), search=BeamSearch(proposer=Eda()))(model, batch)
    assert "not a number" in result.notes[1] and result.notes[0] == ""
    assert result.objective[[0, 2, 3]].isfinite().all() and "NaN" not in result.to_json()


def test_out_of_memory_halves_the_chunk(tools):
    class Tight(tools.BagOfWords):
        def encode_text(self, x, pad_mask=None):
            if len(x) > 5:
                raise torch.OutOfMemoryError("out of memory")
            return super().encode_text(x, pad_mask)

    batch = tools.text_batch(TEXTS)
    wide = TextAttack(search=BeamSearch(proposer=Eda()))(tools.BagOfWords(), batch)
    tight = TextAttack(search=BeamSearch(proposer=Eda()))(Tight(), batch)
    assert wide.texts == tight.texts


def test_it_runs_in_another_thread(tools):
    model, batch, found = tools.BagOfWords(), tools.text_batch(TEXTS), []
    thread = threading.Thread(target=lambda: found.append(TextAttack(search=BeamSearch(proposer=Eda()))(model, batch)))
    thread.start()
    thread.join(20)
    assert found and found[0].texts == TextAttack(search=BeamSearch(proposer=Eda()))(model, batch).texts
