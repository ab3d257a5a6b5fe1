"""Writing files whole or not at all, and keeping runs that use the same folder apart."""

from __future__ import annotations

import errno
import glob
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from itertools import count
from pathlib import Path

from sysvi._core.errors import InputError

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
WAITS = (0.1, 0.5, 2.0)  # seconds after a renaming that failed; network file systems recover from some errors


class _NotRenamedError(InputError):
    """Raised if a complete output could not be given its name; it is kept under its temporary one."""


def write_atomically(path: Path, write: Callable[[Path], object], *, overwrite: bool = True) -> None:
    """Write a file so that it appears under its name only when it is complete and on the disk.

    Temporary files that a killed run has left for the same file are removed.

    Parameters
    ----------
    path
        File to create or replace; of a symbolic link, the file to which it leads.
    write
        Function that writes the content to the path it is given: a temporary file in the folder of `path`, which is
        then renamed to `path`.
    overwrite
        Whether a file of this name may be replaced. If not, and there is one by now, the new file gets another name.

    Raises
    ------
    InputError
        If the folder does not exist or cannot be written to, if there is no space left, or if a file that must not be
        replaced has appeared since the caller looked for it. If the complete file cannot be renamed, it is kept, and
        the message says where.

    Examples
    --------
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder) / "genes.txt"
    ...     write_atomically(path, lambda temporary: temporary.write_text("INS"))
    ...     path.read_text()
    'INS'
    """
    given, path = Path(path), Path(os.path.realpath(path))
    check_regular(given)
    _remove_leftovers(path)
    try:
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".part", dir=path.parent)
    except OSError as error:
        raise InputError(f"Cannot write into the folder {given.parent} ({error.strerror}).") from error
    temporary, kept = Path(name), False
    try:
        with suppress(OSError):  # without locks, leftovers stay
            _lock(handle)
        try:
            write(temporary)
            _flush(temporary)
        except OSError as error:
            raise InputError(_describe_write_error(given, error)) from error
        umask = os.umask(0)
        os.umask(umask)
        temporary.chmod(0o666 & ~umask)  # the usual permissions; mkstemp lets only the owner read
        if overwrite:
            _rename(temporary, path, given)
        elif not _rename_without_replacing(temporary, path):
            raise InputError(
                f"{given} was written by another run in the meantime and is kept; the result of this run is in "
                f"{_rename_to_free_name(temporary, path)}."
            )
        with suppress(OSError):  # not all systems can do this for folders
            _flush(path.parent)
    except _NotRenamedError:
        kept = True
        raise
    finally:
        if not kept:
            temporary.unlink(missing_ok=True)
        os.close(handle)


def write_folder_atomically(path: Path, write: Callable[[Path], object], *, overwrite: bool = True) -> None:
    """Write a folder so that it appears under its name only when it is complete.

    Temporary folders that a killed run has left for the same name are removed.

    Parameters
    ----------
    path
        Folder to create or replace.
    write
        Function that writes the content into the folder it is given, which exists and is empty, and is then renamed to
        `path`.
    overwrite
        Whether a folder of this name may be replaced. If not, and there is one by now, the new one gets another name.

    Raises
    ------
    InputError
        If the folder above does not exist or cannot be written to, if there is no space left, or if a folder that must
        not be replaced has appeared since the caller looked for it. If the complete folder cannot be renamed, it is
        kept, and the message says where.

    Examples
    --------
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder) / "store"
    ...     write_folder_atomically(path, lambda temporary: (temporary / "genes.txt").write_text("INS"))
    ...     [p.name for p in path.iterdir()], len(list(Path(folder).iterdir()))
    (['genes.txt'], 1)
    """
    given, path = Path(path), Path(os.path.realpath(path))
    with folder_beside(given) as temporary:
        former = temporary.with_suffix(".old.part")  # removed with the leftovers, should this run be killed
        try:
            try:
                write(temporary)
            except OSError as error:
                raise InputError(_describe_write_error(given, error)) from error
            umask = os.umask(0)
            os.umask(umask)
            temporary.chmod(0o777 & ~umask)  # the usual permissions; mkdtemp lets only the owner read
            if path.exists() and not overwrite:
                names = (path.with_name(f"{path.stem}-{i}{path.suffix}") for i in count(1))
                free = next(name for name in names if not name.exists())
                temporary.rename(free)
                raise InputError(
                    f"{given} was written by another run in the meantime and is kept; the result of this run is in "
                    f"{free}."
                )
            if path.exists():
                _rename(path, former, given, whole=temporary)
            _rename(temporary, path, given)
            with suppress(OSError):  # not all systems can do this for folders
                _flush(path.parent)
        finally:
            if path.exists():
                shutil.rmtree(former, ignore_errors=True)
            elif former.exists():
                with suppress(OSError):  # the message of a renaming that failed says more
                    former.rename(path)


@contextmanager
def folder_beside(path: Path) -> Iterator[Path]:
    """Give an empty temporary folder beside a path, on its disk, which is removed at the end.

    Temporary files and folders that a killed run has left for the same path are removed.

    Raises
    ------
    InputError
        If the folder above does not exist or cannot be written to.
    """
    given, path = Path(path), Path(os.path.realpath(path))
    _remove_leftovers(path)
    try:
        temporary = Path(tempfile.mkdtemp(prefix=f".{path.name}.", suffix=".part", dir=path.parent))
        handle = os.open(temporary, os.O_RDONLY)
    except OSError as error:
        raise InputError(f"Cannot write into the folder {given.parent} ({error.strerror}).") from error
    kept = False
    try:
        with suppress(OSError):  # without locks, leftovers stay
            _lock(handle)
        yield temporary
    except _NotRenamedError:
        kept = True
        raise
    finally:
        if not kept:
            shutil.rmtree(temporary, ignore_errors=True)
        os.close(handle)


def check_regular(path: Path) -> None:
    """Check that a path is free or that of a regular file, not of a folder, a pipe or a device such as ``/dev/null``.

    Raises
    ------
    InputError
        If it is something else.
    """
    if path.is_dir():
        raise InputError(f"{path} is a folder: give the name of a file.")
    if path.exists() and not path.is_file():
        raise InputError(f"{path} is a pipe or a device: give the name of a file.")


def create_folder(folder: str | Path) -> Path:
    """Create the folder for an output, if it is missing.

    Raises
    ------
    InputError
        If it cannot be created.
    """
    folder = Path(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"The folder {folder} cannot be created ({error.strerror}).") from error
    return folder


def check_folder(folder: Path, may_be_missing: bool = False) -> None:
    """Check, before any work is done, that files can be written into a folder.

    Parameters
    ----------
    folder
        The folder.
    may_be_missing
        Whether the folder will be created if it does not exist.

    Raises
    ------
    InputError
        If it does not exist, cannot be created or cannot be written to.
    """
    existing = _nearest_existing(folder) if may_be_missing else folder
    if not existing.is_dir():
        if may_be_missing:
            raise InputError(f"The folder {folder} cannot be created: {existing} is not a folder.")
        raise InputError(f"The folder {folder} does not exist: create it first.")
    try:
        tempfile.TemporaryFile(dir=existing).close()
    except OSError as error:
        raise InputError(f"Cannot write into the folder {existing} ({error.strerror}).") from error


def _nearest_existing(folder: Path) -> Path:
    """The folder itself, or the nearest of those above it that exists."""
    return next(path for path in (folder, *folder.parents) if os.path.lexists(path))


def check_free_space(path: Path, n_bytes: int) -> None:
    """Check that the disk of a file that will be written has space for it; its folder may not exist yet.

    Raises
    ------
    InputError
        If less than `n_bytes` are free.
    """
    free = shutil.disk_usage(_nearest_existing(path.parent)).free
    if free < n_bytes:
        raise InputError(
            f"{path} will take about {n_bytes / 1e6:,.0f} MB, but only {free / 1e6:,.0f} MB are free on its disk: free "
            "some space or choose another folder."
        )


@contextmanager
def reading_results(folder: Path, kind: str, function: str) -> Iterator[None]:
    """Turn what missing or damaged files of results raise into an InputError that says how to make them again.

    Parameters
    ----------
    folder
        The folder of the results.
    kind
        What they are of, such as "a tuning".
    function
        The function that makes them.
    """
    try:
        yield
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"{folder} has no complete results of {kind} ({error}): run {function} with the same output again; "
            "finished runs are kept."
        ) from error


@contextmanager
def locked_folder(folder: Path) -> Iterator[None]:
    """Keep the runs of other processes out of a folder; the lock ends with this process, however it ends.

    Without effect where folders cannot be locked.

    Raises
    ------
    InputError
        If another run holds the lock.
    """
    try:
        handle = os.open(folder, os.O_RDONLY)
    except OSError:  # Windows
        yield
        return
    try:
        try:
            is_free = _lock(handle)
        except OSError:
            is_free = True
        if not is_free:
            raise InputError(
                f"Another run is working in the folder {folder}: wait until it has ended, or choose another folder."
            )
        yield
    finally:
        os.close(handle)


def _lock(handle: int) -> bool:
    """Lock an open file or folder until it is closed; False if another process has locked it.

    Raises
    ------
    OSError
        Where there are no locks: on Windows, and on some network file systems.
    """
    if fcntl is None:
        raise OSError(errno.ENOTSUP, "no file locks")
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _remove_leftovers(path: Path) -> None:
    """Remove the temporary files of `path` that no process writes any more: its lock on them is gone."""
    for leftover in path.parent.glob(f".{glob.escape(path.name)}.*.part"):
        with suppress(OSError):
            is_folder = leftover.is_dir()
            handle = os.open(leftover, os.O_RDONLY if is_folder else os.O_RDWR)
            try:
                if _lock(handle):
                    shutil.rmtree(leftover) if is_folder else leftover.unlink()
            finally:
                os.close(handle)


def _flush(path: Path) -> None:
    """Wait until a file or folder is on the disk, so that a power failure after the renaming leaves no empty file."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _describe_write_error(path: Path, error: OSError) -> str:
    """Why a file could not be written, and what to do."""
    if error.errno in NO_SPACE:
        return f"{path} cannot be written: there is no space left ({error.strerror}). Free some space and run it again."
    return f"{path} cannot be written ({error.strerror or error})."


def _rename(source: Path, target: Path, given: Path, whole: Path | None = None) -> None:
    """Rename a file or folder, also on network file systems.

    There, a renaming may fail for a moment; or it is done, but its answer is lost, and the repeated request fails since
    there is nothing of the old name any more.

    Parameters
    ----------
    source, target
        Old and new name.
    given, whole
        For the message: name of the output, and where it lies complete (by default `source`).

    Raises
    ------
    _NotRenamedError
        If it still fails after some seconds.
    """
    before = source.stat()
    for wait in (*WAITS, None):
        try:
            os.replace(source, target)
            return
        except OSError as error:
            with suppress(OSError):
                if not source.exists() and os.path.samestat(before, target.stat()):
                    return
            if wait is None:
                raise _NotRenamedError(
                    f"{given} was written, but could not be given its name ({error.strerror or error}): the complete "
                    f"result is in {whole or source}. Rename it before you run anything with the same output again."
                ) from error
            time.sleep(wait)


def _rename_without_replacing(temporary: Path, path: Path) -> bool:
    """Give a file another name, unless there is a file of that name already; returns whether it got the name."""
    try:
        os.link(temporary, path)  # unlike a look and a renaming, this cannot be overtaken by another process
    except FileExistsError:  # also if it was done, but its answer was lost on the network and it was repeated
        return path.exists() and path.samefile(temporary)
    except OSError:  # a file system without hard links
        if path.exists():
            return False
        _rename(temporary, path, path)
    return True


def _rename_to_free_name(temporary: Path, path: Path) -> Path:
    """Give a file the name of `path` with the first number that is free, and return it."""
    names = (path.with_name(f"{path.stem}-{i}{path.suffix}") for i in count(1))
    return next(name for name in names if _rename_without_replacing(temporary, name))
