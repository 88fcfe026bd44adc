"""Pairs and datasets of pairs: `load_dataset("tabletop")`, `load_dataset("photos")`, `load_dataset("some/folder")`."""

from cmai_core.data.pair import Batch, Pair, PairDataset, Question, TwoImageStatement
from cmai_core.data.registry import DatasetInfo, available_datasets, load_dataset

__all__ = [
    "Batch",
    "DatasetInfo",
    "Pair",
    "PairDataset",
    "Question",
    "TwoImageStatement",
    "available_datasets",
    "load_dataset",
]
