"""An experiment as a file that can be sent to somebody: settings, numbers, and the pictures they were read from.

It is JSON. Pictures stand in it as PNG, so an experiment on somebody's own picture can be made again elsewhere. A file
is a stranger's: its size, its pieces, and the type and range of each value are checked, and its pictures are decoded in
a process of their own, as uploads are. Files of the first version (numbers alone) are read, too.
"""

from __future__ import annotations

import base64
import binascii
import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import UnionType
from typing import TYPE_CHECKING, Any, Union, get_args, get_origin, get_type_hints

import numpy as np

from cmai_core.data.apart import SIDE, decode_all_apart
from cmai_core.data.plain import plain_line
from cmai_core.errors import CmaiError, DataError
from cmai_core.lab.experiment import ROLES, Experiment, present_role
from cmai_core.lab.images import encode, sha256
from cmai_core.lab.result import Course, Example, LabResult, PairPrediction
from cmai_core.lab.target import Target

if TYPE_CHECKING:
    from cmai_core.lab.verdict import LabVerdict

FORMAT = "cmai-lab-result/2"
FORMATS = ("cmai-lab-result/1", FORMAT)
MAX_FILE = 10 * 1024 * 1024
"""Bytes of a file."""
MAX_PARTS = 300_000
"""Commas and brackets of a file: what its values can cost in memory."""
MAX_TEXT, MAX_ITEMS = 4000, 30_000
"""Characters of a text, and values of a list."""
_LARGEST = 1e15
_KEYS = (
    "format", "experiment", "crafts", "readings", "seconds", "device", "created", "versions", "second", "cmcv",
    "pictures", "courses", "target",
)  # fmt: skip
_HINT = "Choose a file that the lab exported as an experiment."


@dataclass(frozen=True, eq=False)
class ExperimentFile:
    """What an experiment's file holds.

    Attributes:
        experiment: what was run. numbers: what it came to, as `LabResult.to_dict` writes it, checked.
        result: the same with its pictures; None where the file has none (the first version, or too large with them).
        picture: the visitor's own picture that it is about, uint8 H×W×3; None where it is about none, or lacks it.
    """

    experiment: Experiment
    numbers: Mapping[str, Any]
    result: LabResult | None
    picture: np.ndarray | None


def write_experiment(result: LabResult, upload: bytes | None = None, verdict: LabVerdict | None = None) -> bytes:
    """Return the file of an experiment.

    Args:
        upload: PNG of the visitor's own picture, where the pair is one. verdict: what CMCV said of it.

    Raises:
        DataError: the upload is not the picture of the pair.
    """
    document = result.to_dict() | {"format": FORMAT}
    if verdict is not None:
        document["cmcv"] = verdict.to_dict()
    files = [] if upload is None else [upload]
    if upload is not None and not result.experiment.pair.startswith("upload/"):
        raise DataError("This experiment is not about an uploaded picture.", "Leave the picture out.")
    shown = {}
    for role, example in result.examples.items():
        places = []
        for data in (encode(example.clean), encode(example.adversarial)):
            if data not in files:
                files.append(data)
            places.append(files.index(data))
        shown[role] = places
    first = None if upload is None else 0
    whole = _document(document, files, first, shown)
    # The pictures that were shown can be made again, so they are left out where all would be too much.
    return whole if len(whole) <= MAX_FILE else _document(document, files[: first is not None], first, {})


def _document(document: dict[str, Any], files: Sequence[bytes], upload: int | None, shown: Mapping[str, Any]) -> bytes:
    png = [base64.b64encode(data).decode() for data in files]
    whole = document | {"pictures": {"png": png, "upload": upload, "examples": dict(shown)}}
    return json.dumps(whole, indent=1, ensure_ascii=False).encode("utf-8", "replace")


def read_experiment(data: bytes) -> ExperimentFile:
    """Read an experiment's file.

    Raises:
        DataError: it is none, too large, damaged, or says what cannot be. OptionError: its settings cannot be.
    """
    raw = _parsed(data)
    if raw.get("format") not in FORMATS:
        raise DataError("The file is not an experiment of the lab.", _HINT)
    if unknown := sorted(set(raw) - set(_KEYS)):
        raise _bad(f"holds {_quoted(unknown[0])}, which is not known here")
    experiment = Experiment.from_dict(_mapping(raw.get("experiment"), "experiment"))
    numbers = _numbers(raw)
    pictures, own = _pictures(raw.get("pictures"), numbers["crafts"])
    if own is not None and experiment.pair != f"upload/{sha256(own.tobytes())}":
        raise _bad("holds another picture than the one that its experiment is about")
    document = numbers | {"experiment": experiment.to_dict()}
    plain = LabResult.from_dict(document, pictures or {role: _NOTHING for role in numbers["crafts"]})
    _fits(plain)
    return ExperimentFile(experiment, document, plain if pictures else None, own)


_NOTHING = (np.zeros((1, 1, 3), np.uint8),) * 2


def _fits(result: LabResult) -> None:
    """Check that its parts belong together.

    Raises:
        DataError: a model that the experiment does not name, or pictures that it does not hold.
    """
    if not result.examples or not result.predictions:
        raise _bad("holds no result")
    for role, prediction in result.predictions.items():
        if role not in result.experiment.models or prediction.picture not in result.examples:
            raise _bad(f"speaks of a model {role} or of pictures that its experiment does not have")


# --- JSON of strangers ------------------------------------------------------------------------------------------------


def _parsed(data: bytes) -> dict[str, Any]:
    """Read the bytes as strict JSON within bounds.

    Raises:
        DataError: they are none.
    """
    if len(data) > MAX_FILE:
        raise DataError(f"The file has {len(data) / 2**20:.1f} MB.", f"At most {MAX_FILE // 2**20} MB are read.")
    if sum(data.count(sign) for sign in (b",", b"[", b"{")) > MAX_PARTS:
        raise _bad("is made of more pieces than an experiment has")
    try:
        found = json.loads(data.decode("utf-8"), parse_constant=_no_constant, object_pairs_hook=_object)
    except (ValueError, RecursionError) as error:
        if isinstance(error, CmaiError):
            raise
        raise DataError("The file is damaged, or no JSON.", _HINT) from None
    return _mapping(found, "content")


def _no_constant(name: str) -> Any:
    raise _bad(f"holds {name}, which is no number")


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise _bad("names a value twice")
    return found


def _bad(what: str) -> DataError:
    return DataError(f"The file {what}.", _HINT)


def _quoted(text: Any) -> str:
    return f"“{plain_line(str(text)[:200])[:60]}”"


def _mapping(value: Any, where: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise _bad(f"has {where} of another kind than an experiment")
    return value


# --- the numbers ------------------------------------------------------------------------------------------------------


def _numbers(raw: Mapping[str, Any]) -> dict[str, Any]:
    """Check the numbers of a file; returns them as `LabResult.from_dict` reads them.

    Raises:
        DataError: naming the first value that cannot be.
    """
    crafts, readings = (_mapping(raw.get(name), name) for name in ("crafts", "readings"))
    examples = {role: _record(Example, values, f"crafts.{role}", extra={"psnr_db"}) for role, values in crafts.items()}
    predictions = {role: _record(PairPrediction, values, f"readings.{role}") for role, values in readings.items()}
    for records in (examples, predictions):
        for role, values in records.items():
            if present_role(role) not in ROLES or values["role"] not in (role, present_role(role)):
                raise _bad(f"speaks of a model {_quoted(role)}")
    courses = _mapping(raw.get("courses") or {}, "courses")
    second = raw.get("second")
    if second is not None:
        known = _mapping(second, "second")
        if set(known) != {"id", "left"}:
            raise _bad("describes the second picture otherwise than an experiment does")
        second = {"id": _value(str, known["id"], "second.id"), "left": _value(bool, known["left"], "second.left")}
    return {
        "crafts": examples,
        "readings": predictions,
        "seconds": _value(float, raw.get("seconds"), "seconds"),
        "device": _value(str, raw.get("device"), "device"),
        "created": _value(str, raw.get("created"), "created"),
        "versions": _value(Mapping[str, str], raw.get("versions"), "versions"),
        "second": second,
        "courses": {role: _course(values, f"courses.{role}") for role, values in courses.items()},
        "target": None if raw.get("target") is None else _record(Target, raw["target"], "target"),
    }


def _course(raw: Any, where: str) -> dict[str, Any]:
    """Check the steps of an attack; their pictures are not in a file."""
    return {"sentences": [], "readings": {}} | _record(Course, raw, where, extra={"packed"})


def _record(kind: type, raw: Any, where: str, extra: frozenset[str] | set[str] = frozenset()) -> dict[str, Any]:
    """Check the values of a dataclass by its annotations; pictures stand elsewhere."""
    values, hints = _mapping(raw, where), get_type_hints(kind)
    hints = {name: hint for name, hint in hints.items() if hint is not np.ndarray}
    if unknown := sorted(set(values) - set(hints) - set(extra)):
        raise _bad(f"holds {_quoted(unknown[0])} in {where}, which is not known here")
    fields = {field.name: field for field in dataclasses.fields(kind)}
    for name in hints:
        must = fields[name].default is dataclasses.MISSING and fields[name].default_factory is dataclasses.MISSING
        if must and name not in values:
            raise _bad(f"lacks {name} in {where}")
    return {name: _value(hints[name], value, f"{where}.{name}") for name, value in values.items() if name in hints}


def _value(hint: Any, value: Any, where: str) -> Any:
    """Return a value of a file, if it is of the type that an annotation names, and of a size that can be."""
    origin, parts = get_origin(hint), get_args(hint)
    if origin in (Union, UnionType):
        inner = [part for part in parts if part is not type(None)]
        return None if value is None else _value(inner[0], value, where)
    if isinstance(hint, type) and dataclasses.is_dataclass(hint):
        return _record(hint, value, where)
    if origin is tuple:
        every = len(parts) == 2 and parts[1] is Ellipsis
        if not isinstance(value, list) or (len(value) > MAX_ITEMS if every else len(value) != len(parts)):
            raise _bad(f"has {where} of another kind than an experiment")
        kinds = [parts[0]] * len(value) if every else parts
        return [_value(kind, item, where) for kind, item in zip(kinds, value, strict=True)]
    if origin is not None and issubclass(origin, Mapping):
        found = _mapping(value, where)
        if len(found) > 100 or any(len(name) > 200 for name in found):
            raise _bad(f"has more in {where} than an experiment has")
        return {plain_line(name): _value(parts[1], item, f"{where}.{name[:40]}") for name, item in found.items()}
    return _plain(hint, value, where)


def _plain(hint: Any, value: Any, where: str) -> Any:
    if hint is str and isinstance(value, str) and len(value) <= MAX_TEXT:
        return plain_line(value)
    if hint is bool and isinstance(value, bool):
        return value
    whole = isinstance(value, int) and not isinstance(value, bool)
    if ((hint is int and whole) or (hint is float and (whole or isinstance(value, float)))) and abs(value) < _LARGEST:
        return value
    raise _bad(f"has {where} of another kind than an experiment, or out of range")


# --- the pictures -----------------------------------------------------------------------------------------------------


def _pictures(
    raw: Any, examples: Mapping[str, Any]
) -> tuple[dict[str, tuple[np.ndarray, np.ndarray]], np.ndarray | None]:
    """Decode the pictures of a file: role → (clean, adversarial), {} where they are not in it; and the upload.

    Raises:
        DataError: they are none, or not those of the examples.
    """
    if raw is None:
        return {}, None
    found = _mapping(raw, "pictures")
    if set(found) != {"png", "upload", "examples"} or not isinstance(found["png"], list):
        raise _bad("has pictures of another kind than an experiment")
    if len(found["png"]) > 1 + 2 * len(ROLES):
        raise _bad("has more pictures than an experiment")
    shown = _value(Mapping[str, tuple[int, int]], found["examples"], "pictures.examples")
    upload = _value(int | None, found["upload"], "pictures.upload")
    if shown and set(shown) != set(examples):
        raise _bad("has pictures of other models than its numbers")
    decoded = _decoded(found["png"])
    for place in (upload or 0, *(place for both in shown.values() for place in both)):
        if not 0 <= place < max(1, len(decoded)):
            raise _bad("names a picture that it does not hold")
    pictures = {role: (decoded[clean], decoded[adversarial]) for role, (clean, adversarial) in shown.items()}
    if any(clean.shape != adversarial.shape for clean, adversarial in pictures.values()):
        raise _bad("has a clean and an attacked picture of different sizes")
    return pictures, None if upload is None else decoded[upload]


def _decoded(coded: Sequence[Any]) -> list[np.ndarray]:
    if not all(isinstance(text, str) for text in coded):
        raise _bad("has pictures of another kind than an experiment")
    try:
        files = [base64.b64decode(text, validate=True) for text in coded]
    except (ValueError, binascii.Error):
        raise _bad("has a damaged picture") from None
    names = [f"Picture {k + 1} of the file" for k in range(len(files))]
    found = []
    for picture in decode_all_apart(files, names, side=SIDE):
        if isinstance(picture, DataError):
            raise picture
        found.append(picture)
    return found
