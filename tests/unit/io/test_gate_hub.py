"""The hub as a source, over real HTTP to a stub on this machine."""

import hashlib
import json
import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import huggingface_hub.constants
import numpy as np
import pytest
from safetensors.numpy import save

from peftlab.io.gate import Limits, hub, open_artefact

COMMIT = "89abcdef0123456789abcdef0123456789abcdef"
WEIGHTS = "adapter_model.safetensors"
FILES = {
    "adapter_config.json": json.dumps({"peft_type": "LORA", "r": 2}).encode(),
    WEIGHTS: save({"q.lora_A.weight": np.ones((2, 4), np.float32)}),
    "README.md": b"# x\n",
    "training_args.bin": b"\x80\x04never fetched",
}
Answer = Callable[["Hub", BaseHTTPRequestHandler], bool]


def git_hash(content):
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def sibling(name, content):
    entry = {"rfilename": name, "size": len(content), "blobId": git_hash(content)}
    if name.endswith((".safetensors", ".bin")):
        sha = hashlib.sha256(content).hexdigest()
        entry["lfs"] = {"size": len(content), "sha256": sha, "pointerSize": 130}
    return entry


@dataclass
class Hub:
    """One repository; ``odd`` answers a request itself when it returns True."""

    address: str = ""
    commit: Any = COMMIT
    siblings: list[dict[str, Any]] = field(default_factory=list)
    asked: list[str] = field(default_factory=list)
    odd: Answer = lambda *_: False
    waits: list[float] = field(default_factory=list)

    def counts(self):
        return Counter(path.split("?")[0].rsplit("/", 1)[-1] for path in self.asked)


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        self.server.hub.asked.append(self.path)
        if self.server.hub.odd(self.server.hub, self):
            return
        if self.path.startswith("/api/models/org/name"):
            about = {"id": "org/name", "sha": self.server.hub.commit,
                     "siblings": self.server.hub.siblings}  # fmt: skip
            send(self, json.dumps(about).encode())
        else:
            prefix = f"/org/name/resolve/{COMMIT}/"
            name = self.path.removeprefix(prefix)
            assert self.path.startswith(prefix), self.path
            send(self, FILES[name])

    def log_message(self, *_):
        """Say nothing."""


def send(handler, content, status=200, length=None, **headers):
    handler.send_response(status)
    handler.send_header("Content-Length", str(len(content) if length is None else length))
    for name, value in headers.items():
        handler.send_header(name.replace("_", "-"), value)
    handler.end_headers()
    handler.wfile.write(content)
    return True


@pytest.fixture
def stub(monkeypatch):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.hub = Hub(f"http://127.0.0.1:{server.server_port}")
    server.hub.siblings = [sibling(name, content) for name, content in FILES.items()]
    monkeypatch.setattr(hub, "sleep", server.hub.waits.append)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server.hub
    server.shutdown()
    thread.join()
    server.server_close()


def opened(stub, reference="org/name", **limits):
    return open_artefact(reference, limits=Limits(**limits), endpoint=stub.address)


def refused(stub, step, code, words="", reference="org/name", **limits):
    artefact, checks = opened(stub, reference, **limits)
    assert artefact is None
    check = next(check for check in checks if check.status == "stopped")
    assert (check.name, check.findings[0].code) == (step, code)
    assert words in check.findings[0].evidence
    return check.findings[0]


def only(path, answer):
    """Answer requests that end in ``path``; the others are answered as usual."""

    def odd(stub, handler):
        return handler.path.split("?")[0].endswith(path) and answer(stub, handler)

    return odd


def test_a_branch_is_resolved_once_and_all_comes_from_its_commit(stub, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    artefact, checks = opened(stub)
    assert (artefact.kind, artefact.commit) == ("hub", COMMIT)
    wanted = set(FILES) - {"training_args.bin"}
    assert {name: artefact.read(name) for name in artefact.files} == {x: FILES[x] for x in wanted}
    assert checks[0].facts["revision"] == "main"
    assert checks[0].facts["commit"] == COMMIT
    assert artefact.recorded == {"training_args.bin": 15}
    assert [path.split("?")[0] for path in stub.asked] == [
        "/api/models/org/name",
        *(f"/org/name/resolve/{COMMIT}/{name}" for name in sorted(wanted)),
    ]
    assert list(tmp_path.iterdir()) == []
    artefact.close()


@pytest.mark.parametrize("revision", ["v1.0", COMMIT, "refs/pr/1"])
def test_a_revision_is_asked_for(stub, revision):
    artefact, checks = opened(stub, f"org/name@{revision}")
    assert artefact.commit == COMMIT
    assert checks[0].facts["revision"] == revision
    assert "/revision/" in stub.asked[0]
    artefact.close()


def test_another_commit_than_asked_for(stub):
    refused(stub, "gate-source", "GATE-HUB", "instead of", f"org/name@{'0' * 40}")


@pytest.mark.parametrize("commit", [None, "../../evil", "main", 5, "A" * 40])
def test_a_commit_that_is_none(stub, commit):
    stub.commit = commit
    refused(stub, "gate-source", "GATE-HUB")


def test_limits_hold_before_anything_is_fetched(stub):
    refused(stub, "gate-names", "GATE-COUNT", files=3)
    refused(stub, "gate-names", "GATE-SIZE", file_bytes=60)
    refused(stub, "gate-names", "GATE-SIZE", total_bytes=100)
    stub.siblings.append(sibling("../x.json", b""))
    refused(stub, "gate-names", "GATE-NAME")
    stub.siblings[-1] = {"rfilename": "tokenizer.json", "size": None}
    refused(stub, "gate-names", "GATE-SIZE")
    stub.siblings = [sibling("adapter_model.bin", b"\x80\x04")]
    refused(stub, "gate-files", "GATE-PICKLE")
    stub.siblings = []
    refused(stub, "gate-files", "GATE-WEIGHTS")
    assert set(stub.counts()) == {"name"}


@pytest.mark.parametrize("name", [WEIGHTS, "README.md"])
def test_another_content_than_listed(stub, name):
    wrong = bytes([FILES[name][0] ^ 1]) + FILES[name][1:]
    stub.odd = only(name, lambda _, handler: send(handler, wrong))
    refused(stub, "gate-hashes", "GATE-HUB", "another hash")


@pytest.mark.parametrize("content", [FILES[WEIGHTS] + b"x", FILES[WEIGHTS][:-1], b""])
def test_another_size_than_listed(stub, content):
    stub.odd = only(WEIGHTS, lambda _, handler: send(handler, content))
    refused(stub, "gate-hashes", "GATE-HUB")
    assert stub.counts()[WEIGHTS] == 1


def test_an_endless_download_is_left(stub):
    def endless(_, handler):
        handler.send_response(200)
        handler.end_headers()
        try:
            while True:
                handler.wfile.write(bytes(2**20))
        except OSError:
            return True

    stub.odd = only(WEIGHTS, endless)
    refused(stub, "gate-hashes", "GATE-HUB", "more than")


def test_a_download_that_breaks_off_is_tried_again(stub):
    def torn(stub, handler):
        short = stub.counts()[WEIGHTS] < 4
        return short and send(handler, FILES[WEIGHTS][:9], length=len(FILES[WEIGHTS]))

    stub.odd = only(WEIGHTS, torn)
    artefact, _ = opened(stub)
    assert artefact.read(WEIGHTS) == FILES[WEIGHTS]
    assert stub.counts()[WEIGHTS] == 4
    assert len(stub.waits) == 3
    artefact.close()


def test_a_download_that_always_breaks_off(stub):
    stub.odd = only(WEIGHTS, lambda _, handler: send(handler, b"x", length=len(FILES[WEIGHTS])))
    refused(stub, "gate-files", "GATE-SOURCE", "did not give it")
    assert stub.counts()[WEIGHTS] == 6


@pytest.mark.parametrize("path", ["name", WEIGHTS])
def test_a_busy_hub_is_asked_again(stub, path):
    def busy(stub, handler):
        return stub.counts()[path] < 3 and send(handler, b"", 429)

    stub.odd = only(path, busy)
    artefact, _ = opened(stub)
    assert artefact is not None
    assert stub.counts()[path] == 3
    first, second = stub.waits
    assert 0.5 <= first <= 1 <= second <= 2
    artefact.close()


def test_the_hub_says_how_long_to_wait(stub):
    def busy(stub, handler):
        return stub.counts()["name"] < 2 and send(handler, b"", 503, Retry_After="7")

    stub.odd = only("name", busy)
    opened(stub)[0].close()
    assert stub.waits == [7.0]


def test_nobody_waits_for_hours(stub):
    stub.odd = only("name", lambda _, handler: send(handler, b"", 429, Retry_After="86400"))
    refused(stub, "gate-source", "GATE-SOURCE", "86400 s")
    assert stub.waits == []


def test_a_hub_that_stays_busy(stub):
    stub.odd = only("name", lambda _, handler: send(handler, b"", 429, Retry_After="soon"))
    refused(stub, "gate-source", "GATE-SOURCE", "429")
    assert stub.counts()["name"] == 6
    assert len(stub.waits) == 5


@pytest.mark.parametrize(
    ("status", "headers", "words"),
    [
        (404, {"X_Error_Code": "RepoNotFound"}, "no such repository"),
        (401, {}, "logging in"),
        (404, {}, "nothing of that name"),
        (404, {"X_Error_Code": "RevisionNotFound"}, "no such revision"),
        (403, {"X_Error_Code": "GatedRepo"}, "gated"),
        (403, {}, "403"),
        (418, {}, "418"),
    ],
)
def test_what_the_hub_refuses_is_said_in_words(stub, status, headers, words):
    stub.odd = only("name", lambda _, handler: send(handler, b"", status, **headers))
    refused(stub, "gate-source", "GATE-SOURCE", words)
    assert stub.counts()["name"] == 1


@pytest.mark.parametrize("content", [b"<html>", b"[]", b"{}", b'{"id": "x", "siblings": [{}]}'])
def test_an_answer_that_makes_no_sense(stub, content):
    stub.odd = only("name", lambda _, handler: send(handler, content))
    artefact, checks = opened(stub)
    assert artefact is None
    assert checks[0].status == "stopped"


def test_no_hub_at_that_address(stub):
    stub.address = "http://127.0.0.1:9"
    refused(stub, "gate-source", "GATE-SOURCE", "did not give it")


def test_offline_says_so(stub, monkeypatch):
    artefact, checks = open_artefact("org/name", offline=True, endpoint=stub.address)
    assert artefact is None
    assert "offline" in checks[0].findings[0].evidence
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    refused(stub, "gate-source", "GATE-SOURCE", "offline")
    assert stub.asked == []


def test_a_download_that_drips(stub, monkeypatch):
    monkeypatch.setattr(hub, "PATIENCE", -1.0)
    refused(stub, "gate-files", "GATE-SOURCE", "too slow")


def test_a_folder_of_that_name_comes_first(stub, tmp_path, monkeypatch):
    (tmp_path / "org/name").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    refused(stub, "gate-files", "GATE-WEIGHTS")
    assert stub.asked == []
