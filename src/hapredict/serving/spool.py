"""The spool: where a replica's rows wait on the local disk until they are in the store.

One file is one part of the journal to be. Its name says which: `<source>.<seq>.spool` becomes
part `seq` of `source`, from exactly this file, and is deleted when the part exists. A crash at
any instant therefore neither loses nor repeats a row that was appended: whoever finds the file
creates the same part again, and the store says whether that had already happened.

A record is its length, its CRC-32 and its bytes, appended by one plain write: a killed process
loses nothing that was written (the page cache is the kernel's), and the last record may be torn,
which its checksum shows. A power cut may lose what the kernel had not yet written.

A living owner holds a lock on `<source>.lock`. A lock that is free marks an orphan, which any
other replica on the same directory may adopt. All of it is plain files and `flock`; the directory
must be on a local disk.
"""

import fcntl
import os
import re
import struct
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

_HEADER = struct.Struct("<II")
_NAME = re.compile(r"^(?P<source>[A-Za-z0-9_-]+)\.(?P<seq>[0-9]{8})\.spool$")
_SOURCE = re.compile(r"^[A-Za-z0-9_-]{1,100}$")


@dataclass(frozen=True, slots=True)
class Sealed:
    """A file that nobody appends to any more: part `seq` of `source`."""

    source: str
    seq: int
    path: Path

    def records(self) -> Iterator[bytes]:
        """What was appended, in order, up to the first record that is torn. Raises OSError."""
        data = self.path.read_bytes()
        at = 0
        while at + _HEADER.size <= len(data):
            length, checksum = _HEADER.unpack_from(data, at)
            record = data[at + _HEADER.size : at + _HEADER.size + length]
            # zeros pass as an empty record: they are what a power cut leaves of unwritten pages
            if not length or len(record) != length or zlib.crc32(record) != checksum:
                return
            yield record
            at += _HEADER.size + length

    def delete(self) -> None:
        """Remove the file, once its part is in the store."""
        self.path.unlink(missing_ok=True)


class Spool:
    """The files of one source. Not for use from several threads at a time."""

    def __init__(
        self, directory: Path, source: str, *, bytes_max: int = 16 << 20, first: int = 1
    ) -> None:
        """Become the owner of `source`, a name that no other process start has.

        A file is sealed when it has `bytes_max` bytes, which bounds the memory that making one
        part takes. `first` is the number of the first file: above 1 for a source that this process
        closed before. Raises ValueError for a source that cannot be part of a file's name, OSError
        if the directory cannot be written.
        """
        if not _SOURCE.match(source):
            message = f"source {source!r}: expected 1 to 100 letters, digits, '_' or '-'"
            raise ValueError(message)
        directory.mkdir(parents=True, exist_ok=True)
        self._directory = directory
        self._source = source
        self._bytes_max = bytes_max
        self._seq = first
        self._file: int | None = None
        self._bytes = 0
        self._lock: int | None = self._own()

    def append(self, record: bytes) -> None:
        """Add a record. When it returns, the death of this process cannot lose the record.

        Raises OSError; then the record is not in the spool and may be appended again.
        """
        if self._lock is None:
            raise OSError("the spool is closed")
        if self._file is None:
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC
            path = _path(self._directory, self._source, self._seq)
            self._file = os.open(path, flags, 0o644)
            self._bytes = 0
        data = memoryview(_HEADER.pack(len(record), zlib.crc32(record)) + record)
        try:
            while data:
                written = os.write(self._file, data)
                self._bytes += written
                data = data[written:]
        except OSError:
            self.seal()  # the torn record is now the last one of its file
            raise
        if self._bytes >= self._bytes_max:
            self.seal()

    def seal(self) -> None:
        """Append to a new file from now on."""
        if self._file is not None:
            file, self._file = self._file, None
            self._seq += 1
            os.close(file)

    def sealed(self) -> list[Sealed]:
        """The files of the own source that wait for the store, oldest first. Raises OSError."""
        current = self._seq if self._file is not None else None
        return [file for file in _files(self._directory, self._source) if file.seq != current]

    @property
    def next_part(self) -> int:
        """The number of the next file to be sealed."""
        return self._seq

    @property
    def waiting(self) -> int:
        """Files of this source that are not in the store yet. Raises OSError."""
        return len(self.sealed()) + (self._file is not None)

    def adopt(self, ship: Callable[[Sealed], None]) -> None:
        """Hand each file whose owner is dead to `ship`, which deletes it once it is in the store.

        A source's files come oldest first, and nobody else adopts them meanwhile. Raises OSError,
        and what `ship` raises.
        """
        for lock in sorted(self._directory.glob("*.lock")):
            source = lock.name.removesuffix(".lock")
            held = None if source == self._source else _try_lock(lock)
            if held is None:
                continue
            try:
                for file in _files(self._directory, source):
                    ship(file)
                if not _files(self._directory, source):
                    lock.unlink(missing_ok=True)
            finally:
                os.close(held)

    def close(self) -> None:
        """Seal, and let others adopt what is left."""
        self.seal()
        if self._lock is not None:
            if not self.sealed():
                (self._directory / f"{self._source}.lock").unlink(missing_ok=True)
            lock, self._lock = self._lock, None
            os.close(lock)

    def _own(self) -> int:
        # Locked under another name first: the lock appears held, so no adopter can come between.
        hidden = self._directory / f".{self._source}.lock"
        lock = os.open(hidden, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        fcntl.flock(lock, fcntl.LOCK_EX)
        hidden.rename(self._directory / f"{self._source}.lock")
        return lock


def _try_lock(path: Path) -> int | None:
    try:
        lock = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(lock)
        return None
    return lock


def _path(directory: Path, source: str, seq: int) -> Path:
    return directory / f"{source}.{seq:08d}.spool"


def _files(directory: Path, source: str) -> list[Sealed]:
    found = []
    for path in directory.iterdir():
        match = _NAME.match(path.name)
        if match and match["source"] == source:
            found.append(Sealed(source, int(match["seq"]), path))
    return sorted(found, key=lambda file: file.seq)
