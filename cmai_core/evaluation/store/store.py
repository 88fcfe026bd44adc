"""The evaluation's store: `evaluation.sqlite` (WAL) and, beside it, `examples/` with one Parquet file a batch.

A batch's file is written first, whole or not at all; then its rows appear in one transaction. So whatever kills the
writer, nothing half-written can be read, and at most the running batch is lost. One process writes at a time; any
number read meanwhile. Rows are only ever added, but for how long work took; a store that cannot be used is left as it
is.

Format 2 has log V_verify beside S_c. A store of format 1 is read as it is, the new columns being unknown; who writes to
it adds them first.
"""

from __future__ import annotations

import json
import os
import socket
import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from cmai_core.errors import EmptyStoreError, StoreError
from cmai_core.evaluation.runs.pace import ATTACK, Timing
from cmai_core.evaluation.store.address import digest
from cmai_core.paths import data_dir

FORMAT = 2
DATABASE, LOCK, OWNER, EXAMPLES = "evaluation.sqlite", "writer.lock", "writer.json", "examples"
HEADER = b"SQLite format 3\x00"

EXAMPLE_COLUMNS = (
    "craft", "item", "version", "text_index", "file", "row", "objective_clean", "objective", "linf", "l2", "ssim",
    "psnr", "words_changed", "label_changed", "minimum_norm", "forwards", "backwards", "seconds", "note",
)  # fmt: skip
SINCE_2 = ("verification", "answer_verification")
PREDICTION_COLUMNS = (
    "craft", "reader", "item", "version", "text_index", "correct", "correct_float", "answer", "consistency",
    "answer_consistency", *SINCE_2,
)  # fmt: skip
CLEAN_COLUMNS = (
    "reader", "item", "version", "text_index", "correct", "answer", "consistency", "answer_consistency", *SINCE_2,
)  # fmt: skip

TIMING_COLUMNS = ("kind", "model", "recipe", "task", "units", "side")
FORGET = 0.9
"""What earlier batches count for when another has been timed."""
_TIMINGS = (
    f"CREATE TABLE IF NOT EXISTS timings ({', '.join(TIMING_COLUMNS)}, items REAL NOT NULL, seconds REAL NOT NULL, "
    f"PRIMARY KEY ({', '.join(TIMING_COLUMNS)})) WITHOUT ROWID"
)

_SCHEMA = f"""
CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE runs (run TEXT PRIMARY KEY, updated TEXT NOT NULL, plan TEXT NOT NULL);
CREATE TABLE crafts (craft TEXT PRIMARY KEY, source_hash TEXT NOT NULL, recipe TEXT NOT NULL, task TEXT NOT NULL,
    units REAL NOT NULL, data TEXT NOT NULL);
CREATE TABLE examples ({", ".join(EXAMPLE_COLUMNS)}, PRIMARY KEY (craft, item, version, text_index)) WITHOUT ROWID;
CREATE TABLE readings ({", ".join(PREDICTION_COLUMNS)}, PRIMARY KEY (craft, reader, item, version, text_index))
    WITHOUT ROWID;
CREATE TABLE clean ({", ".join(CLEAN_COLUMNS)}, PRIMARY KEY (reader, item, version, text_index)) WITHOUT ROWID;
"""

Item = tuple[str, str]
"""An item's id and version."""


def default_folder() -> Path:
    """Return the folder where `cmai evaluate` keeps its results: "evaluation" in the folder for results."""
    return data_dir() / "evaluation"


class Store:
    """An open store; `Store.write(folder)` and `Store.read(folder)` make one. Close it, or use it in a `with`."""

    def __init__(self, folder: Path, connection: sqlite3.Connection, lock: sqlite3.Connection | None):
        self.folder, self._db, self._lock = folder, connection, lock

    # Opening and closing

    @staticmethod
    def write(folder: str | Path) -> Store:
        """Open a store for writing, and make it where there is none.

        Raises:
            StoreError: another process writes to it, it cannot be written, it is damaged or of a newer version; what is
                there is left as it is.
        """
        folder = Path(folder)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            (folder / EXAMPLES).mkdir(exist_ok=True)
        except OSError as error:
            raise StoreError(
                f"The evaluation store {folder} cannot be made: {error.strerror or error}.",
                "Name a folder that you may write to with --store.",
            ) from error
        lock = _take_lock(folder)
        try:
            path = folder / DATABASE
            fresh = not path.exists() or path.stat().st_size == 0
            if not fresh:
                fresh = _inspect(folder, thorough=True)
            with _told(folder):
                db = sqlite3.connect(path, timeout=30, isolation_level=None, check_same_thread=False)
                db.execute("PRAGMA journal_mode=WAL")
                db.execute("PRAGMA synchronous=FULL")
                if fresh:
                    db.executescript(f"BEGIN; {_SCHEMA} INSERT INTO meta VALUES ('format', '{FORMAT}'); COMMIT;")
                else:
                    _bring_up_to_date(db)
                db.execute(_TIMINGS)
        except BaseException:
            lock.close()
            raise
        return Store(folder, db, lock)

    @staticmethod
    def read(folder: str | Path) -> Store:
        """Open a store for reading, also while another process writes.

        Raises:
            StoreError: there is none, or it cannot be read.
        """
        folder = Path(folder)
        if not (folder / DATABASE).is_file():
            raise StoreError(f"There is no evaluation store in {folder}.", "`cmai evaluate --store FOLDER` makes one.")
        if _inspect(folder):
            raise EmptyStoreError(f"The evaluation store {folder} is empty.", "Run `cmai evaluate` with it first.")
        with _told(folder):
            return Store(folder, _read_only(folder / DATABASE), None)

    def close(self) -> None:
        """Let go of the store; another writer may come."""
        self._db.close()
        if self._lock is not None:
            with suppress(OSError):
                (self.folder / OWNER).unlink(missing_ok=True)
            self._lock.close()

    def __enter__(self) -> Store:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # Asking

    def query(self, sql: str, values: Sequence[Any] = ()) -> list[tuple]:
        """Return rows of a SELECT."""
        with _told(self.folder):
            return self._db.execute(sql, values).fetchall()

    def frame(self, sql: str, values: Sequence[Any] = ()) -> Any:
        """Return the same as a pandas frame."""
        import pandas as pd

        with _told(self.folder):
            cursor = self._db.execute(sql, values)
            return pd.DataFrame(cursor.fetchall(), columns=[column[0] for column in cursor.description])

    def selected(self, table: str, columns: Sequence[str]) -> str:
        """Return columns for a SELECT from a table; those that a store of an older format lacks are unknown."""
        there = {row[1] for row in self.query(f"PRAGMA table_info({table})")}
        return ", ".join(f"{table}.{name}" if name in there else f"NULL AS {name}" for name in columns)

    def attacked(self, craft: str) -> dict[Item, str]:
        """Return items whose examples are there, with their files. Files that were taken away do not count."""
        rows = self.query("SELECT DISTINCT item, version, file FROM examples WHERE craft = ?", (craft,))
        there = {file: (self.folder / file).is_file() for file in {row[2] for row in rows}}
        return {(item, version): file for item, version, file in rows if there[file]}

    def predicted_by(self, craft: str, reader: str) -> set[Item]:
        """Return items whose examples this reader has been shown."""
        return set(
            self.query("SELECT DISTINCT item, version FROM readings WHERE craft = ? AND reader = ?", (craft, reader))
        )

    def predicted_clean(self, reader: str) -> set[Item]:
        """Return items that this reader has been shown as they are."""
        return set(self.query("SELECT DISTINCT item, version FROM clean WHERE reader = ?", (reader,)))

    def verdicts(self, reader: str, craft: str | None = None) -> dict[Item, bool | None]:
        """Say whether a reader's answer on each item is right: clean, or shown a craft's examples."""
        table, where, values = "clean", "", [reader]
        if craft is not None:
            table, where, values = "readings", " AND craft = ?", [reader, craft]
        sql = f"SELECT item, version, correct FROM {table} WHERE reader = ? AND text_index = 0{where}"
        return {(item, version): None if c is None else bool(c) for item, version, c in self.query(sql, values)}

    def minimum_norms(self, craft: str) -> dict[Item, float]:
        """Return distances of a minimum-norm search's examples, in the units of ε."""
        rows = self.query("SELECT item, version, minimum_norm FROM examples WHERE craft = ?", (craft,))
        return {(item, version): value for item, version, value in rows if value is not None}

    def examples(self, craft: str, items: Mapping[Item, str]) -> dict[Item, list[tuple[np.ndarray | None, str | None]]]:
        """Return examples of some items, one entry a text: the picture's difference to the clean one, and the text.

        Args:
            items: item → file, as `attacked` gives them.

        Returns:
            For each item (uint8 H×W×3 to be added to the clean picture modulo 256, text); None: not attacked.
        """
        out: dict[Item, dict[int, tuple]] = {}
        for file in dict.fromkeys(items.values()):
            for row in self._table(file):
                key = (row["item"], row["version"])
                if key in items:
                    out.setdefault(key, {})[row["text_index"]] = (_difference(row), row["text"])
        return {key: [rows[k] for k in sorted(rows)] for key, rows in out.items()}

    def example(self, reference: str) -> dict[str, Any]:
        """Return one example by the reference that the predictions have for it ("path:row"): item, difference, text."""
        file, _, row = reference.rpartition(":")
        found = picture = self._table(file, (int(row),))[0]
        if found["text_index"]:  # the picture stands with the item's first text
            picture = self._table(file, (int(row) - found["text_index"],))[0]
        return {"item": found["item"], "text": found["text"], "difference": _difference(picture)}

    def _table(self, file: str, rows: Sequence[int] | None = None) -> list[dict[str, Any]]:
        import pyarrow
        import pyarrow.parquet

        path = self.folder / file
        try:
            table = pyarrow.parquet.read_table(path)
            return (table if rows is None else table.take(list(rows))).to_pylist()
        except (OSError, pyarrow.ArrowException) as error:
            raise StoreError(
                f"The examples in {path} cannot be read: {str(error).splitlines()[0]}.",
                "Move the file away and run the evaluation again: it makes these examples anew.",
            ) from error

    # Writing

    def put_run(self, plan: Mapping[str, Any]) -> str:
        """Note what a run asks for; its name is the address of its grid."""
        run = digest(plan["grid"])[:12]
        with self.transaction() as db:
            now = datetime.now(UTC).isoformat(timespec="seconds")
            db.execute("INSERT OR REPLACE INTO runs VALUES (?, ?, ?)", (run, now, json.dumps(plan)))
        return run

    def put_attack(self, craft: str, values: Mapping[str, Any]) -> None:
        """Note what a craft's address stands for."""
        names = ("source_hash", "recipe", "task", "units")
        row = (craft, *(values[name] for name in names), json.dumps(values["data"]))
        with self.transaction() as db:
            db.execute("INSERT OR IGNORE INTO crafts VALUES (?, ?, ?, ?, ?, ?)", row)

    def put_timing(self, timing: Timing) -> None:
        """Add how long a batch took; earlier ones fade."""
        row = [getattr(timing, name) for name in (*TIMING_COLUMNS, "items", "seconds")]
        with self.transaction() as db:
            db.execute(
                f"INSERT INTO timings VALUES ({', '.join('?' * len(row))}) ON CONFLICT DO UPDATE SET "
                f"items = {FORGET} * items + excluded.items, seconds = {FORGET} * seconds + excluded.seconds",
                row,
            )

    def timings(self) -> list[Timing]:
        """Return how long work took; of a store from before that was kept, what its attacks took by themselves."""
        there = self.query("SELECT name FROM sqlite_master WHERE name = 'timings'")
        columns = ", ".join((*TIMING_COLUMNS, "items", "seconds"))
        rows = self.query(f"SELECT {columns} FROM timings") if there else []
        return [Timing(*row) for row in rows] or [
            Timing(ATTACK, *row)
            for row in self.query(
                "SELECT c.source_hash, c.recipe, c.task, c.units, 0, count(*), sum(e.seconds) FROM crafts c "
                "JOIN examples e USING (craft) WHERE e.text_index = 0 GROUP BY c.source_hash, c.recipe, c.task, c.units"
            )
        ]

    def put_clean(self, reader: str, rows: Iterable[Mapping[str, Any]]) -> None:
        """Add what a reader says of clean items."""
        self._insert("clean", CLEAN_COLUMNS, [{"reader": reader, **row} for row in rows])

    def put_predictions(self, craft: str, reader: str, rows: Iterable[Mapping[str, Any]]) -> None:
        """Add what a reader says of examples."""
        self._insert("readings", PREDICTION_COLUMNS, [{"craft": craft, "reader": reader, **row} for row in rows])

    def put_examples(
        self, craft: str, reader: str, rows: Sequence[Mapping[str, Any]], predictions: Iterable[Mapping[str, Any]]
    ) -> None:
        """Add a batch of examples with what their source says of them.

        Args:
            rows: one a text: columns of `examples`, `difference` (uint8 H×W×3 or None) and `text` (or None).
        """
        names = digest([[row["item"], row["version"]] for row in rows])
        file = f"{EXAMPLES}/{craft[:2]}/{craft}/{names}.parquet"
        self._write_table(self.folder / file, rows)
        placed = [{"craft": craft, "file": file, "row": k, **row} for k, row in enumerate(rows)]
        with self.transaction():
            self._insert("examples", EXAMPLE_COLUMNS, placed, begun=True)
            shown = [{"craft": craft, "reader": reader, **row} for row in predictions]
            self._insert("readings", PREDICTION_COLUMNS, shown, begun=True)

    def _write_table(self, path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
        import pyarrow
        import pyarrow.parquet

        shapes = [None if row["difference"] is None else list(row["difference"].shape) for row in rows]
        data = [None if row["difference"] is None else row["difference"].tobytes() for row in rows]
        table = pyarrow.table(
            {
                "item": [row["item"] for row in rows],
                "version": [row["version"] for row in rows],
                "text_index": pyarrow.array([row["text_index"] for row in rows], pyarrow.int32()),
                "shape": pyarrow.array(shapes, pyarrow.list_(pyarrow.int32())),
                "difference": pyarrow.array(data, pyarrow.binary()),
                "text": pyarrow.array([row["text"] for row in rows], pyarrow.string()),
            }
        )
        temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        with _told(self.folder):
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
                with temporary.open("wb") as file:
                    pyarrow.parquet.write_table(table, file, compression="zstd")
                    file.flush()
                    os.fsync(file.fileno())
                os.replace(temporary, path)
            finally:
                with suppress(OSError):
                    temporary.unlink(missing_ok=True)

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """Run a transaction: all of it is written, or nothing."""
        with _told(self.folder):
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield self._db
                self._db.execute("COMMIT")
            except BaseException:
                with suppress(sqlite3.Error):  # SQLite has rolled back by itself where the disk is full
                    self._db.execute("ROLLBACK")
                raise

    def _insert(
        self, table: str, columns: Sequence[str], rows: Sequence[Mapping[str, Any]], *, begun: bool = False
    ) -> None:
        sql = f"INSERT OR REPLACE INTO {table} ({', '.join(columns)}) VALUES ({', '.join('?' * len(columns))})"
        values = [[_finite(row.get(column)) for column in columns] for row in rows]
        if begun:
            self._db.executemany(sql, values)
            return
        with self.transaction() as db:
            db.executemany(sql, values)


def _finite(value: Any) -> Any:
    """Return NaN for what is no number: it is unknown."""
    return None if isinstance(value, float) and value != value else value


def _difference(row: Mapping[str, Any]) -> np.ndarray | None:
    if row["difference"] is None:
        return None
    return np.frombuffer(row["difference"], np.uint8).reshape(row["shape"])


# --- files, locks and errors ------------------------------------------------------------------------------------------


def _take_lock(folder: Path) -> sqlite3.Connection:
    """Return the writer's lock: SQLite's own on an empty database, which the system releases when its process dies."""
    with _told(folder):
        lock = sqlite3.connect(folder / LOCK, timeout=0, isolation_level=None, check_same_thread=False)
        try:
            lock.execute("BEGIN EXCLUSIVE")
        except sqlite3.OperationalError as error:
            lock.close()
            if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY:
                raise
            raise StoreError(
                f"The evaluation store {folder} is being written by {_owner(folder)}.",
                "Wait until it is done, stop it, or name another folder with --store.",
            ) from error
    now = datetime.now(UTC).isoformat(timespec="seconds")
    with suppress(OSError):  # only for the message above
        (folder / OWNER).write_text(json.dumps({"pid": os.getpid(), "host": socket.gethostname(), "since": now}))
    return lock


def _owner(folder: Path) -> str:
    try:
        data = json.loads((folder / OWNER).read_text())
        return f"process {data['pid']} on {data['host']} since {data['since']}"
    except (OSError, ValueError, KeyError, TypeError):
        return "another process"


def _read_only(path: Path) -> sqlite3.Connection:
    """Return a connection that changes nothing; on a medium that cannot be written at all, without locks."""
    uri = path.resolve().as_uri()
    for mode in ("mode=ro", "immutable=1"):
        db = sqlite3.connect(f"{uri}?{mode}", uri=True, timeout=30, isolation_level=None, check_same_thread=False)
        try:
            db.execute("SELECT count(*) FROM sqlite_master").fetchone()
            return db
        except sqlite3.OperationalError as error:
            db.close()
            if mode == "immutable=1" or error.sqlite_errorname not in ("SQLITE_CANTOPEN", "SQLITE_READONLY_DIRECTORY"):
                raise
    raise AssertionError


def _inspect(folder: Path, thorough: bool = False) -> bool:
    """Look at a database without changing it; return whether it is still empty.

    Raises:
        StoreError: it is none, damaged, another program's or of a newer version.
    """
    path = folder / DATABASE
    with _told(folder):
        with path.open("rb") as file:
            header = file.read(len(HEADER))
        if header and header != HEADER:
            raise sqlite3.DatabaseError("file is not a database")
        with closing(_read_only(path)) as db:
            tables = {name for (name,) in db.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
            if not tables:
                return True
            if not {"meta", "runs", "crafts", "examples", "readings", "clean"} <= tables:
                raise StoreError(f"{path} is no evaluation store.", "Name another folder with --store.")
            found = db.execute("SELECT value FROM meta WHERE key = 'format'").fetchone()
            if found is None or not str(found[0]).isdecimal() or int(found[0]) > FORMAT:
                raise StoreError(
                    f"The evaluation store {folder} has the format {found and found[0]}; this CMAI knows {FORMAT}.",
                    "Update CMAI, or name another folder with --store.",
                )
            if thorough and (verdict := db.execute("PRAGMA quick_check(1)").fetchone()[0]) != "ok":
                raise sqlite3.DatabaseError(verdict)
    return False


def _bring_up_to_date(db: sqlite3.Connection) -> None:
    """Add the columns that a store of an older format lacks, all or none."""
    if int(db.execute("SELECT value FROM meta WHERE key = 'format'").fetchone()[0]) >= FORMAT:
        return
    new = "".join(f"ALTER TABLE {table} ADD COLUMN {name}; " for table in ("readings", "clean") for name in SINCE_2)
    db.executescript(f"BEGIN IMMEDIATE; {new} UPDATE meta SET value = '{FORMAT}' WHERE key = 'format'; COMMIT;")


@contextmanager
def _told(folder: Path) -> Iterator[None]:
    """Turn SQLite's and the system's errors into one that says what to do."""
    kept = "What is stored is kept as it is."
    try:
        yield
    except sqlite3.Error as error:
        name = getattr(error, "sqlite_errorname", "") or ""
        if name.startswith("SQLITE_FULL") or name in ("SQLITE_IOERR_WRITE", "SQLITE_IOERR_SHMSIZE"):
            text, hint = "has no space left", f"{kept} Free space, then run again: it goes on."
        elif name.startswith(("SQLITE_READONLY", "SQLITE_CANTOPEN", "SQLITE_PERM", "SQLITE_IOERR")):
            text, hint = f"cannot be used ({error})", "Check the folder's rights, or name another with --store."
        elif name.startswith("SQLITE_BUSY"):
            text, hint = "is locked by another process", "Wait until that is done, or name another with --store."
        else:
            text = f"is damaged ({error})"
            hint = f"{kept} Put a copy of {DATABASE} back, or name another folder with --store."
        raise StoreError(f"The evaluation store {folder} {text}.", hint) from error
    except OSError as error:
        raise StoreError(
            f"The evaluation store {folder} cannot be used: {error.strerror or error}.",
            f"{kept} Check space and rights of the folder, then run again: it goes on.",
        ) from error
