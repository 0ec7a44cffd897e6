"""The server of `make visdom`: it fetches its page's scripts whole or not at all, listens on loopback, ends quietly."""

import hashlib
import io
import signal
import socket
import stat
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest
import requests
from servers import PATIENCE, ROOT, VisdomServer, free_port

from reporting.live import server
from utils import InputError

SCRIPTS = {"one@1.0.0": {"dist/a.js": "js/a.js", "b.css": "css/b.css"}, "two@2.1.0": {"c.woff": "fonts/c.woff#c"}}


def _tarball(package, files, change=b""):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for path in ("package.json", *files):
            content = f"{package} {path}".encode() + change
            member = tarfile.TarInfo(f"package/{path}")
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


@pytest.fixture
def static(tmp_path, monkeypatch):
    """The folder static/ of a visdom of version 9.9, whose page needs the files of SCRIPTS."""
    digests = {package: hashlib.sha256(_tarball(package, files)).hexdigest() for package, files in SCRIPTS.items()}
    monkeypatch.setattr(server, "SCRIPTS", {p: (digests[p], files) for p, files in SCRIPTS.items()})
    folder = tmp_path / "visdom" / "static"
    folder.mkdir(parents=True)
    (folder.parent / "VERSION").write_text("9.9\n")
    (folder / "index.html").write_text("page")
    return folder


@pytest.fixture
def npm(tmp_path, monkeypatch):
    """Put a program npm in the path that answers `npm pack` with the given tarballs, and notes its arguments."""
    home = tmp_path / "bin"
    (home / "tarballs").mkdir(parents=True)

    def make(tarballs, complaint="", code=0):
        for name, content in tarballs.items():
            (home / "tarballs" / f"{name.replace('@', '-')}.tgz").write_bytes(content)
        program = f'#!/bin/sh\necho "$@" >> {home}/calls\nfor f in {home}/tarballs/*; do /bin/cp "$f" .; done\n'
        program += f'echo "{complaint}" >&2\nexit {code}\n'
        (home / "npm").write_text(program)
        (home / "npm").chmod(stat.S_IRWXU)
        monkeypatch.setenv("PATH", str(home))
        return home / "calls"

    return make


def _files(folder):
    return {str(path.relative_to(folder)): path.read_text() for path in folder.rglob("*") if path.is_file()}


def test_npm_brings_the_scripts_once_and_they_lie_in_their_places(static, npm):
    calls = npm({package: _tarball(package, files) for package, files in SCRIPTS.items()})
    assert not server.scripts_are_complete(static)
    server.install_scripts(static)
    assert server.scripts_are_complete(static)
    assert _files(static) == {
        "index.html": "page",
        "js/a.js": "one@1.0.0 dist/a.js",
        "css/b.css": "one@1.0.0 b.css",
        "fonts/c.woff#c": "two@2.1.0 c.woff",
        "version.built": "9.9\n",
    }
    server.install_scripts(static)
    (call,) = calls.read_text().splitlines()
    assert call.startswith("pack ")
    assert call.endswith("one@1.0.0 two@2.1.0")


@pytest.mark.parametrize("lost", ["js/a.js", "version.built"])
def test_scripts_that_are_not_all_there_are_fetched_again(static, npm, lost):
    calls = npm({package: _tarball(package, files) for package, files in SCRIPTS.items()})
    server.install_scripts(static)
    (static / lost).unlink()
    server.install_scripts(static)
    assert len(calls.read_text().splitlines()) == 2
    assert (static / lost).is_file()


def test_another_version_of_visdom_gets_its_own_scripts(static, npm):
    calls = npm({package: _tarball(package, files) for package, files in SCRIPTS.items()})
    server.install_scripts(static)
    (static.parent / "VERSION").write_text("9.10\n")
    server.install_scripts(static)
    assert len(calls.read_text().splitlines()) == 2
    assert (static / "version.built").read_text() == "9.10\n"


def test_a_package_that_is_not_as_it_was_published_leaves_nothing_behind(static, npm):
    changed = _tarball("two@2.1.0", SCRIPTS["two@2.1.0"], b"!")
    npm({"one@1.0.0": _tarball("one@1.0.0", SCRIPTS["one@1.0.0"]), "two@2.1.0": changed})
    with pytest.raises(InputError, match=r"two-2\.1\.0\.tgz as it was published"):
        server.install_scripts(static)
    assert _files(static) == {"index.html": "page"}


def test_without_npm_or_its_registry_one_sentence_says_so(static, npm, monkeypatch, tmp_path):
    npm({}, complaint="npm error request to the registry failed", code=1)
    with pytest.raises(InputError, match=r"npm error request to the registry failed.*connect this machine"):
        server.install_scripts(static)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(InputError, match=r"npm, .* is not installed; install Node\.js"):
        server.install_scripts(static)
    assert _files(static) == {"index.html": "page"}


def _listening(port):
    """Local addresses, in hexadecimal, that something listens on at a port."""
    lines = [
        line.split() for name in ("tcp", "tcp6") for line in Path(f"/proc/net/{name}").read_text().splitlines()[1:]
    ]
    return {
        line[1].partition(":")[0] for line in lines if line[3] == "0A" and int(line[1].partition(":")[2], 16) == port
    }


def test_the_server_listens_on_loopback_alone_and_ctrl_c_ends_it_quietly(tmp_path):
    port = free_port()
    # a process in the background of a script, and what it starts, ignore SIGINT
    code = "import signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler); "
    code += "from reporting.live import server as v; v.install_scripts = lambda static: None; "
    code += f"sys.exit(v.main(['--port', '{port}', '--keep', {str(tmp_path / 'keep')!r}]))"
    process = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stderr=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        assert process.stderr is not None
        first = process.stderr.readline().decode()
        assert f"http://localhost:{port}" in first
        session = requests.Session()
        session.trust_env = False
        assert session.post(f"http://localhost:{port}/env_state", data="{}", timeout=PATIENCE).json() == ["main"]
        if Path("/proc/net/tcp").exists():
            assert _listening(port) == {"0100007F"}
        process.send_signal(signal.SIGINT)
        said, complained = process.communicate(timeout=PATIENCE)
    finally:
        process.kill()
    assert process.returncode == 0
    assert said.decode() == ""
    assert complained.decode() == "the visdom server has stopped\n"


@pytest.fixture(scope="module")
def running(tmp_path_factory):
    server = VisdomServer(tmp_path_factory.mktemp("visdom"))
    server.start()
    yield server
    server.kill()


@pytest.mark.parametrize(
    ("headers", "allowed"),
    [
        ({}, True),
        ({"Host": "localhost:9000"}, True),  # a tunnel
        ({"Host": "[::1]:8097", "Origin": "http://localhost:8097"}, True),
        ({"Host": "evil.example:8097"}, False),  # a name that was made to stand for this machine
        ({"Host": "localhost.evil.example"}, False),
        ({"Origin": "http://evil.example"}, False),
        ({"Origin": "null"}, False),
        ({"Origin": "http://localhost@evil.example"}, False),
        ({"Host": "["}, False),
    ],
)
@pytest.mark.parametrize("path", ["env_state", "socket", "vis_socket", "events"])
def test_pages_of_other_sites_reach_nothing(running, headers, allowed, path):
    session = requests.Session()
    session.trust_env = False
    call = session.get if "socket" in path else session.post
    answer = call(f"{running.url}/{path}", data="{}", headers=headers, timeout=PATIENCE)
    # what asks for a socket without becoming one reaches visdom if it says so; a real one would need to be closed
    reached = 'Can "Upgrade" only to "WebSocket"' in answer.text if "socket" in path else None
    assert (answer.status_code not in (400, 403) if reached is None else reached) == allowed


def test_a_taken_port_is_one_sentence(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(server, "install_scripts", lambda _: None)
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        assert server.main(["--port", str(port), "--keep", str(tmp_path)]) == 2
    said = capsys.readouterr().err
    reason, advice = "is taken, perhaps by another visdom server", f"choose another with `make visdom PORT={port + 1}`"
    assert said == f"visdom: port {port} {reason}; {advice}\n"
    assert server.main(["--port", "99999", "--keep", str(tmp_path)]) == 2
    assert "port must be from 0 to 65535, not 99999" in capsys.readouterr().err


def test_a_folder_that_cannot_be_written_is_one_sentence(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(server, "install_scripts", lambda _: None)
    (tmp_path / "file").write_text("")
    assert server.main(["--port", str(free_port()), "--keep", str(tmp_path / "file" / "keep")]) == 2
    assert "cannot be written" in capsys.readouterr().err


def test_make_visdom_starts_it():
    done = subprocess.run(
        ["make", "--no-print-directory", "--dry-run", "visdom", "PORT=8123"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    assert done.returncode == 0
    assert done.stdout.splitlines()[-1].endswith("-m reporting.live.server --port 8123")
