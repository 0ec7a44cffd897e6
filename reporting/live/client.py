"""A client for a visdom server: the four calls of its HTTP interface that the live view needs, each with a timeout.

visdom's own client has no timeout, uses the proxy of the environment even for loopback, and takes a third of a second
to import, in the middle of the training.
"""

import json
import re
from urllib.parse import quote, urlsplit

import requests


class Server:
    """A visdom server.

    Args:
        url: its address.
        timeout: seconds to connect, and to answer.
    """

    def __init__(self, url: str, timeout: tuple[float, float]):
        parts = urlsplit(url if "//" in url else f"//{url}", scheme="http")
        self.url = f"{parts.scheme}://{parts.netloc if parts.port else f'{parts.netloc}:8097'}{parts.path.rstrip('/')}"
        self.timeout = timeout
        self.session = requests.Session()
        self.session.trust_env = not is_loopback(parts.hostname)  # a proxy cannot reach this machine's loopback

    def page(self, environment: str) -> str:
        """Return the address of the page that shows an environment."""
        return f"{self.url}/env/{quote(environment)}"

    def environments(self) -> list[str]:
        """Return the names of the server's environments."""
        try:
            return list(json.loads(self._post("env_state", {})))
        except (ValueError, TypeError) as error:
            raise requests.RequestException(f"{self.url} is not a visdom server") from error

    def show(self, environment: str, title: str, pane: dict, shared: bool = False) -> None:
        """Show a pane in place of an earlier one with its title.

        Args:
            environment: in which it is shown.
            title: names the window.
            pane: see `panes`.
            shared: whether other runs draw into the same figure; then only this run's own line is replaced.
        """
        message = {"eid": environment, "win": re.sub(r"\W+", "_", title), **pane}
        if not shared:
            self._post("events", message)
            return
        for line in pane["data"]:
            message |= {"data": [line], "name": line["name"], "append": False}
            self._post(f"env/{quote(environment)}", {"eid": environment})
            if "does not exist" in self._post("update", message):
                self._post("update", message | {"append": True})  # creates it, unless another run just did

    def save(self, environments: list[str]) -> None:
        """Save environments on the server's disk."""
        self._post("save", {"data": environments})

    def _post(self, endpoint: str, message: dict) -> str:
        data = json.dumps(message, allow_nan=False)
        response = self.session.post(f"{self.url}/{endpoint}", data=data, timeout=self.timeout)
        response.raise_for_status()
        return response.text


def is_loopback(host: str | None) -> bool:
    """Tell whether a host name is a loopback name of this machine."""
    return host is not None and (host in ("localhost", "::1") or host.startswith("127."))


def environment_name(*parts: object) -> str:
    """Make a name for visdom, which groups by the part before the first "_" and uses "+" and "/" for other things."""
    return "_".join(re.sub(r"[^A-Za-z0-9.-]+", "-", str(part)) for part in parts)
