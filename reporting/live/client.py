"""A visdom server as the live view needs it: four calls of its HTTP interface, each with an end in time.

visdom's own client sets no limit of time, sends by the environment's proxy even on loopback, and takes a third of a
second to import, in the middle of the training.
"""

import json
import re
from urllib.parse import quote, urlsplit

import requests


class Server:
    """A visdom server, as far as the live view needs it.

    Args:
        url: its address.
        timeout: seconds to connect and to answer.
    """

    def __init__(self, url: str, timeout: tuple[float, float]):
        parts = urlsplit(url if "//" in url else f"//{url}", scheme="http")
        self.url = f"{parts.scheme}://{parts.netloc if parts.port else f'{parts.netloc}:8097'}{parts.path.rstrip('/')}"
        self.timeout = timeout
        self.session = requests.Session()
        self.session.trust_env = not is_loopback(parts.hostname)  # no proxy lies between a machine and itself

    def page(self, environment: str) -> str:
        """Address of the page that shows an environment."""
        return f"{self.url}/env/{quote(environment)}"

    def environments(self) -> list[str]:
        """Names of the environments that the server has."""
        try:
            return list(json.loads(self._post("env_state", {})))
        except (ValueError, TypeError) as error:
            raise requests.RequestException(f"{self.url} is no visdom server") from error

    def show(self, environment: str, title: str, pane: dict, shared: bool = False) -> None:
        """Show a pane in place of an earlier one of its title; of a shared figure, only replace the run's own line."""
        message = {"eid": environment, "win": re.sub(r"\W+", "_", title), **pane}
        if not shared:
            self._post("events", message)
            return
        for line in pane["data"]:
            message |= {"data": [line], "name": line["name"], "append": False}
            self._post(f"env/{quote(environment)}", {"eid": environment})
            if "does not exist" in self._post("update", message):
                self._post("update", message | {"append": True})  # makes it, unless another run just has

    def keep(self, environments: list[str]) -> None:
        """Write environments to the server's disk."""
        self._post("save", {"data": environments})

    def _post(self, endpoint: str, message: dict) -> str:
        data = json.dumps(message, allow_nan=False)
        response = self.session.post(f"{self.url}/{endpoint}", data=data, timeout=self.timeout)
        response.raise_for_status()
        return response.text


def is_loopback(host: str | None) -> bool:
    """Whether a host's name is one of this machine's own."""
    return host is not None and (host in ("localhost", "::1") or host.startswith("127."))


def environment_name(*parts: object) -> str:
    """A name that visdom takes: it groups by what is before the first "_", and "+" and "/" mean something else."""
    return "_".join(re.sub(r"[^A-Za-z0-9.-]+", "-", str(part)) for part in parts)
