"""Checkpoints: written whole or not at all, and read back only into the training that wrote them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

from cmai_core.errors import CmaiError, DataError
from cmai_core.files import atomic, explained, write_text
from cmai_core.training.settings import terms

CHECKPOINT = "checkpoint.pt"
LOG = "log.jsonl"


def save_checkpoint(folder: Path, state: dict[str, Any]) -> Path:
    """Write the state atomically: a reader sees the old checkpoint or the new one, never a part of one.

    Raises:
        DataError: it cannot be written; the old one is still there.
    """
    path = folder / CHECKPOINT
    try:
        with atomic(path) as temporary, temporary.open("wb") as file:
            torch.save(state, file)
    except RuntimeError as error:  # what PyTorch makes of a disk that is full
        raise DataError(f"{path} cannot be written: {error}.", "Free space there; the old one is kept.") from error
    return path


def load_checkpoint(folder: Path, identity: dict[str, Any]) -> dict[str, Any] | None:
    """Return the state in the folder, None if there is none.

    Args:
        identity: what must be the same for the training to go on: recipe, seed, data, starting weights.

    Raises:
        CmaiError: the checkpoint cannot be read or belongs to another training.
    """
    path = folder / CHECKPOINT
    if not path.is_file():
        return None
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise CmaiError(f"The checkpoint {path} cannot be read: {error}", "Delete it to start anew.") from error
    saved, wanted = (_plain(json.loads(text)) for text in (state["identity"], json.dumps(identity)))
    different = sorted(k for k in wanted.keys() | saved.keys() if wanted.get(k) != saved.get(k))
    if different:
        raise CmaiError(
            f"The folder {folder} holds another training: {', '.join(different)} differ.",
            "Choose another folder, or start anew with --restart.",
        )
    return state


def _plain(identity: dict[str, Any]) -> dict[str, Any]:
    """Leave out settings that came after a checkpoint may have been written, where they change nothing."""
    return {**identity, "recipe": terms(identity["recipe"])} if "recipe" in identity else identity


class Log:
    """JSON lines, one a record, in `log.jsonl`; on resuming, what came after the checkpoint is dropped.

    Where TensorBoard is installed, the same numbers go to `tensorboard/` (`tensorboard --logdir runs`).
    """

    def __init__(self, folder: Path, step: int):
        self.path = folder / LOG
        kept = []
        if step and self.path.is_file():
            with explained(self.path, "read"):
                lines = self.path.read_text(encoding="utf-8", errors="replace").splitlines()
            for line in lines:
                try:
                    record = json.loads(line)
                except json.JSONDecodeError:  # a line cut off by a crash
                    continue
                if record.get("step", 0) <= step:
                    kept.append(line)
        write_text(self.path, "".join(f"{line}\n" for line in kept))
        self._board = _board(folder / "tensorboard", step)

    def write(self, record: dict[str, Any]) -> None:
        with explained(self.path), self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")
        if self._board is not None:
            for name, value in (record | record.get("validation", {})).items():
                if isinstance(value, (int, float)) and not isinstance(value, bool) and name not in ("step", "pairs"):
                    kind = "validation" if record.get("final") or name in record.get("validation", {}) else "training"
                    self._board.add_scalar(f"{kind}/{name}", value, record["step"])

    def close(self) -> None:
        """Write out what TensorBoard has not written yet."""
        if self._board is not None:
            self._board.close()


def _board(folder: Path, step: int) -> Any:
    """Return TensorBoard's writer, None where it is not installed. What lies after `step` is no longer shown."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        return None
    return SummaryWriter(str(folder), purge_step=step + 1)
