"""What the lab offers as threat model, objective and search, the recipes as presets over the three, and what combines.

Plain data, so that the first screen need not import the attacks: a search is named by the recipe of
`cmai_core.attacks.recipes.registry` that is built from it, and tests hold every fact given here against that registry.
"""

from __future__ import annotations

from dataclasses import dataclass

from cmai_core.data.registry import DATASETS, kind_of
from cmai_core.paths import assets_dir
from cmai_core.tasks import TASKS

THREATS = {
    "linf": "L∞",
    "l2": "L2",
    "l0": "few pixels",
    "patch": "patch",
    "text": "words",
    "joint": "pixels + words",
}
"""Threat model → its word. "l0": a number of pixel positions; "patch": all pixels of a square; "text": words of the
sentence; "joint": pixels (L∞) and words together."""

THREAT_NOTES = {
    "linf": "No pixel value changes by more than ε.",
    "l2": "The root mean square change of the pixel values is at most ε.",
    "l0": "At most so many pixel positions change, each as much as it likes.",
    "patch": "All pixels of one square change, the others stay.",
    "text": "The picture stays; at most so many words of the sentence change.",
    "joint": "Pixels change by at most ε (L∞), and words of the sentence change with them.",
}

OBJECTIVES = {
    "task": "task loss",
    "consistency": "S_c",
    "both": "both",
    "margin": "margin",
    "dlr": "DLR",
    "kl": "KL",
    "deviation": "embedding",
    "aware": "loss, S_c above τ",
    "accept": "get accepted",
    "reject": "get rejected",
}
"""Objective → its word; "consistency" is −S_c, "both" α·loss − β·S_c; the last three know a detector."""

OBJECTIVE_NOTES = {
    "task": "The loss of the attacked task; of searches that bring an objective of their own, that.",
    "consistency": "−S_c: picture and sentence drift apart. No task is needed.",
    "both": "α·task loss − β·S_c, the inner problem of MBAT.",
    "margin": "Best false score minus best true score (Carlini and Wagner): positive where the answer is wrong.",
    "dlr": "The difference of logits ratio (Croce and Hein): a margin that does not know the scale of the scores.",
    "kl": "The divergence of the answer's probabilities from the clean ones: needs no right answer.",
    "deviation": "How far the picture's embedding moves from the clean one: needs neither task nor sentence.",
    "aware": "The task loss while the detector accepts: success is an answer that is wrong and accepted.",
    "accept": "S_c − τ: a pair that the detector rejects, such as a false sentence, gets accepted.",
    "reject": "τ − S_c: a pair that the detector accepts, such as a true sentence, gets rejected.",
}

CLASS_OBJECTIVES = ("margin", "dlr", "kl")
DETECTOR_OBJECTIVES = ("aware", "accept", "reject")
"""Objectives of attacks on a model with a detector around it."""
TASKLESS = ("consistency", "deviation", "accept", "reject")
"""Objectives that no task belongs to."""
UNJUDGED = ("consistency", "deviation", "both")
"""Objectives that are raised as far as they go, whether or not something has become wrong."""
FLAT_AT_CLEAN = ("kl", "deviation")
"""Objectives whose gradient is zero at the clean picture."""

LENGTHS = ("linf", "l2")
CONVEX = ("linf", "l2", "patch")
PIXELS = ("linf", "l2", "l0", "patch")


@dataclass(frozen=True)
class Search:
    """A search the lab shows, by the recipe it is.

    Attributes:
        word: its name on the page. group: heading it stands under.
        threats: what it goes with. home: the threat of its preset.
        steps, queries: the usual number, 0 where the search does not count in them. least_steps: fewest it runs with.
        restarts: whether it may be started anew. step_size: whether the step is a person's to choose (L∞ and L2).
        own: it brings an objective of its own, shown as "task". detector: it brings one against a detector, shown as
            "aware". boundary: it looks for where its objective is zero, which only the margin and the distance from a
            threshold mean something by. scores: by scores, so that its preset raises the margin.
        from_clean: it starts at the clean picture. classes: it needs a task with class scores, whatever is raised.
        masked_lm: it proposes words by the bundled masked language model.
        absent: why the lab shows but does not run it ("" where it does).
    """

    slug: str
    word: str
    group: str
    threats: tuple[str, ...]
    steps: int = 0
    queries: int = 0
    least_steps: int = 1
    restarts: bool = False
    step_size: bool = False
    own: bool = False
    detector: bool = False
    boundary: bool = False
    scores: bool = False
    from_clean: bool = False
    classes: bool = False
    masked_lm: bool = False
    home: str = ""
    absent: str = ""

    @property
    def name(self) -> str:
        """Its word as a sentence begins."""
        return self.word[0].upper() + self.word[1:]

    @property
    def threat(self) -> str:
        return self.home or self.threats[0]


GRADIENT, NEAREST, BLACK, WORDS, TOGETHER = "gradients", "nearest boundary", "black box", "words", "pixels and words"
GROUPS = (GRADIENT, NEAREST, BLACK, WORDS, TOGETHER)

_TEXT, _JOINT = ("text",), ("joint",)

_SEARCHES = (
    Search("pgd", "PGD", GRADIENT, PIXELS, steps=20, restarts=True, step_size=True),
    Search("fgsm", "FGSM", GRADIENT, PIXELS, from_clean=True),
    Search("r-fgsm", "R+FGSM", GRADIENT, ("linf",)),
    Search("mi-fgsm", "MI-FGSM", GRADIENT, PIXELS, steps=10, from_clean=True),
    Search("di-fgsm", "DI-FGSM", GRADIENT, PIXELS, steps=20, from_clean=True),
    Search("eot", "EOT", GRADIENT, PIXELS, steps=20, restarts=True, step_size=True),
    Search("apgd", "APGD", GRADIENT, CONVEX, steps=100, restarts=True),
    Search("apgd-t", "APGD-T", GRADIENT, CONVEX, steps=100, restarts=True, own=True, classes=True),
    Search("autoattack", "AutoAttack", GRADIENT, LENGTHS, steps=100, restarts=True, own=True, classes=True),
    Search("patch", "patch PGD", GRADIENT, ("patch",), steps=100, restarts=True),
    Search("jsma", "JSMA", GRADIENT, ("l0",), steps=200, own=True, classes=True),
    Search("fab", "FAB", NEAREST, LENGTHS, steps=100, restarts=True, boundary=True),
    Search("deepfool", "DeepFool", NEAREST, LENGTHS, steps=50, boundary=True, home="l2"),
    Search("cw", "C&W", NEAREST, ("l2",), steps=50, boundary=True),
    Search("square", "Square", BLACK, CONVEX, queries=1000, scores=True),
    Search("nes", "NES", BLACK, PIXELS, queries=1000, scores=True, from_clean=True),
    Search("spsa", "SPSA", BLACK, PIXELS, queries=1000, scores=True, from_clean=True),
    Search("genetic", "genetic", BLACK, PIXELS, queries=1000, scores=True),
    Search("hopskipjump", "HopSkipJump", BLACK, LENGTHS, queries=1000, own=True, home="l2"),
    Search("typographic", "typographic", BLACK, PIXELS, queries=100, scores=True, home="patch"),
    Search("universal", "universal", GRADIENT, CONVEX, steps=100,
           absent="It makes one perturbation for many pictures, and the lab attacks one: "
           "the command line has it."),
    Search("transfer", "transfer", GRADIENT, PIXELS, steps=10,
           absent="Here every attack shows it: craft on one model, and the other is shown the same picture."),
    Search("adaptive", "adaptive ensemble", GRADIENT, PIXELS, steps=20, restarts=True, own=True, detector=True),
    Search("bert-attack", "BERT-Attack", WORDS, _TEXT, masked_lm=True),
    Search("synonym", "synonyms", WORDS, _TEXT),
    Search("eda", "EDA", WORDS, _TEXT),
    Search("hotflip", "HotFlip", WORDS, _TEXT),
    Search("relaxed-pgd", "relaxed PGD", WORDS, _TEXT, steps=20),
    Search("char", "characters", WORDS, _TEXT),
    Search("homoglyph", "homoglyphs", WORDS, _TEXT),
    Search("injection", "injection", WORDS, _TEXT,
           absent="It adds up to twelve words and special tokens, more than the budgets offered here: "
           "the command line has it."),
    Search("sep", "separate", TOGETHER, _JOINT, steps=10, masked_lm=True),
    Search("seq", "sequential", TOGETHER, _JOINT, steps=10, masked_lm=True),
    Search("co-attack", "Co-Attack", TOGETHER, _JOINT, steps=10, masked_lm=True),
    Search("sga", "SGA", TOGETHER, _JOINT, steps=10, masked_lm=True),
    Search("alternating", "alternating", TOGETHER, _JOINT, steps=50, least_steps=4, masked_lm=True),
    Search("joint-cmai", "best response", TOGETHER, _JOINT, steps=50, masked_lm=True),
)  # fmt: skip

SEARCHES = {search.slug: search for search in _SEARCHES}
"""Every search the lab shows, by slug."""

FALSE_POSITIVE_RATE = 0.05
"""Share of clean pairs that a detector in the lab may flag; τ is calibrated to it."""
CALIBRATION_PAIRS = 200
"""Clean pairs of the validation split that τ is calibrated on."""

BUDGETS = {
    "linf": (0.5, 1.0, 2.0, 4.0, 8.0, 16.0),
    "l2": (0.5, 1.0, 2.0, 4.0, 8.0, 16.0),
    "l0": (10.0, 30.0, 100.0, 300.0, 1000.0),
    "patch": (1.0, 2.0, 5.0, 10.0, 20.0, 100.0),
    "joint": (0.5, 1.0, 2.0, 4.0, 8.0, 16.0),
}
"""Budgets offered: 1/255 for L∞, L2 and joint, pixel positions for l0, per cent of the area for a patch."""
USUAL_BUDGET = {"linf": 4.0, "l2": 4.0, "l0": 100.0, "patch": 5.0, "joint": 2.0}


def budget_words(threat: str, epsilon: float) -> str:
    """A budget as people read it."""
    if threat == "l0":
        return f"{epsilon:g} pixels"
    return f"{epsilon:g} %" if threat == "patch" else f"{epsilon:g}/255"


@dataclass(frozen=True)
class Preset:
    """A recipe as the three parts it is made of, and its usual numbers (0 where the search does not count in them)."""

    slug: str
    word: str
    threat: str
    objective: str
    search: str
    epsilon: float
    steps: int
    queries: int

    @property
    def parts(self) -> tuple[str, str, str]:
        return self.threat, self.objective, self.search


def _preset(search: Search, objective: str = "", slug: str = "", word: str = "") -> Preset:
    usual = "consistency" if search.group in (WORDS, TOGETHER) else "task"
    if search.boundary or search.scores:
        usual = "margin"
    if search.detector:
        usual = "aware"
    budget = 100.0 if search.slug == "typographic" else USUAL_BUDGET.get(search.threat, 0.0)
    parts = (search.threat, objective or usual, search.slug)
    return Preset(slug or search.slug, word or search.word, *parts, budget, search.steps, search.queries)


PRESETS = {
    preset.slug: preset
    for preset in (
        _preset(SEARCHES["pgd"], "both", "mbat-pgd", "MBAT's PGD"),
        *(_preset(search) for search in _SEARCHES if not search.absent),
        _preset(SEARCHES["apgd"], "dlr", "apgd-dlr", "APGD on DLR"),
        _preset(SEARCHES["pgd"], "aware", "detector-pgd", "detector-aware PGD"),
        _preset(SEARCHES["pgd"], "accept", "accept-false", "false caption accepted"),
        _preset(SEARCHES["pgd"], "reject", "reject-true", "true pair rejected"),
    )
}
"""Every recipe the lab runs, by slug."""


def preset_of(threat: str, objective: str, search: str) -> str:
    """The recipe that is made of these three parts; "" where none is."""
    return next((p.slug for p in PRESETS.values() if p.parts == (threat, objective, search)), "")


def why_no_detector(pair: str) -> str:
    """Say why there is no threshold for pairs like this one (`Experiment.pair`); "" where there is."""
    kind = kind_of(pair) if pair else ""
    with_pairs = [info for info in DATASETS.values() if info.calibration]
    if not pair or any(info.kind == kind for info in with_pairs):
        return ""
    least = round(1 / FALSE_POSITIVE_RATE)
    titles = " or ".join(info.title for info in with_pairs)
    few = sum(info.sizes.get(split, 0) for info in DATASETS.values() if info.kind == kind for split in info.shown)
    return (
        f"A threshold at {FALSE_POSITIVE_RATE:.0%} false alarms takes {least} clean pairs to spare, "
        f"and the {kind} here are {few}: choose a pair of {titles}."
    )


def why_not_objective(threat: str, objective: str, task: str, pair: str = "") -> str:
    """Why an objective does not go with a threat model, a task and a pair ("": any); "" where it does."""
    if threat in ("text", "joint") and objective != "consistency":
        return "Where words change, the lab raises −S_c; the command line has objectives on tasks, too."
    if objective in DETECTOR_OBJECTIVES and (reason := why_no_detector(pair)):
        return reason
    if objective in CLASS_OBJECTIVES and not TASKS[task].has_classes:
        return f"The task {task} has no class scores, which this objective compares."
    if objective == "dlr" and (options := TASKS[task].options or 3) < 3:
        return f"DLR compares three answers, and the task {task} has {options}: choose the margin."
    return ""


def why_not_search(threat: str, objective: str, search: str, task: str) -> str:
    """Why a search does not go with an objective that goes with the threat model; "" where it does."""
    chosen = SEARCHES[search]
    if chosen.absent:
        return chosen.absent
    if threat not in chosen.threats:
        return _wrong_threat(chosen, threat)
    if chosen.masked_lm and not (assets_dir() / "masked_lm" / "model.safetensors").is_file():
        return "It needs Tabletop's masked language model, which is not here."
    if chosen.boundary and objective not in ("margin", "accept", "reject"):
        return f"{chosen.name} looks for the nearest boundary, where the margin is zero: choose the margin."
    if chosen.detector and objective != "aware":
        return f"{chosen.name} looks for what is wrong and accepted: choose “{OBJECTIVES['aware']}”."
    if chosen.own and not chosen.detector and objective != "task":
        return f"{chosen.name} brings an objective of its own for a wrong answer: choose the task loss."
    if chosen.classes and not TASKS[task].has_classes:
        return f"The task {task} has no class scores, which {chosen.word} needs."
    if chosen.from_clean and objective in FLAT_AT_CLEAN:
        return f"{chosen.name} starts at the clean picture, where this objective is flat."
    return ""


def _wrong_threat(search: Search, threat: str) -> str:
    if search.threats == _TEXT:
        return f"{search.name} edits words: choose the threat model “{THREATS['text']}”."
    if search.threats == _JOINT:
        return f"{search.name} moves pixels and words: choose the threat model “{THREATS['joint']}”."
    if threat in ("text", "joint"):
        return f"{search.name} changes pixels only."
    fits = " or ".join(THREATS[name] for name in search.threats)
    return f"{search.name} goes with {fits}, not with {THREATS[threat]}."


def why_not(threat: str, objective: str, search: str, task: str, pair: str = "") -> str:
    """Why the three parts do not combine on a task (and a pair), in a sentence; "" where they do."""
    return why_not_objective(threat, objective, task, pair) or why_not_search(threat, objective, search, task)


def settled(threat: str, objective: str, search: str, task: str, pair: str = "") -> tuple[str, str]:
    """(objective, search): as given where they go with the threat model, else the first that does."""
    if why_not_objective(threat, objective, task, pair):
        fitting = (o for o in OBJECTIVES if not why_not_objective(threat, o, task, pair))
        objective = next(fitting)
    if why_not_search(threat, objective, search, task):
        search = next(s for s in SEARCHES if not why_not_search(threat, objective, s, task))
    return objective, search
