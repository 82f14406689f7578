"""The cage: what a hostile child tries, and that nothing of it is left."""

import os
import signal
import sys
import textwrap
import time
from pathlib import Path

import pytest

from peftlab.core.errors import BackendMissing
from peftlab.io import cage
from peftlab.io.cage import run_caged

pytestmark = pytest.mark.skipif(not cage.has_cage(), reason="needs POSIX")
LIMITS = {
    "cpu_seconds": 5, "wall_seconds": 20, "memory_bytes": 2**28, "file_bytes": 2**16,
}  # fmt: skip


@pytest.fixture
def caged(tmp_path):
    """Run a program in the cage and return how it ended."""

    def run(program, *arguments, **changes):
        script = tmp_path / "program.py"
        script.write_text(textwrap.dedent(program))
        return run_caged([str(script), *arguments], **{**LIMITS, **changes})

    return run


@pytest.fixture
def without_namespaces(tmp_path, monkeypatch):
    """Use a child for which the system allows no namespaces."""
    child = tmp_path / "child.py"
    child.write_text(cage.CHILD.read_text().replace('"unshare"', '"no such function"'))
    monkeypatch.setattr(cage, "CHILD", child)


def alive(pid):
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"


def test_a_good_program(caged):
    ended = caged(
        """
        import sys
        print(sys.argv[1:], sys.stdin.read())
        print("talk", file=sys.stderr)
        sys.exit(7)
        """,
        "one", "two", stdin=b"in",
    )  # fmt: skip
    assert (ended.returncode, ended.killed) == (7, "")
    assert ended.stdout == b"['one', 'two'] in\n"
    assert ended.stderr == b"talk\n"
    assert 0 < ended.cpu_seconds < 5
    assert ended.peak_bytes > 2**20


def test_an_error_is_told(caged):
    ended = caged("raise ValueError('wrong')")
    assert (ended.returncode, ended.killed) == (1, "")
    assert b"ValueError: wrong" in ended.stderr


def test_an_empty_environment_and_folder(caged, monkeypatch):
    monkeypatch.setenv("SECRET_TOKEN", "value")
    monkeypatch.setenv("PYTHONPATH", "/elsewhere")
    ended = caged("import os; print(os.environ, os.listdir(), oct(os.umask(0)))")
    assert b"SECRET" not in ended.stdout
    assert b"PYTHONPATH" not in ended.stdout
    assert b"[] 0o77" in ended.stdout


def test_its_folder_is_removed_or_kept(caged, tmp_path):
    gone = caged("import os; open('file', 'w').close(); print(os.getcwd(), end='')").stdout
    assert not Path(gone.decode()).exists()
    place = tmp_path / "place"
    place.mkdir()
    caged("open('file', 'w').close()", folder=place)
    assert (place / "file").stat().st_mode & 0o777 == 0o600


def test_too_much_memory(caged):
    ended = caged("x = bytearray(2**30)")
    assert (ended.returncode, ended.killed) == (1, "memory")


@pytest.mark.parametrize(("first", "by"), [
    ("", signal.SIGXCPU),
    ("import signal; signal.signal(signal.SIGXCPU, signal.SIG_IGN)", signal.SIGKILL),
])  # fmt: skip
def test_a_loop(caged, first, by):
    start = time.monotonic()
    ended = caged(f"{first}\nwhile True: pass", cpu_seconds=1)
    assert (ended.killed, ended.returncode) == ("cpu time", -by)
    assert time.monotonic() - start < 18


@pytest.mark.parametrize("program", [
    "import time; time.sleep(60)",
    "import signal, time; [signal.signal(s, signal.SIG_IGN) for s in (2, 15)]; time.sleep(60)",
])  # fmt: skip
def test_a_sleeper(caged, program):
    start = time.monotonic()
    assert caged(program, wall_seconds=0.5).killed == "wall time"
    assert time.monotonic() - start < 10


GRANDCHILDREN = """
    import os, sys, time
    for depth in range(6):
        if os.fork() == 0:
            os.setsid()
            print(os.readlink("/proc/self") if hasattr(os, "readlink") else "", flush=True)
            if depth % 2 and os.fork() == 0:
                os.setsid()
                print(os.readlink("/proc/self"), flush=True)
            time.sleep(60)
    if sys.argv[1:] == ["stay"]:
        time.sleep(60)
    time.sleep(0.2)
    os._exit(0)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("stay", [(), ("stay",)])
@pytest.mark.parametrize("allowed", [True, False])
def test_nothing_is_left_over(caged, request, stay, allowed):
    if not allowed:
        request.getfixturevalue("without_namespaces")
    ended = caged(GRANDCHILDREN, *stay, wall_seconds=0.8)
    made = [int(line) for line in ended.stdout.split()]
    assert ended.killed == ("wall time" if stay else "")
    assert len(made) == 9
    assert not ended.isolated or allowed
    assert not [pid for pid in made if alive(pid)]


def test_too_large_a_file(caged):
    ended = caged("open('file', 'wb').write(bytes(2**20))")
    assert ended.returncode == 1
    assert b"File too large" in ended.stderr


def test_too_much_talk(caged):
    ended = caged("import sys; sys.stdout.write('x' * 2**22)")
    assert len(ended.stdout) <= LIMITS["file_bytes"]
    much = caged("print('x' * 2**22)", file_bytes=2**24)
    assert len(much.stdout) == cage.MOST_OUTPUT


def test_too_many_files(caged):
    ended = caged("held = [open('/dev/null') for _ in range(1000)]")
    assert b"Too many open files" in ended.stderr


SOCKETS = """
    import socket, sys
    tried = [
        lambda: socket.create_connection(("127.0.0.1", int(sys.argv[1])), 1),
        lambda: socket.getaddrinfo("localhost", 80),
        lambda: socket.socket().bind(("127.0.0.1", 0)),
        lambda: socket.socketpair(),
    ]
    for number, each in enumerate(tried):
        try:
            each()
        except OSError as error:
            print(number, type(error).__name__)
        else:
            print(number, "worked")
"""


@pytest.mark.parametrize("allowed", [True, False])
def test_no_network(caged, request, allowed):
    import socket

    if not allowed:
        request.getfixturevalue("without_namespaces")
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0.2)
        ended = caged(SOCKETS, str(server.getsockname()[1]))
        assert ended.stdout.split() == [
            word.encode() for number in range(4) for word in (str(number), "PermissionError")
        ]
        with pytest.raises(TimeoutError):
            server.accept()


@pytest.mark.skipif(sys.platform != "linux", reason="namespaces are Linux")
def test_the_network_is_away_below_python_too(caged):
    """The guard in the child does not see ctypes; the empty network does."""
    ended = caged("""
        import ctypes, struct, sys
        libc = ctypes.CDLL(None, use_errno=True)
        number = libc.socket(2, 1, 0)
        address = struct.pack("<H", 2) + struct.pack(">H", 9) + bytes([127, 0, 0, 1]) + bytes(8)
        print(libc.connect(number, address, 16), ctypes.get_errno())
    """)
    if not ended.isolated:
        pytest.skip("namespaces are not allowed here")
    assert ended.stdout.split() == [b"-1", b"101"]  # network is unreachable


def test_it_cannot_pretend_to_be_the_warden(caged):
    ended = caged("""
        import os
        for number in range(3, 256):
            try:
                os.write(number, b'{"returncode": 0}')
            except OSError:
                pass
        os._exit(9)
    """)
    assert ended.returncode == 9


def test_open_files_are_handed_over(caged, tmp_path):
    (tmp_path / "data").write_bytes(b"the same bytes")
    with (tmp_path / "data").open("rb") as file:
        (tmp_path / "data").unlink()
        program = "import sys; print(open(f'/dev/fd/{sys.argv[1]}', 'rb').read())"
        ended = caged(program, str(file.fileno()), pass_fds=(file.fileno(),))
    assert b"the same bytes" in ended.stdout


def open_files():
    return len(list(Path("/dev/fd").iterdir()))


def test_no_descriptor_of_ours_gets_in_or_stays_open(caged):
    with Path("/dev/null").open() as secret:
        os.set_inheritable(secret.fileno(), True)
        before = open_files()
        ended = caged(f"import os; os.fstat({secret.fileno()})")
        assert b"Bad file descriptor" in ended.stderr
        assert open_files() == before


def test_a_system_without_limits(caged, monkeypatch):
    monkeypatch.setattr(cage, "has_cage", lambda: False)
    with pytest.raises(BackendMissing) as caught:
        caged("pass")
    assert caught.value.code == "CAGE-SYSTEM"
