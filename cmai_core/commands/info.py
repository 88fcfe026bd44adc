"""`cmai info`: what is installed here."""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer


def info(as_json: Annotated[bool, typer.Option("--json", help="as JSON")] = False) -> None:
    """Show versions, device, bundled models, datasets and the cache folder."""
    from cmai_core.data import available_datasets
    from cmai_core.models import bundled_models
    from cmai_core.paths import assets_dir, cache_dir
    from cmai_core.versions import library_versions

    facts: dict[str, Any] = {
        "versions": library_versions(),
        "device": _devices(),
        "models": [card.name for card in bundled_models()],
        "datasets": {info.name: list(info.splits) for info in available_datasets()},
        "cache": str(cache_dir()),
        "assets": str(assets_dir()),
    }
    if as_json:
        print(json.dumps(facts, indent=2))
        return
    print("versions  " + ", ".join(f"{name} {version}" for name, version in facts["versions"].items()))
    print("device    " + facts["device"])
    print("models    " + (", ".join(facts["models"]) or "none bundled (make models trains them)"))
    for name, splits in facts["datasets"].items():
        print(f"dataset   {name}: {', '.join(splits)}")
    print("cache     " + facts["cache"])
    print("assets    " + facts["assets"])


def _devices() -> str:
    import torch

    if torch.cuda.is_available():
        return ", ".join(f"cuda:{i} {torch.cuda.get_device_name(i)}" for i in range(torch.cuda.device_count()))
    return f"cpu ({torch.get_num_threads()} threads)"
