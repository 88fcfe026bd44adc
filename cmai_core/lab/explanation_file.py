"""An explanation as one small file: plain JSON, arrays in half precision. Read without torch.

python -m cmai_core.lab.explanation_file     # explains the bundled example, for the lab to open with
"""

from __future__ import annotations

import base64
import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from cmai_core.errors import DataError
from cmai_core.explanations.causal.records import Attribution, CausalTrace, Effects
from cmai_core.explanations.result import Explanation, TextExplanation, TokenMaps
from cmai_core.files import write_text
from cmai_core.lab.experiment import Experiment
from cmai_core.lab.explanation import LabExplanation, MapCheck, RoleExplanation
from cmai_core.lab.images import decode, encode
from cmai_core.paths import assets_dir

_KINDS = {
    kind.__name__: kind
    for kind in (
        Attribution, CausalTrace, Effects, Explanation, Experiment, LabExplanation, MapCheck, RoleExplanation,
        TextExplanation, TokenMaps,
    )
}  # fmt: skip


def bundled_path() -> Path:
    """Return where the explanation of the bundled example lies."""
    return assets_dir() / "showcase" / "explanation.json"


def explain_showcase() -> LabExplanation:
    """Explain the bundled example (`cmai_core.showcase`) with its models, and write it to `bundled_path`.

    Raises:
        DataError: there is no bundled example.
    """
    from cmai_core.data.registry import DATASETS, DEFAULT_DATASET, load_dataset
    from cmai_core.lab.explanation import Wanted, explain_result
    from cmai_core.models import load_model
    from cmai_core.showcase import load_showcase

    bundle = load_showcase()
    if bundle is None:
        raise DataError("There is no bundled example.", "Make it: python -m cmai_core.showcase.")
    experiment = bundle.result.experiment
    items = load_dataset(DEFAULT_DATASET, split=DATASETS[DEFAULT_DATASET].usual)
    pair = items[int(experiment.pair.rsplit("/", 1)[1])]
    models = {role: load_model(spec) for role, spec in experiment.models.items()}
    made = explain_result(bundle.result, models, Wanted(pair=pair, dataset=items))
    write_explanation(made, bundled_path())
    return made


def write_explanation(made: LabExplanation, path: Path) -> None:
    """Write an explanation."""
    write_text(path, json.dumps(_plain(made), ensure_ascii=False) + "\n")


def read_explanation(path: Path) -> LabExplanation:
    """Read an explanation that was written here.

    Raises:
        DataError: the file is broken.
    """
    try:
        found = _made(json.loads(path.read_text("utf-8")))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(
            "The bundled explanation cannot be read.", "Make it again: python -m cmai_core.lab.explanation_file."
        ) from error
    if not isinstance(found, LabExplanation):
        raise DataError("The bundled explanation is something else.")
    return found


def _plain(value: Any) -> Any:
    if isinstance(value, np.ndarray) and value.dtype == np.uint8:
        return {"@": "picture", "data": base64.b64encode(encode(value)).decode()}
    if isinstance(value, np.ndarray):
        data = base64.b64encode(np.ascontiguousarray(value, np.float16).tobytes()).decode()
        return {"@": "array", "shape": list(value.shape), "data": data}
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {f.name: _plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
        return {"@": type(value).__name__} | fields
    if isinstance(value, Mapping):
        return {str(key): _plain(one) for key, one in value.items()}
    if isinstance(value, (tuple, list)):
        return [_plain(one) for one in value]
    return value.item() if isinstance(value, np.generic) else value


def _made(value: Any) -> Any:
    if isinstance(value, list):
        return tuple(_made(one) for one in value)
    if not isinstance(value, dict):
        return value
    kind = value.get("@")
    if kind == "array":
        kept = np.frombuffer(base64.b64decode(value["data"]), np.float16).reshape(value["shape"])
        return kept.astype(np.float32)
    if kind == "picture":
        return decode(base64.b64decode(value["data"]))
    fields = {key: _made(one) for key, one in value.items() if key != "@"}
    return fields if kind is None else _KINDS[kind](**fields)


if __name__ == "__main__":
    print(f"Made {bundled_path()} in {explain_showcase().seconds:.0f} s.")
