"""main.py, or another program, in several processes."""

import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent


def torchrun(n, *arguments, program=ROOT / "main.py", wait=True) -> Any:
    """Start a program in n processes by torchrun; gives what it said, or where it is not waited for the process."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "torch.distributed.run", f"--nproc_per_node={n}", f"--master_port={port}"]
    process = subprocess.Popen(
        [*command, str(program), *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests")])},
        cwd=ROOT,
        start_new_session=True,
    )
    if not wait:
        return process
    said, _ = process.communicate(timeout=240)
    return said
