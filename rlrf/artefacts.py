"""Store finished stages in a second place: a shared folder or an object store.

    URL/KEY/<sha256 of a file>    each file that the stage made
    URL/KEY/manifest.json         the stage's own manifest, last: a stage is whole or absent

KEY is the digest of the stage's name, inputs and code, so the same stage has the same place
wherever it is made. A run that lost its machine, or a second run of the same configuration, fetches
the stored stages; damaged stages are refused and made again. Digests show damage, not authorship:
whoever can write to the store decides what a run that reads it trains on.

The place is accessed by fsspec, which needs s3fs for S3, gcsfs for Google Cloud, adlfs for Azure.
Those find credentials in the environment or their own files; a URL with credentials is refused.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import urlsplit

from harness.core.errors import UserError, explain_full_disk, summarize
from harness.core.files import make_folder, parse, read_json
from harness.core.folders import new_folder
from harness.core.log import say
from harness.core.schema import digest
from rlrf.stage_folder import MANIFEST, NO_CODE, Manifest, is_whole, may_replace_stage

ABOUT = "README"
ABOUT_TEXT = b"Finished stages of rlrf runs, each under the digest of what it was made from.\n"
MAX_MANIFEST = 4 * 1024 * 1024  # bytes


class _UnfitError(Exception):
    """A stored stage does not match its manifest."""


class Artefacts:
    """A place for finished stages; see `open_artefacts`.

    Args:
        url: the place as the user named it.
        fs: fsspec's file system.
        root: the path in the file system.
    """

    def __init__(self, url: str, fs: Any, root: str) -> None:
        self._url, self._fs, self._root = url, fs, root
        self._unfit: set[str] = set()

    def fetch(
        self, name: str, inputs: str, folder: Path, code: Mapping[str, str] = NO_CODE
    ) -> bool:
        """Fetch the stage `name` into `folder`; return whether it was stored.

        Older stages that did not record their code are fetched too. A damaged stage is not: a
        log line says so, and `put` replaces it.

        Raises:
            UserError: the place cannot be read, or the disk is too full.
        """
        fetched = self._fetch(name, self._place(name, inputs, code), inputs, folder)
        if not fetched and code:
            fetched = self._fetch(name, self._place(name, inputs, NO_CODE), inputs, folder)
            if fetched:
                say(f"{name}: kept before its code was recorded: a change since cannot be seen")
        return fetched

    def _fetch(self, name: str, place: str, inputs: str, folder: Path) -> bool:
        try:
            with explain_full_disk(folder.parent):
                fetched = self._fetched(place, inputs, folder)
        except _UnfitError as error:
            self._unfit.add(place)
            say(f"{name}: {self._url} holds it damaged ({error}); it is made anew")
            return False
        except UserError:
            raise
        except Exception as error:
            raise UserError(
                f"{name} cannot be looked for in {self._url} ({summarize(error)}). Nothing is "
                "lost: start the same command again, or go on without 'artefacts'."
            ) from error
        if fetched:
            say(f"{name}: fetched from {self._url}")
        return fetched

    def _fetched(self, place: str, inputs: str, folder: Path) -> bool:
        try:
            size = self._fs.info(f"{place}/{MANIFEST}")["size"]
        except FileNotFoundError:
            return False
        make_folder(folder.parent)
        with new_folder(folder, may_replace_stage) as new:
            self._get(f"{place}/{MANIFEST}", size, MAX_MANIFEST, new / MANIFEST)
            try:
                manifest = parse(Manifest, read_json(new / MANIFEST), MANIFEST)
            except UserError as error:
                raise _UnfitError(f"{MANIFEST} cannot be read") from error
            files = {_within(new, file): f"{place}/{of}" for file, of in manifest.outputs.items()}
            try:
                sizes = {file: self._fs.info(kept)["size"] for file, kept in files.items()}
            except FileNotFoundError as error:
                raise _UnfitError("a file is missing") from error
            room = shutil.disk_usage(new).free
            if sum(sizes.values()) > room:
                raise UserError(
                    f"There is no room in {folder.parent} for {sum(sizes.values()):,} bytes from "
                    f"{self._url}: free some, and run the same command again."
                )
            for file, kept in files.items():
                self._get(kept, sizes[file], room, file)
            if not is_whole(new, inputs):
                raise _UnfitError("its files are not those of its manifest")
        return True

    def _get(self, kept: str, size: int, most: int, to: Path) -> None:
        if size > most:
            raise _UnfitError(f"{kept} is larger than {most:,} bytes")
        try:
            to.parent.mkdir(parents=True, exist_ok=True)
            self._fs.get_file(kept, str(to))
        except (FileExistsError, NotADirectoryError, IsADirectoryError) as error:
            raise _UnfitError("a file is named as a folder is") from error

    def put(self, name: str, inputs: str, folder: Path) -> None:
        """Store the finished stage in `folder`, unless it is stored; failures are only logged.

        Files that a killed process already sent are not sent again.
        """
        try:
            manifest = parse(Manifest, read_json(folder / MANIFEST), MANIFEST)
            place = self._place(name, inputs, manifest.code)
            anew = place in self._unfit
            if not anew and self._fs.exists(f"{place}/{MANIFEST}"):
                return
            self._fs.makedirs(place, exist_ok=True)
            for file, of in sorted(manifest.outputs.items()):
                size = (folder / file).stat().st_size
                if anew or not self._holds(f"{place}/{of}", size):
                    self._fs.put_file(str(folder / file), f"{place}/{of}")
            # Sent under another name first: not every store writes a file at once.
            self._fs.put_file(str(folder / MANIFEST), f"{place}/.{MANIFEST}")
            self._fs.mv(f"{place}/.{MANIFEST}", f"{place}/{MANIFEST}")
            self._unfit.discard(place)
        except Exception as error:
            say(
                f"{name}: done, but not kept in {self._url} ({summarize(error)}); "
                "the next start of this run tries again"
            )

    def _holds(self, kept: str, size: int) -> bool:
        try:
            return bool(self._fs.info(kept)["size"] == size)
        except FileNotFoundError:
            return False

    def _place(self, name: str, inputs: str, code: Mapping[str, str]) -> str:
        made_by = [dict(code)] if code else []
        return f"{self._root}/{digest([name, inputs, *made_by])}"


def open_artefacts(url: str) -> Artefacts:
    """Open the place at `url`, for any file system of fsspec or a local folder.

    Raises:
        UserError: the URL holds a password or other parameters, cannot be reached, or nothing can
            be written there.
    """
    import fsspec

    if "::" in url:
        raise UserError("artefacts: name one place, such as s3://bucket/runs, not a chain ('::').")
    try:
        parts = urlsplit(url)
        secret = parts.password or parts.query
    except ValueError:
        raise UserError("artefacts is not a URL; s3://bucket/runs is one.") from None
    if secret:
        raise UserError(
            "artefacts: the URL holds a password or parameters, which would be seen in files and "
            "process lists. Leave them out, and give credentials as fsspec's package for "
            f"{parts.scheme} finds them: in its environment variables or its own files."
        )
    try:
        fs, root = fsspec.url_to_fs(url)
        fs.makedirs(root, exist_ok=True)
        # A README of somebody else stays; the test file then gets another name.
        is_taken = fs.exists(f"{root}/{ABOUT}") and fs.cat_file(f"{root}/{ABOUT}") != ABOUT_TEXT
        fs.pipe_file(f"{root}/.rlrf.{ABOUT}" if is_taken else f"{root}/{ABOUT}", ABOUT_TEXT)
    except ImportError as error:
        raise UserError(f"artefacts: {url} needs another package: {summarize(error)}") from error
    except Exception as error:
        raise UserError(
            f"artefacts: nothing can be written to {url} ({summarize(error)}). Check the place and "
            "the credentials in the environment, or take 'artefacts' out."
        ) from error
    return Artefacts(url, fs, root)


def _within(folder: Path, name: str) -> Path:
    """Return the path of a stage's file, and refuse names that lead out of its folder."""
    path = PurePosixPath(name)
    plain = str(path) == name and not path.is_absolute() and ".." not in path.parts
    if not plain or path.name in ("", MANIFEST) or "\0" in name or "\\" in name:
        raise _UnfitError(f"{name[:80]!r} is not the name of a stage's file")
    return folder / path
