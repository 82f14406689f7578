"""A repository of the Hugging Face hub as a source, pinned to one commit.

The listing comes first: names and sizes are checked before anything is fetched. Only files that
step 3 opens are fetched, by the commit's hash, straight into private copies: no cache, no folder.
"""

from __future__ import annotations

import hashlib
import random
import re
from collections.abc import Callable, Generator
from contextlib import closing
from time import monotonic, sleep
from typing import Any, TypeVar

from peftlab.core.findings import Severity, rule
from peftlab.io.gate.limits import Limits
from peftlab.io.gate.listing import SOURCE, Entry, Stop
from peftlab.io.snapshot import BLOCK, OpenFile, Snapshots, WrongSize

HUB = rule(
    "GATE-HUB",
    Severity.HIGH,
    "the hub sent something else than it lists",
    why="the file was damaged or exchanged on its way",
    fix="try again; if it stays, tell the hub and the publisher",
)
COMMIT = re.compile(r"[0-9a-f]{40}")
TIMEOUT = 10.0  # seconds without a byte, as huggingface_hub has it
RETRIES = 5
PASSING = (408, 429, 500, 502, 503, 504)
FIRST_WAIT, MOST_WAIT = 1.0, 60.0  # seconds
PATIENCE, SLOWEST = 120.0, 2**16  # a download may take 120 s and a second for every 64 KiB

T = TypeVar("T")


class HubSource:
    """A model repository at one commit."""

    def __init__(
        self, reference: str, limits: Limits, *, offline: bool, endpoint: str | None
    ) -> None:
        self.kind, self._reference, self._endpoint = "hub", reference, endpoint
        self._name, _, revision = reference.partition("@")
        if offline:
            raise Stop(SOURCE.found(reference, "no such folder, and the hub is not asked offline"))
        info = self._ask("gate-source", lambda: self._info(revision or None))
        self.commit: str | None = str(info.sha)
        if not COMMIT.fullmatch(str(info.sha)):
            raise Stop(HUB.found(reference, f"{info.sha!r} is not a commit"))
        if COMMIT.fullmatch(revision) and revision != info.sha:
            raise Stop(HUB.found(reference, f"commit {info.sha} instead of the one asked for"))
        self._listed = {item.rfilename: item for item in info.siblings or ()}
        self.entries = [
            Entry(name, item.size if isinstance(item.size, int) else limits.file_bytes + 1)
            for name, item in sorted(self._listed.items())
        ][: limits.files + 1]
        self.facts: dict[str, object] = {"repository": self._name, "revision": revision or "main"}

    def fetch(self, entry: Entry, snapshots: Snapshots) -> OpenFile:
        """Download one file; its size and hash must be those of the listing."""
        try:
            file = self._ask("gate-files", lambda: self._download(entry, snapshots))
        except WrongSize as error:
            raise Stop(HUB.found(entry.name, str(error)), "gate-hashes") from None
        if not _is_listed(file, self._listed[entry.name]):
            file.close()
            raise Stop(HUB.found(entry.name, "another hash than listed"), "gate-hashes")
        return file

    def close(self) -> None:
        """Do nothing: no connection is held."""

    def _info(self, revision: str | None) -> Any:
        from huggingface_hub import HfApi

        api = HfApi(endpoint=self._endpoint)
        return api.model_info(self._name, revision=revision, files_metadata=True, timeout=TIMEOUT)

    def _download(self, entry: Entry, snapshots: Snapshots) -> OpenFile:
        with closing(self._blocks(entry)) as blocks:
            return snapshots.keep(entry.name, blocks, entry.size)

    def _blocks(self, entry: Entry) -> Generator[bytes, None, None]:
        from huggingface_hub import hf_hub_url
        from huggingface_hub.utils import build_hf_headers, get_session, hf_raise_for_status

        url = hf_hub_url(self._name, entry.name, revision=self.commit, endpoint=self._endpoint)
        headers = {**build_hf_headers(), "Accept-Encoding": "identity"}
        end = monotonic() + PATIENCE + entry.size / SLOWEST
        with get_session().stream("GET", url, headers=headers, timeout=TIMEOUT) as response:
            hf_raise_for_status(response)
            for block in response.iter_bytes(BLOCK):
                yield block
                if monotonic() > end:
                    raise Stop(SOURCE.found(entry.name, "the download is too slow"), "gate-files")

    def _ask(self, step: str, question: Callable[[], T]) -> T:
        """Return the answer of the hub, asked up to five times more if it is busy or breaks off."""
        from huggingface_hub.errors import HfHubHTTPError, HTTPError, OfflineModeIsEnabled

        for attempt in range(RETRIES + 1):
            try:
                return question()
            except HfHubHTTPError as error:
                if error.response.status_code not in PASSING or attempt == RETRIES:
                    raise self._refused(error, step) from None
                wait = _asked_wait(error.response.headers.get("Retry-After"))
            except HTTPError as error:
                if attempt == RETRIES:
                    raise self._refused(error, step) from None
                wait = 0.0
            except (OfflineModeIsEnabled, ValueError, KeyError, TypeError, AttributeError) as error:
                raise self._refused(
                    error, step
                ) from None  # offline, or an answer that makes no sense
            if wait > MOST_WAIT:
                why = f"the hub is busy and asks to wait {wait:.0f} s"
                raise Stop(SOURCE.found(self._reference, why), step)
            backoff = min(MOST_WAIT, FIRST_WAIT * 2**attempt)
            sleep(max(wait, backoff * (0.5 + random.random() / 2)))  # noqa: S311  spreads retries
        raise AssertionError  # pragma: no cover

    def _refused(self, error: Exception, step: str) -> Stop:
        words = {
            "GatedRepoError": "the repository is gated: accept its terms and log in",
            "RepositoryNotFoundError": "no such folder, and no such repository on the hub (or a "
            "private one)",
            "RevisionNotFoundError": "the repository has no such revision",
            "401": "not without logging in",
            "404": "the hub has nothing of that name",
            "OfflineModeIsEnabled": "no such folder, and the hub is not asked offline",
        }  # fmt: skip
        status = str(getattr(getattr(error, "response", None), "status_code", ""))
        known = words.get(type(error).__name__) or words.get(status)
        why = known or f"the hub did not give it: {error}"
        return Stop(SOURCE.found(self._reference, " ".join(why.split())), step)


def _asked_wait(header: str | None) -> float:
    return float(header) if header and header.isdecimal() else 0.0


def _is_listed(file: OpenFile, listed: Any) -> bool:
    """Return whether a file has the hash of the listing: SHA-256 if it is large, else Git's."""
    large = getattr(listed, "lfs", None)
    if large is not None:
        return bool(large.sha256 == file.sha256)
    blob = hashlib.sha1(b"blob %d\0" % file.size, usedforsecurity=False)
    for start in range(0, file.size, BLOCK):
        blob.update(file.view[start : start + BLOCK])
    return bool(listed.blob_id == blob.hexdigest())
