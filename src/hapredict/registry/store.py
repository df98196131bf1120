"""The store: named bytes under one URL, where everything lives that must survive.

Two promises carry the rest of hapredict. A reader sees a whole object or none, and of many
writers that create one name exactly one succeeds. Compare-and-swap is built on the second: the
next state of something is a new numbered name, which only one writer can create.

`file://` is written by hand, since obstore's local store does not sync what it writes; all other
schemes go through obstore (docs/decisions/0001-one-store.md).
"""

import json
import os
import unicodedata
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from itertools import count
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import obstore
from obstore.exceptions import AlreadyExistsError, BaseError, PreconditionError
from obstore.store import MemoryStore, from_url

from hapredict.errors import BadRequest, Conflict, CorruptBundle, NotFound, StoreUnavailable
from hapredict.plugins import Plugins

# A store that hangs must not hang a replica: obstore's own defaults retry for three minutes.
# Plain HTTP is used only where the user names such an endpoint.
_CLIENT = {"timeout": "20s", "connect_timeout": "5s", "allow_http": True}
_RETRY = {"max_retries": 3, "retry_timeout": timedelta(seconds=15)}

_NAME_BYTES_MAX = 255  # what common file systems allow for one part of a path
_FILE_MODE = 0o666  # less the umask, as for any other file
_ABSENT = (FileNotFoundError, NotADirectoryError, IsADirectoryError)


class Store(ABC):
    """Named bytes. Paths use "/"; a name is an object or a folder, never both.

    A part of a path is 1 to 255 bytes of UTF-8 without control characters and does not start with
    a dot; other paths raise BadRequest. Trouble of the store itself raises StoreUnavailable, after
    which a write may or may not have happened: read again and decide again. Stores are safe to
    use from several threads, and pickle as their URL.
    """

    def __init__(self, url: str) -> None:
        self.url = url

    @abstractmethod
    def put_new(self, path: str, data: bytes) -> None:
        """Create an object: whole, durable and by one writer only.

        Raises Conflict if the name is taken. On a remote store the taker may be an attempt of this
        very call whose answer got lost (see `put_once`).
        """

    @abstractmethod
    def put(self, path: str, data: bytes) -> None:
        """Create or replace an object. Readers see the old or the new bytes, never a mix."""

    @abstractmethod
    def get(self, path: str) -> bytes:
        """The bytes of an object. Raises NotFound."""

    @abstractmethod
    def exists(self, path: str) -> bool:
        """Whether the object is there."""

    @abstractmethod
    def delete(self, path: str) -> None:
        """Remove an object. One that is not there is no error, since S3 cannot tell."""

    @abstractmethod
    def children(self, prefix: str, known: Collection[str] = ()) -> list[str]:
        """Names of the folders directly in folder `prefix` that hold an object, sorted.

        Of those in `known` the caller knows that they do, which saves a look into each.
        """

    def put_once(self, path: str, data: bytes) -> None:
        """Create an object; the same bytes again are no error.

        For a writer that may have to repeat itself. Raises Conflict if other bytes are there.
        """
        try:
            self.put_new(path, data)
        except Conflict:
            if self.get(path) != data:
                raise

    def __reduce__(self) -> tuple[Callable[[str], "Store"], tuple[str]]:
        return open_store, (self.url,)

    def __repr__(self) -> str:
        return f"open_store({self.url!r})"

    @abstractmethod
    def list(self, prefix: str, after: str | None = None) -> list[str]:
        """Full paths of the objects in folder `prefix` and below it, sorted.

        Only those greater than `after`, where it is given. "" lists the whole store.
        """


STORES: Plugins[Callable[[str], Store]] = Plugins("store")
"""Ways to open a store, by the scheme of its URL."""


def open_store(url: str) -> Store:
    """The store at a URL: `file://`, `memory://name`, `s3://`, `gs://` or `az://`.

    A path, absolute or relative to the working directory, means `file://`. `memory://name` is one
    store a name and process, for tests and trials. Raises UnknownName for other schemes.
    """
    scheme, separator, _ = url.partition("://")
    if not separator:
        return STORES.find("file")(Path(url).absolute().as_uri())
    return STORES.find(scheme)(url)


def encode_json(value: Any) -> bytes:
    """JSON, the same bytes for the same value. Raises ValueError for NaN and infinity."""
    how: dict[str, Any] = {"ensure_ascii": False, "allow_nan": False, "separators": (",", ":")}
    return json.dumps(value, sort_keys=True, **how).encode("utf-8", "surrogatepass")


def decode_json(data: bytes, where: str) -> Any:
    """What `encode_json` wrote. Raises CorruptBundle that names `where`."""
    try:
        return json.loads(data, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        message = f"{where}: is not JSON ({error}); restore it from a backup of the store"
        raise CorruptBundle(message) from error


def _refuse_constant(name: str) -> Any:
    message = f"{name} is not JSON"
    raise ValueError(message)


def _checked(path: str) -> str:
    for part in path.split("/"):
        if (
            not part
            or part.startswith(".")
            or not ((part.isascii() and part.isprintable()) or _is_plain(part))
            or "\\" in part
            or len(part.encode()) > _NAME_BYTES_MAX
        ):
            message = (
                f"store path {path!r}: {part!r} cannot be part of a path; expected 1 to "
                f"{_NAME_BYTES_MAX} bytes, no dot at the start, no control character, no backslash"
            )
            raise BadRequest(message)
    return path


def _is_plain(part: str) -> bool:
    return not any(unicodedata.category(letter) in ("Cc", "Cs") for letter in part)


def _folder(prefix: str) -> str:
    prefix = prefix.strip("/")
    return _checked(prefix) if prefix else ""


@STORES.register("file")
class FileStore(Store):
    """A folder of a file system, which several machines may mount.

    An object is written to a hidden file beside its place, synced, then linked (`put_new`) or
    renamed (`put`) into place, and the folder is synced: what was acknowledged outlives a power
    cut. The file system must know hard links. A crash can leave a hidden file that no reader sees.
    """

    def __init__(self, url: str) -> None:
        parts = urlsplit(url, allow_fragments=False)
        where = unquote(parts.path + (f"?{parts.query}" if parts.query else ""))
        if parts.netloc not in ("", "localhost") or not where.startswith("/"):
            message = f"store {url!r}: expected file:///absolute/path or a plain path"
            raise BadRequest(message)
        self._root = Path(where)
        self._durable: set[Path] = set()
        self._numbers = count()
        super().__init__(self._root.as_uri())

    def put_new(self, path: str, data: bytes) -> None:
        with self._guard("create", path), self._written(path, data) as (temporary, target):
            try:
                os.link(temporary, target)
            except FileExistsError:
                # Over NFS the answer to a link that was made can get lost, and the repeated
                # request then fails; the count of links knows the truth.
                if temporary.stat().st_nlink < 2:
                    raise _conflict(path) from None

    def put(self, path: str, data: bytes) -> None:
        with self._guard("write", path), self._written(path, data) as (temporary, target):
            temporary.replace(target)

    def get(self, path: str) -> bytes:
        with self._guard("read", path):
            try:
                return (self._root / _checked(path)).read_bytes()
            except _ABSENT:
                raise _not_found(path) from None

    def exists(self, path: str) -> bool:
        with self._guard("look for", path):
            return (self._root / _checked(path)).is_file()

    def delete(self, path: str) -> None:
        with self._guard("delete", path):
            target = self._root / _checked(path)
            with suppress(*_ABSENT):
                target.unlink()
                _sync(target.parent)

    def children(self, prefix: str, known: Collection[str] = ()) -> list[str]:
        with self._guard("list", prefix):
            folder = _folder(prefix)
            start = f"{folder}/" if folder else ""
            names = [entry.name for entry in self._entries(folder) if entry.is_dir()]
            return sorted(n for n in names if n in known or any(self._below(start + n)))

    def _below(self, folder: str) -> Iterator[str]:
        waiting = [folder]
        while waiting:
            folder = waiting.pop()
            for entry in self._entries(folder):
                path = f"{folder}/{entry.name}" if folder else entry.name
                if entry.is_dir():
                    waiting.append(path)
                else:
                    yield path

    def _entries(self, folder: str) -> list[os.DirEntry[str]]:
        try:
            with os.scandir(self._root / folder) as entries:
                return [entry for entry in entries if not entry.name.startswith(".")]
        except _ABSENT:
            return []

    @contextmanager
    def _written(self, path: str, data: bytes) -> Iterator[tuple[Path, Path]]:
        """The synced bytes under a hidden name, and the place that they are meant for."""
        target = self._root / _checked(path)
        try:
            handle, temporary = self._create_hidden(target.parent)
            try:
                with os.fdopen(handle, "wb") as file:
                    file.write(data)
                    file.flush()
                    os.fsync(handle)
                yield temporary, target
            finally:
                temporary.unlink(missing_ok=True)
        finally:
            # Also after a Conflict: whoever reads the winner's object may rely on it.
            with suppress(FileNotFoundError):
                _sync(target.parent)

    def _create_hidden(self, folder: Path) -> tuple[int, Path]:
        self._make_durable(folder)
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_CLOEXEC", 0)
        while True:
            # The number can be taken: by another machine, or by a process that crashed.
            temporary = folder / f".{os.getpid()}-{next(self._numbers)}"
            try:
                return os.open(temporary, flags, _FILE_MODE), temporary
            except FileExistsError:
                continue
            except FileNotFoundError:
                # Somebody removed the folder since this store made it.
                self._durable.clear()
                self._make_durable(folder)

    def _make_durable(self, folder: Path) -> None:
        """Make the folder, and sync the way to it even if another process just made it."""
        if folder in self._durable:
            return
        is_new = not self._root.exists()
        folder.mkdir(parents=True, exist_ok=True)
        for part in [folder, *folder.parents]:
            _sync(part)
            if part == self._root:
                break
        if is_new:
            _sync(self._root.parent)
        self._durable.add(folder)

    @contextmanager
    def _guard(self, verb: str, path: str) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise StoreUnavailable(_trouble(verb, path, self.url, error)) from error

    def list(self, prefix: str, after: str | None = None) -> list[str]:
        with self._guard("list", prefix):
            found = self._below(_folder(prefix))
            return sorted(path for path in found if after is None or path > after)


def _sync(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


class ObjectStore(Store):
    """Anything that obstore can open: a bucket, or a process's memory."""

    def __init__(self, url: str, inner: Any) -> None:
        super().__init__(url)
        self._inner = inner

    def put_new(self, path: str, data: bytes) -> None:
        with self._guard("create", path):
            obstore.put(self._inner, _checked(path), data, mode="create")

    def put(self, path: str, data: bytes) -> None:
        with self._guard("write", path):
            obstore.put(self._inner, _checked(path), data, use_multipart=False)

    def get(self, path: str) -> bytes:
        with self._guard("read", path):
            return bytes(obstore.get(self._inner, _checked(path)).bytes())

    def exists(self, path: str) -> bool:
        try:
            with self._guard("look for", path):
                obstore.head(self._inner, _checked(path))
        except NotFound:
            return False
        return True

    def delete(self, path: str) -> None:
        with suppress(NotFound), self._guard("delete", path):
            obstore.delete(self._inner, _checked(path))

    def children(self, prefix: str, known: Collection[str] = ()) -> list[str]:  # noqa: ARG002 - one call tells all
        folder = _folder(prefix)
        with self._guard("list", prefix):
            found = obstore.list_with_delimiter(self._inner, folder or None)
            return sorted(str(path).rsplit("/", 1)[-1] for path in found["common_prefixes"])

    @contextmanager
    def _guard(self, verb: str, path: str) -> Iterator[None]:
        try:
            yield
        except FileNotFoundError:
            raise _not_found(path) from None
        except (AlreadyExistsError, PreconditionError):
            raise _conflict(path) from None
        except (BaseError, OSError, ValueError) as error:
            raise StoreUnavailable(_trouble(verb, path, self.url, error)) from error

    def list(self, prefix: str, after: str | None = None) -> list[str]:
        folder = _folder(prefix)
        with self._guard("list", prefix):
            stream = obstore.list(self._inner, folder or None, offset=after, chunk_size=1000)
            return sorted(str(item["path"]) for chunk in stream for item in chunk)


def _not_found(path: str) -> NotFound:
    return NotFound(f"{path}: nothing is stored under that name")


def _conflict(path: str) -> Conflict:
    return Conflict(f"{path}: another writer created it first; read again, decide again")


def _trouble(verb: str, path: str, url: str, error: Exception) -> str:
    told = str(error).split("\n", 1)[0].strip() or type(error).__name__
    return f"{path or 'all'}: could not {verb} it in {url}: {told}; try again"


_memories: dict[str, Any] = {}


@STORES.register("memory")
def _open_memory(url: str) -> Store:
    return ObjectStore(url, _memories.setdefault(url, MemoryStore()))


@STORES.register("s3")
@STORES.register("gs")
@STORES.register("az")
def _open_bucket(url: str) -> Store:
    # Addresses and credentials come from the environment or the machine, as obstore finds them.
    try:
        return ObjectStore(url, from_url(url, client_options=_CLIENT, retry_config=_RETRY))
    except (BaseError, OSError, ValueError) as error:
        raise StoreUnavailable(_trouble("open", "", url, error)) from error
