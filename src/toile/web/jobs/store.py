"""What is kept of jobs, pictures and ratings: a SQLite database with a write-ahead log."""

from __future__ import annotations

import json
import sqlite3
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from toile.errors import ToileError, WorkFailedError
from toile.web.jobs.job import ENDED, Job, PairRating, PictureInfo, Rating, Reason, State
from toile.web.jobs.request import JobRequest

# Step n leads from version n to version n + 1; what is here is never changed, only added to.
_MIGRATIONS = (
    """
    CREATE TABLE jobs (
        number INTEGER PRIMARY KEY AUTOINCREMENT,
        id TEXT NOT NULL UNIQUE,
        owner TEXT NOT NULL,
        state TEXT NOT NULL,
        request TEXT NOT NULL,
        image BLOB,
        mask BLOB,
        attached INTEGER NOT NULL,
        starts INTEGER NOT NULL DEFAULT 0,
        error TEXT,
        reason TEXT,
        created REAL NOT NULL,
        started REAL,
        ended REAL
    );
    CREATE INDEX jobs_of_owner ON jobs (owner, number);
    CREATE INDEX jobs_in_state ON jobs (state);
    CREATE TABLE pictures (
        job TEXT NOT NULL REFERENCES jobs (id) ON DELETE CASCADE,
        number INTEGER NOT NULL,
        seed TEXT NOT NULL,
        width INTEGER NOT NULL,
        height INTEGER NOT NULL,
        reading TEXT,
        warnings TEXT NOT NULL,
        flagged INTEGER NOT NULL,
        has_maps INTEGER NOT NULL,
        PRIMARY KEY (job, number)
    ) WITHOUT ROWID;
    CREATE TABLE thumbs (
        job TEXT NOT NULL,
        number INTEGER NOT NULL,
        owner TEXT NOT NULL,
        thumb INTEGER NOT NULL,
        rated REAL NOT NULL,
        PRIMARY KEY (job, number, owner),
        FOREIGN KEY (job, number) REFERENCES pictures (job, number) ON DELETE CASCADE
    ) WITHOUT ROWID;
    CREATE TABLE pairs (
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        owner TEXT NOT NULL,
        job_a TEXT NOT NULL,
        number_a INTEGER NOT NULL,
        job_b TEXT NOT NULL,
        number_b INTEGER NOT NULL,
        choice TEXT NOT NULL,
        rated REAL NOT NULL,
        FOREIGN KEY (job_a, number_a) REFERENCES pictures (job, number) ON DELETE CASCADE,
        FOREIGN KEY (job_b, number_b) REFERENCES pictures (job, number) ON DELETE CASCADE
    );
    """,
)


@dataclass(frozen=True)
class Unfinished:
    """A job that had not ended when its engine did.

    Attributes:
        job: as it stood, with its files.
        attached: whether somebody was waiting for it at the other end of a connection.
        starts: how often its making began.
    """

    job: Job
    attached: bool
    starts: int


class Store:
    """One engine's database; it is locked for others while it is open.

    Args:
        path: of the file; made if absent.

    Raises:
        ToileError: it is no such database, of a newer version, in use, or the disk refuses.
    """

    def __init__(self, path: Path) -> None:
        self._lock = threading.RLock()
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._database = sqlite3.connect(path, timeout=1.0, isolation_level=None, check_same_thread=False)
            self._database.execute("PRAGMA locking_mode = EXCLUSIVE")
            self._database.execute("PRAGMA journal_mode = WAL")
            self._database.execute("PRAGMA synchronous = NORMAL")
            self._database.execute("PRAGMA foreign_keys = ON")
            self._migrate(path)
        except sqlite3.OperationalError as error:
            if "locked" in str(error):
                raise ToileError(f"{path} is in use: another server runs on this folder; give another one") from error
            raise ToileError(f"cannot open {path}: {error}") from error
        except (sqlite3.DatabaseError, OSError) as error:
            raise ToileError(f"cannot open {path}: {error}") from error

    def close(self) -> None:
        """Releases the file."""
        with self._lock:
            self._database.close()

    def _migrate(self, path: Path) -> None:
        [version] = self._database.execute("PRAGMA user_version").fetchone()
        if version > len(_MIGRATIONS):
            raise ToileError(f"{path} is of version {version}; this toile knows up to {len(_MIGRATIONS)}: update it")
        for number, script in enumerate(_MIGRATIONS[version:], start=version + 1):
            self._database.executescript(f"BEGIN IMMEDIATE; {script} PRAGMA user_version = {number}; COMMIT;")
        with self._transaction() as database:  # takes the lock even when there was nothing to do
            database.execute(f"PRAGMA user_version = {len(_MIGRATIONS)}")

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        with self._lock:
            self._database.execute("BEGIN IMMEDIATE")
            try:
                yield self._database
                self._database.execute("COMMIT")
            except BaseException as error:
                if self._database.in_transaction:
                    self._database.execute("ROLLBACK")
                if isinstance(error, sqlite3.OperationalError):
                    raise WorkFailedError(f"the database cannot be written: {error}") from error
                raise

    def _rows(self, query: str, values: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        with self._lock:
            return self._database.execute(query, values).fetchall()

    # ------------------------------------------------------------------------------------------------------------ jobs

    def add(self, job: Job, attached: bool) -> None:
        """A new job, which waits."""
        request = job.request
        values = (job.id, job.owner, job.state, request.as_json(), request.image, request.mask, attached, job.created)
        with self._transaction() as database:
            database.execute(
                "INSERT INTO jobs (id, owner, state, request, image, mask, attached, created)"
                " VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                values,
            )

    def started(self, job: str, when: float) -> None:
        """The first picture of a job is begun."""
        with self._transaction() as database:
            database.execute(
                "UPDATE jobs SET state = 'running', started = ?, starts = starts + 1 WHERE id = ?", (when, job)
            )

    def waits_again(self, job: str) -> None:
        """A job that did not end goes back to the queue."""
        with self._transaction() as database:
            database.execute("UPDATE jobs SET state = 'queued' WHERE id = ?", (job,))

    def ended(self, job: str, state: State, when: float, error: str | None, reason: Reason | None) -> None:
        """A job is over; its files are in its pictures, and need not be kept beside."""
        with self._transaction() as database:
            database.execute(
                "UPDATE jobs SET state = ?, ended = ?, error = ?, reason = ?, image = NULL, mask = NULL WHERE id = ?",
                (state, when, error, reason, job),
            )

    def forget(self, job: str) -> None:
        """Removes a job, its pictures and what was thought of them."""
        with self._transaction() as database:
            database.execute("DELETE FROM jobs WHERE id = ?", (job,))

    def job(self, job: str, owner: str) -> Job | None:
        """A job of an owner."""
        found = self._jobs("WHERE id = ? AND owner = ?", (job, owner))
        return found[0] if found else None

    def history(self, owner: str, limit: int, before: str | None) -> tuple[Job, ...]:
        """An owner's jobs, the last ones first; `before` a job means older than that."""
        if before is None:
            return tuple(self._jobs("WHERE owner = ? ORDER BY number DESC LIMIT ?", (owner, limit)))
        earlier = "number < (SELECT number FROM jobs WHERE id = ? AND owner = ?)"
        where = f"WHERE owner = ? AND {earlier} ORDER BY number DESC LIMIT ?"
        return tuple(self._jobs(where, (owner, before, owner, limit)))

    def unfinished(self) -> list[Unfinished]:
        """All jobs that have not ended, in the order they came."""
        found = []
        for job in self._jobs("WHERE state NOT IN (?, ?, ?) ORDER BY number", ENDED):
            [row] = self._rows("SELECT attached, starts FROM jobs WHERE id = ?", (job.id,))
            found.append(Unfinished(job, bool(row[0]), row[1]))
        return found

    def _jobs(self, where: str, values: Sequence[Any]) -> list[Job]:
        columns = "id, owner, state, request, image, mask, error, reason, created, started, ended"
        jobs = []
        for row in self._rows(f"SELECT {columns} FROM jobs {where}", values):
            request = JobRequest.from_json(row[3], row[4], row[5])
            pictures = self._pictures(row[0])
            fraction = 1.0 if row[2] == "done" else len(pictures) / request.num_pictures
            jobs.append(
                Job(
                    row[0],
                    row[1],
                    request,
                    row[2],
                    row[8],
                    fraction=fraction,
                    pictures=pictures,
                    error=row[6],
                    reason=row[7],
                    started=row[9],
                    ended=row[10],
                )
            )
        return jobs

    # -------------------------------------------------------------------------------------------------------- pictures

    def add_picture(self, job: str, picture: PictureInfo) -> None:
        """A picture whose file is written."""
        values = (
            job,
            picture.number,
            str(picture.seed),  # may be larger than SQLite's integers
            picture.width,
            picture.height,
            picture.reading,
            json.dumps(picture.warnings),
            picture.flagged,
            picture.has_maps,
        )
        with self._transaction() as database:
            database.execute("INSERT OR REPLACE INTO pictures VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)", values)

    def has_picture(self, job: str, owner: str, number: int) -> bool:
        """Whether a job of an owner has a picture of this number."""
        query = "SELECT pictures.number FROM pictures JOIN jobs ON id = job WHERE job = ? AND owner = ?"
        return (number,) in self._rows(query, (job, owner))

    def _pictures(self, job: str) -> tuple[PictureInfo, ...]:
        columns = "number, seed, width, height, reading, warnings, flagged, has_maps"
        rows = self._rows(f"SELECT {columns} FROM pictures WHERE job = ? ORDER BY number", (job,))
        return tuple(
            PictureInfo(
                row[0], int(row[1]), row[2], row[3], row[4], tuple(json.loads(row[5])), bool(row[6]), bool(row[7])
            )
            for row in rows
        )

    # --------------------------------------------------------------------------------------------------------- ratings

    def rate(self, owner: str, rating: Rating) -> None:
        """Keeps a thumb instead of the one that this owner gave before; 0 takes it back."""
        key = (rating.job, rating.number, owner)
        with self._transaction() as database:
            database.execute("DELETE FROM thumbs WHERE job = ? AND number = ? AND owner = ?", key)
            if rating.thumb:
                database.execute("INSERT INTO thumbs VALUES (?, ?, ?, ?, ?)", (*key, rating.thumb, rating.rated))

    def rate_pair(self, owner: str, rating: PairRating) -> None:
        """Keeps which of two pictures is better."""
        values = (owner, *rating.a, *rating.b, rating.choice, rating.rated)
        with self._transaction() as database:
            database.execute(
                "INSERT INTO pairs (owner, job_a, number_a, job_b, number_b, choice, rated)"
                " VALUES (?, ?, ?, ?, ?, ?, ?)",
                values,
            )

    def ratings(self, owner: str) -> tuple[tuple[Rating, ...], tuple[PairRating, ...]]:
        """All of an owner's, the oldest first."""
        thumbs = self._rows("SELECT job, number, thumb, rated FROM thumbs WHERE owner = ? ORDER BY rated", (owner,))
        columns = "job_a, number_a, job_b, number_b, choice, rated"
        pairs = self._rows(f"SELECT {columns} FROM pairs WHERE owner = ? ORDER BY id", (owner,))
        return (
            tuple(Rating(*row) for row in thumbs),
            tuple(PairRating((row[0], row[1]), (row[2], row[3]), row[4], row[5]) for row in pairs),
        )
