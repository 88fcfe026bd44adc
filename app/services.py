"""Process-wide things behind the pages: datasets, models, the job queue. Bounded, shared, loaded on first use.

Heavy libraries are imported inside the functions that need them, so that the first screen does not wait.
"""

from __future__ import annotations

import contextlib
import logging
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import streamlit as st

from app import fetching, owner, presence, state
from app.pictures import picture_url
from cmai_core.data.registry import COMPOSED, DATASETS, DEFAULT_DATASET, PHOTOGRAPHS
from cmai_core.errors import CmaiError, DataError, ModelError
from cmai_core.lab.experiment import DEFENDED, UNDEFENDED, Experiment, parse_pair_id
from cmai_core.lab.images import data_url, decode, thumbnail
from cmai_core.lab.places import place_of
from cmai_core.progress import Progress

if TYPE_CHECKING:
    from app.fetching import Errand
    from app.threshold_desk import ThresholdShelf
    from app.uploads import Upload
    from cmai_core.data.composer import Composer
    from cmai_core.data.pair import Pair, PairDataset
    from cmai_core.jobs import Job, JobQueue, JobSnapshot
    from cmai_core.lab.distribution import ScoreDistribution
    from cmai_core.lab.embedding import EmbeddingMap
    from cmai_core.lab.result import LabResult
    from cmai_core.models import ModelCard
    from cmai_core.showcase import Showcase

_log = logging.getLogger("cmai.app")

MODELS_IN_MEMORY = 4
QUEUE_LENGTH = 32
JOBS_PER_VISITOR = 2
JOBS_PER_ADDRESS = 24
"""A class behind one address has most of the queue, and never all of it."""
JOB_SECONDS = 900.0


class ModelShelf:
    """The models used last, at most `capacity`; loading is done by one thread at a time."""

    def __init__(self, capacity: int = MODELS_IN_MEMORY):
        self._capacity = capacity
        self._models: OrderedDict[str, Any] = OrderedDict()
        self._lock = threading.Lock()
        self._loading = ""

    def get(self, spec: str) -> Any:
        """The model of a specification, loaded when it is not here yet.

        Raises:
            ModelError: visitors may not use it, it is not on the disk, or it cannot be loaded.
        """
        owner.require(spec)
        # Nothing is downloaded here: this lock, and the worker's thread, are everybody's.
        if spec not in self._models and not fetching.here(spec):
            raise ModelError(
                f"{owner.shown(spec)} has not been downloaded yet.", "Attack a pair with it first: that downloads it."
            )
        with self._lock:
            if spec in self._models:
                self._models.move_to_end(spec)
                return self._models[spec]
            self._loading = spec
            try:
                model = _loaded(spec)
            finally:
                self._loading = ""
            self._models[spec] = model
            while len(self._models) > self._capacity:
                self._models.popitem(last=False)
            return model

    @property
    def loaded(self) -> tuple[str, ...]:
        return tuple(self._models)

    @property
    def loading(self) -> str:
        return self._loading


def _loaded(spec: str) -> Any:
    """The model; of one that is not bundled, what is wrong with its files is for the log."""
    from cmai_core.models import load_model

    try:
        model = load_model(spec)
    except CmaiError as error:
        if owner.bundled(spec):
            raise
        _log.warning("%s cannot be loaded: %s %s", spec, error.message, error.hint)
        raise ModelError(
            f"{owner.shown(spec)} cannot be loaded.", "Choose another model; the lab's log says what is wrong."
        ) from None
    model.name = owner.shown(spec)  # whatever speaks of it to visitors names no folder
    return model


@st.cache_resource(show_spinner=False)
def shelf() -> ModelShelf:
    return ModelShelf()


@st.cache_resource(show_spinner=False)
def calibration_pairs(kind: str) -> PairDataset:
    """The clean pairs that thresholds for a kind of pictures are calibrated on.

    Raises:
        DataError: no dataset of this kind has pairs to spare.
    """
    from cmai_core.data.registry import calibrating_dataset, load_dataset
    from cmai_core.lab.cached_dataset import KeptItems
    from cmai_core.lab.choices import CALIBRATION_PAIRS

    info = calibrating_dataset(kind)
    if info is None:
        raise DataError(f"There are no pairs to set a threshold for {kind} on.", "Choose another pair.")
    return KeptItems(load_dataset(info.name, split=info.calibration, limit=CALIBRATION_PAIRS))


@st.cache_resource(show_spinner=False)
def queue() -> JobQueue:
    from cmai_core.jobs import JobQueue

    return JobQueue(
        max_pending=QUEUE_LENGTH, max_per_owner=JOBS_PER_VISITOR, max_per_address=JOBS_PER_ADDRESS,
        time_limit=JOB_SECONDS, present=presence.presence().here,
    )  # fmt: skip


def gpu_is_there() -> bool:
    """Whether an NVIDIA device is visible; asked of the system, without importing torch."""
    return Path("/dev/nvidia0").exists()


@st.cache_resource(show_spinner=False, ttl=60)
def cards() -> Mapping[str, ModelCard]:
    """Name → card of the bundled models whose weights are really there, undefended ones first; only cards are read.

    Kept as it is (as data it would be copied for each reader, and every rerun has dozens): nobody changes a card.
    """
    from cmai_core.models import bundled_models

    found = (c for c in bundled_models() if c.path and (c.path / "open_clip_model.safetensors").is_file())
    return MappingProxyType({card.name: card for card in found})


def catalogue() -> tuple[ModelCard, ...]:
    """The bundled models, undefended ones first."""
    return tuple(cards().values())


def default_model(defended: bool) -> str:
    """The first bundled model of a kind; "" where there is none."""
    preferred = DEFENDED if defended else UNDEFENDED
    names = [entry.name for entry in catalogue() if entry.defended == defended and not entry.problem]
    return preferred if preferred in names else (names[0] if names else "")


@st.cache_resource(show_spinner=False, max_entries=4)
def dataset(place: str) -> PairDataset:
    """A place ("<dataset>/<split>") of the lab, as far as the lab shows it."""
    from cmai_core.data.subset import first
    from cmai_core.lab.cached_dataset import KeptItems

    name, _, split = place.partition("/")
    info = DATASETS.find(name)
    return KeptItems(first(info.dataset(split), info.most))


@st.cache_data(show_spinner=False, max_entries=4)
def captions_of(place: str) -> list[tuple[str, ...]]:
    """All captions of every item."""
    from cmai_core.data.pair import item_captions

    items = dataset(place)
    return [item_captions(items, k) for k in range(len(items))]


@st.cache_data(show_spinner=False, max_entries=4)
def ids_of(place: str) -> list[str]:
    """The ids of a place's items."""
    from cmai_core.data.pair import item_id

    items = dataset(place)
    return [item_id(items, k) for k in range(len(items))]


def index_of(pair_id: str) -> int:
    """Where a dataset item stands.

    Raises:
        CmaiError: where there is no such item.
    """
    try:
        return ids_of(place_of(pair_id)).index(pair_id)
    except ValueError:
        raise DataError(f"There is no picture {pair_id[:80]!r}.", "Choose one in the browser of examples.") from None


@st.cache_data(show_spinner=False, max_entries=2048)
def thumbnail_url(place: str, index: int) -> str:
    """A small lossy picture for lists (never for comparing)."""
    return data_url(thumbnail(dataset(place)[index].image, 128), "WEBP", 85)


def search(place: str, query: str) -> list[tuple[int, str]]:
    """(index, caption) of the items with a caption that holds every word of the query; the best-fitting caption is
    given.
    """
    words = query.casefold().split()
    found = []
    for index, captions in enumerate(captions_of(place)):
        for caption in captions:
            if all(word in caption.casefold() for word in words):
                found.append((index, caption))
                break
    return found


@st.cache_resource(show_spinner=False)
def composer() -> Composer | None:
    """What makes scenes to order; None where no dataset can."""
    from cmai_core.data.registry import composing_dataset

    info = composing_dataset()
    return None if info is None else info.make_composer()


@st.cache_resource(show_spinner="Rendering …", max_entries=64)
def composed(scene_json: str) -> Pair:
    """A composed scene as a pair: rendered, with its true captions."""
    return composer().pair(composer().read(scene_json))


@st.cache_data(show_spinner="Rendering …", max_entries=64)
def preview_url(scene_json: str) -> str:
    """A composed scene rendered three times as fine as the models see it, for the composer."""
    return data_url(composer().picture(composer().read(scene_json), 384))


@st.cache_resource(show_spinner=False)
def showcase() -> Showcase | None:
    """The bundled example, None while there is none (or it cannot be read: that is logged)."""
    from cmai_core.showcase import load_showcase

    try:
        return load_showcase()
    except DataError:
        _log.exception("bundled example")
        return None


def chosen_thumbnail(pair_id: str, upload: Upload | None, scene_json: str) -> tuple[str, str]:
    """(data: URL, where the picture comes from) of the chosen pair; the bundled example's needs no dataset."""
    if not pair_id:
        return "", ""
    bundle = showcase()
    if bundle and pair_id == bundle.result.experiment.pair:
        return picture_url(bundle.result.first_craft.clean, side=160), pair_id
    if pair_id == COMPOSED:
        return picture_url(composed(scene_json).image), "composed here"
    if pair_id.startswith("upload/"):
        return own_upload(pair_id, upload).small, "your picture"
    name, split, item = parse_pair_id(pair_id)
    return thumbnail_url(f"{name}/{split}", index_of(pair_id)), f"{name} · {split} · {item}"


def truth_note(pair_id: str, caption: str, scene_json: str) -> tuple[bool | None, str] | None:
    """Whether the sentence is true of the chosen scene, in words; None for photographs."""
    bundle = showcase()
    if bundle and (pair_id, caption) == (bundle.result.experiment.pair, bundle.result.experiment.caption):
        return True, "True of this scene."  # one of the scene's own captions: no need to load anything for it
    return _judged(pair_id, caption, scene_json)


@st.cache_data(show_spinner=False, max_entries=256)
def _judged(pair_id: str, caption: str, scene_json: str) -> tuple[bool | None, str] | None:
    from cmai_core.lab.judgement import judge

    if pair_id.startswith("upload/"):
        return None
    scene = composed(scene_json).scene if pair_id == COMPOSED else the_pair(pair_id, "", None, "").scene
    return None if scene is None else judge(caption, scene)


def the_pair(pair_id: str, caption: str, upload: Upload | None, scene_json: str) -> Pair:
    """The pair a specification means, its sentence put first.

    Raises:
        DataError: where the picture is not here (a link to somebody's upload, an index out of range).
    """
    import dataclasses

    from cmai_core.data.pair import Pair

    if pair_id == COMPOSED:
        return composer().pair(composer().read(scene_json), caption)
    if pair_id.startswith("upload/"):
        picture = decode(own_upload(pair_id, upload).png)
        return Pair(pair_id, picture, (caption,), meta={"source": "uploaded"})
    pair = dataset(place_of(pair_id))[index_of(pair_id)]
    if not caption:
        return pair
    return dataclasses.replace(pair, captions=(caption, *(c for c in pair.captions if c != caption)))


def own_upload(pair_id: str, upload: Upload | None) -> Upload:
    """This session's picture, where the pair is made of it.

    Raises:
        DataError: it is somebody else's.
    """
    if upload is None or pair_id != f"upload/{upload.sha}":
        raise DataError(
            "This link was made with an uploaded picture, which stays with the person who uploaded it.",
            "Upload the same picture here to go on.",
        )
    return upload


def domain_of(spec: str) -> str:
    """The kind of pictures that a model was trained on, as far as its card tells; no model is loaded for it."""
    found = cards().get(spec)
    return PHOTOGRAPHS if found is None else str(found.card.get("domain", DATASETS[DEFAULT_DATASET].kind))


def submit(label: str, work: Callable[..., Any], models: Iterable[str] = ()) -> Job | Errand:
    """Queues work for this session; `work(progress, cancel)` runs in the worker thread.

    Args:
        models: specifications that the work loads; those that are not on the disk are downloaded first.

    Raises:
        CmaiError: when the queue is full or this visitor has too many jobs waiting, or may not use a model.
    """
    mine, jobs = presence.owner(), queue()
    return fetching.begin(tuple(models), mine, label, lambda: jobs.submit(work, owner=mine, label=label))


def snapshot(handle: Job | Errand | None) -> JobSnapshot | None:
    """How a job stands."""
    return None if handle is None else handle.snapshot()


def cancel(handle: Job | Errand | None) -> None:
    if handle is not None:
        handle.cancel()


def queue_length() -> int:
    """Jobs waiting or running."""
    return queue().pending


@contextlib.contextmanager
def quiet_thread() -> Iterator[None]:
    """Streamlit warns when its caches are used in a worker thread; here that is meant."""
    logger = logging.getLogger("streamlit.runtime.scriptrunner_utils.script_run_context")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


def experiment_models(experiment: Experiment) -> dict[str, str]:
    """Role → specification."""
    models = {"undefended": experiment.undefended}
    if experiment.defended:
        models["defended"] = experiment.defended
    return models


def load_models(specs: Mapping[str, str], store: ModelShelf, progress: Callable[[Progress], None]) -> dict[str, Any]:
    """Role → model, each named before it is loaded; in the worker thread."""
    models = {}
    for role, spec in specs.items():
        progress(Progress(0, 0, f"Loading {owner.shown(spec)}"))
        models[role] = store.get(spec)
    return models


def require_model(spec: str, role: str) -> str:
    """The specification, or a plain error where the choice is empty or not offered to visitors."""
    spec = spec.strip()
    if not spec:
        raise ModelError(f"No {role} model is chosen.", "Pick one from the list.")
    return owner.require(spec)


def attack_work(
    experiment: Experiment,
    upload: Upload | None,
    store: ModelShelf,
    thresholds: ThresholdShelf,
    progress: Any,
    cancel: Any,
) -> Any:
    """The attack itself; runs in the worker thread."""
    from cmai_core.data.registry import kind_of
    from cmai_core.lab.run import run_attack

    with quiet_thread():
        pair = the_pair(experiment.pair, experiment.caption, upload, experiment.scene)
        items = dataset(place_of(experiment.pair))
        models = load_models(experiment_models(experiment), store, progress)
        kind, bases = kind_of(experiment.pair), {}
        for role, model in models.items():
            if experiment.has_detector:
                bases[role] = thresholds.get(model, kind, progress, cancel)
            else:
                thresholds.note(model, kind)
        return run_attack(experiment, pair, models, dataset=items, bases=bases, progress=progress, cancel=cancel)


def eta_words(seconds: float | None) -> str:
    """ " · about 5 s left", or nothing where it is not known."""
    if seconds is None or seconds < 1:
        return ""
    return f" · about {seconds:.0f} s left" if seconds < 90 else f" · about {seconds / 60:.0f} min left"


def collect(job_key: str, result_key: str) -> bool:
    """Takes over a finished job of this session: its result, or what went wrong as a notice.

    Returns:
        Whether the job is still waiting or running.
    """
    handle = state.get(job_key)
    now = snapshot(handle)
    if now is None:
        return False
    if not now.finished:
        return True
    state.put(job_key, None)
    try:
        state.put(result_key, handle.result())
        if now.state == "cancelled" and now.message not in ("", "Cancelled."):
            state.put(state.NOTICE, CmaiError(now.message, now.hint))
    except CmaiError as error:
        state.put(state.NOTICE, error)
    return False


def distribution_work(
    name: str, count: int, experiment: Experiment, store: ModelShelf, progress: Any, cancel: Any
) -> Any:
    """Scores a split; runs in the worker thread."""
    from cmai_core.data import load_dataset
    from cmai_core.lab.distribution import score_distribution

    with quiet_thread():
        models = load_models(experiment_models(experiment), store, progress)
        dataset_name, _, split = name.partition("/")
        items = load_dataset(dataset_name, split=split, limit=count)
        return score_distribution(models, items, count=count, experiment=experiment, progress=progress, cancel=cancel)


@st.cache_data(show_spinner=False, max_entries=16)
def areas(key: str, _measured: ScoreDistribution) -> dict[str, Any]:
    """Role → area under the ROC with its interval."""
    return {role: _measured.auroc(role) for role in _measured.clean}


@st.cache_resource(show_spinner=False, max_entries=16)
def embedding_figure(key: str, role: str, method: str, _made: EmbeddingMap, title: str) -> Any:
    """The map's figure; the same object as long as the map is the same, so that a selection in it survives reruns."""
    from app.components.plots import embedding_figure as draw

    projection = _made.models[role].projections[method]
    shares = projection.explained_variance
    axes = (
        ("", "")
        if shares is None
        else tuple(f"axis {k + 1}: {share:.0%} of the variance" for k, share in enumerate(shares))
    )
    real = projection.displacements["clean", "adversarial"].beyond_control
    return draw(projection.points, real, _made.ids, _made.captions, title=title, axes=axes)


def embedding_work(name: str, count: int, experiment: Experiment, store: ModelShelf, progress: Any, cancel: Any) -> Any:
    """Embeds and projects a split; runs in the worker thread."""
    from cmai_core.data import load_dataset
    from cmai_core.lab.embedding import embedding_map

    with quiet_thread():
        models = load_models(experiment_models(experiment), store, progress)
        dataset_name, _, split = name.partition("/")
        items = load_dataset(dataset_name, split=split, limit=count)
        return embedding_map(models, items, count=count, experiment=experiment, progress=progress, cancel=cancel)


def explanation_work(
    result: LabResult, methods: Sequence[str], steps: int, store: ModelShelf, progress: Any, cancel: Any
) -> Any:
    """Explains a result; runs in the worker thread."""
    from cmai_core.lab.explanation import explain_result

    specs = {role: reading.spec for role, reading in result.readings.items()}
    models = load_models(specs, store, progress)
    return explain_result(result, models, methods=methods, steps=steps, progress=progress, cancel=cancel)
