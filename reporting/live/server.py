"""A visdom server on loopback that needs no network: `make visdom`. npm fetches the scripts of its page, once."""

import argparse
import errno
import hashlib
import logging
import shutil
import signal
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path
from urllib.parse import urlsplit

from utils import InputError, write_atomically

log = logging.getLogger("mim")
HOST, PORT = "127.0.0.1", 8097
OUR_NAMES = ("localhost", "127.0.0.1", "::1")  # by which a browser on this machine, or a tunnel to it, asks for us
FOLDER = Path("runs/.visdom")  # in which the server saves what it shows
BUILT = "version.built"  # in static/, written last: the scripts are complete
NPM_SECONDS = 600

_FONTS = "glyphicons-halflings-regular"
_MATHJAX = ("MathJax.js", "config/Safe.js", "config/TeX-AMS-MML_HTMLorMML.js", "extensions/Safe.js")
_MATHJAX += tuple(f"jax/output/SVG/{name}.js" for name in ("jax", "config", "fonts/TeX/fontdata"))
_MATHJAX += ("jax/output/SVG/fonts/TeX/Size1/Regular/Main.js",)
SCRIPTS = {  # npm package: SHA-256 of its tarball, and where in static/ its files go
    "jquery@3.1.1": (
        "1edfdafd71f26e2730a2029f5c4971598f55f57627fd17c3410914aed2293821",
        {"dist/jquery.min.js": "js/jquery.min.js"},
    ),
    "bootstrap@3.3.7": (
        "a9de9f9d74b46743821bda60e5f81233c7a2dc83ad4db60d0c0e396dc255fc2a",
        {
            "dist/js/bootstrap.min.js": "js/bootstrap.min.js",
            "dist/css/bootstrap.min.css": "css/bootstrap.min.css",
            f"dist/fonts/{_FONTS}.svg": f"fonts/{_FONTS}.svg#glyphicons_halflingsregular",
        }
        | {f"dist/fonts/{_FONTS}.{kind}": f"fonts/{_FONTS}.{kind}" for kind in ("eot", "woff2", "woff", "ttf")},
    ),
    "react@16.2.0": (
        "c0d1fc3e4157e03898012d3bd6360879a58f1178ab839859a15433aa60ed5499",
        {"umd/react.production.min.js": "js/react-react.min.js"},
    ),
    "react-dom@16.2.0": (
        "6596694ba625de26e265c4ae5b7a5f568022568573a05bbdb2659792bcc101b6",
        {"umd/react-dom.production.min.js": "js/react-dom.min.js"},
    ),
    "react-modal@3.1.10": (
        "d656a396f68e2a9b2329087840ea005e5da0408410dd8064e1c30ffeaa9d5133",
        {"dist/react-modal.min.js": "js/react-modal.min.js"},
    ),
    "plotly.js-dist-min@2.11.1": (
        "25f1ca783c4e71e01c96031fc85ab114aebf931ba563d250d1ec59421cb79113",
        {"plotly.min.js": "js/plotly-plotly.min.js"},
    ),
    "sjcl@1.0.7": (
        "9fe881f59d05151dd4e38e4eca65821e773f1f8a7eb01f6fdb819008b0ce544e",
        {"sjcl.js": "js/sjcl.js"},
    ),
    "layout-bin-packer@1.4.0": (
        "f5d72447b16e3a912c5001bbda3b7308dfc48749882c8ff4ce8fc0c265176f7a",
        {
            "dist/layout-bin-packer.js": "js/layout_bin_packer.js",
            "dist/layout-bin-packer.js.map": "js/layout-bin-packer.js.map",
        },
    ),
    "d3@3.5.17": (
        "da49ebf01f88a039c748eb4aa682fec45672f7c2abca3b363633b8f835065b35",
        {"d3.min.js": "js/d3.v3.min.js"},
    ),
    "d3-selection-multi@1.0.1": (
        "449fab3b22583c83882bb326857c0be04321cd087162ec1bfe872214bd0b9827",
        {"build/d3-selection-multi.js": "js/d3-selection-multi.v1.js"},
    ),
    "save-svg-as-png@1.4.17": (
        "639bdcaeb3e945de6282670b88a5d058605431aca7d6890661227c6f7cc3f55a",
        {"lib/saveSvgAsPng.js": "js/saveSvgAsPng.js"},
    ),
    "react-resizable@1.4.6": (
        "8855b10f7961dfce72bb032575769b40581a61aa716d0f5d426c4d5e184aa622",
        {"css/styles.css": "css/react-resizable-styles.css"},
    ),
    "react-grid-layout@0.16.3": (
        "b57981208742e5be47a4aa761194103d5c0e3ddd473d7fd8989c608dd9345550",
        {"css/styles.css": "css/react-grid-layout-styles.css"},
    ),
    "classnames@2.2.5": (
        "38c83d48c787e08af4e79e591bb4e3b519e84c492507b16d593a98f576ea8959",
        {"index.js": "fonts/classnames"},
    ),
    "mathjax@2.7.5": (
        "7fc8acc02a4930cdc59983ba4003686208af39fc855245fa8ae8d4b27fab781b",
        {path: f"js/mathjax/2.7.5/{path}" for path in _MATHJAX},
    ),
}


def main(argv: list[str] | None = None) -> int:
    """Start the server and serve until Ctrl+C.

    Args:
        argv: the arguments; None for those of the process.
    Returns:
        Exit code: 0 after Ctrl+C, 2 if the server cannot start.
    """
    parser = argparse.ArgumentParser(description="A visdom server on loopback; it works without a network.")
    parser.add_argument("--port", type=int, default=PORT, help="default: %(default)s")
    parser.add_argument("--keep", type=Path, default=FOLDER, help="folder for what it shows; default: %(default)s")
    chosen = parser.parse_args(argv)
    logging.basicConfig(level=logging.WARNING, format="%(message)s", force=True)
    logging.getLogger("tornado").setLevel(logging.CRITICAL)  # it logs every page that is not found
    log.setLevel(logging.INFO)
    try:
        install_scripts(static_folder())
        serve(chosen.port, chosen.keep)
    except KeyboardInterrupt:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # once is enough
        log.info("the visdom server has stopped")
    except InputError as error:
        log.error("visdom: %s", error)
        return 2
    return 0


def static_folder() -> Path:
    """Return the folder of the installed visdom that holds its page; InputError if visdom is not installed."""
    try:
        import visdom
    except ImportError as error:
        raise InputError(
            f"visdom is not installed ({error}); `make visdom` installs it with the requirements"
        ) from error
    return Path(visdom.__file__).parent / "static"


def scripts_are_complete(static: Path) -> bool:
    """Tell whether visdom's page has all its scripts."""
    built, version = static / BUILT, static.parent / "VERSION"
    places = (place for _, files in SCRIPTS.values() for place in files.values())
    return (
        built.is_file()
        and built.read_text(encoding="utf-8").strip() == version.read_text(encoding="utf-8").strip()
        and all((static / place).is_file() for place in places)
    )


def install_scripts(static: Path) -> None:
    """Fetch the scripts of visdom's page with npm, unless they are installed.

    All are fetched and checked before the first is written; `version.built`, written last, marks them as complete.

    Args:
        static: visdom's folder static/.
    Raises:
        InputError: npm is missing, its registry does not answer, a package has changed, or the folder cannot be
            written.
    """
    if scripts_are_complete(static):
        return
    npm = shutil.which("npm")
    if npm is None:
        raise InputError("npm, which fetches the scripts of visdom's page, is not installed; install Node.js with npm")
    log.info("fetching the scripts of visdom's page with npm (once) ...")
    with tempfile.TemporaryDirectory(prefix="visdom-") as folder:
        command = [npm, "pack", "--silent", "--ignore-scripts", "--fetch-retries=1", *SCRIPTS]
        try:
            done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=NPM_SECONDS)
            reason = next(
                filter(None, map(str.strip, reversed(done.stderr.splitlines()))), f"exit code {done.returncode}"
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            raise InputError(f"npm could not fetch the scripts of visdom's page ({error}); try again") from error
        if done.returncode:
            raise InputError(
                f"npm could not fetch the scripts of visdom's page ({reason}); connect this machine to the network and "
                "try again (they are fetched only once)"
            )
        content = {}
        for package, (digest, files) in SCRIPTS.items():
            content |= _unpack(Path(folder) / f"{package.replace('@', '-')}.tgz", digest, files)
    try:
        (static / BUILT).unlink(missing_ok=True)
        for place, data in content.items():
            (static / place).parent.mkdir(parents=True, exist_ok=True)
            write_atomically(static / place, data)
        write_atomically(static / BUILT, (static.parent / "VERSION").read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"{static} cannot be written ({error.strerror}); use your own virtual environment") from error


def _unpack(tarball: Path, digest: str, files: dict[str, str]) -> dict[str, bytes]:
    """The files of a package, by their place in static/."""
    if not tarball.is_file() or hashlib.sha256(tarball.read_bytes()).hexdigest() != digest:
        raise InputError(f"npm did not deliver {tarball.name} as it was published (its SHA-256 differs); try again")
    with tarfile.open(tarball) as archive:
        return {place: _read(archive, f"package/{path}") for path, place in files.items()}


def _read(archive: tarfile.TarFile, path: str) -> bytes:
    file = archive.extractfile(path)
    assert file is not None, f"{path} is a folder"
    return file.read()


def serve(port: int, folder: Path) -> None:
    """Serve on loopback until interrupted.

    Args:
        port: to listen on; 0 for any free port.
        folder: for what it shows, made if it does not exist.
    Raises:
        InputError: the port is taken or not allowed, or the folder cannot be written.
    """
    from tornado.httpserver import HTTPServer
    from tornado.ioloop import IOLoop
    from tornado.netutil import bind_sockets
    from visdom.server import app

    if not 0 <= port < 2**16:
        raise InputError(f"port must be from 0 to {2**16 - 1}, not {port}; choose another, such as {PORT}")
    try:
        sockets = bind_sockets(port, HOST)
    except OSError as error:
        taken = error.errno == errno.EADDRINUSE
        reason = "is taken, perhaps by another visdom server" if taken else f"cannot be used ({error})"
        raise InputError(f"port {port} {reason}; choose another with `make visdom PORT={port + 1}`") from error
    try:
        folder.mkdir(parents=True, exist_ok=True)
        app.tornado_settings["autoreload"] = False  # which restarts the server when one of its files changes
        application = _guarded(app.Application)(port=port, env_path=str(folder))
    except OSError as error:
        raise InputError(
            f"{error.filename or folder} cannot be written ({error.strerror}); choose another folder"
        ) from error
    HTTPServer(application, max_buffer_size=2**30).add_sockets(sockets)
    address = f"http://localhost:{sockets[0].getsockname()[1]}"
    log.info("visdom shows runs at %s (only on this machine); Ctrl+C stops it", address)
    IOLoop.current().start()


def _guarded(application: type) -> type:
    """Refuse requests that a page of another site makes in this machine's browser, whatever name it has for us."""
    from tornado.web import ErrorHandler

    class Guarded(application):
        def find_handler(self, request, **options):
            origin = request.headers.get("Origin")
            asked = [f"//{request.host}", *([origin] if origin is not None else [])]
            if all(_hostname(each) in OUR_NAMES for each in asked):
                return super().find_handler(request, **options)
            return self.get_handler_delegate(request, ErrorHandler, {"status_code": 403})

    return Guarded


def _hostname(url: str) -> str | None:
    try:
        return urlsplit(url).hostname
    except ValueError:
        return None


if __name__ == "__main__":
    sys.exit(main())
