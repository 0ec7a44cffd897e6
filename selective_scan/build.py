"""Compile the selective scan ahead of its first use, for this machine and with --cuda-arch for GPUs."""

import argparse
import functools
import logging
import sys
from collections.abc import Callable
from pathlib import Path

from selective_scan.cache import BuildError
from selective_scan.compile_cpu import load_cpu
from selective_scan.compile_cuda import compile_with_nvcc

log = logging.getLogger(__name__)


def _arch(text: str) -> str:
    if not (text.isdigit() and 50 <= int(text) < 1000):
        raise argparse.ArgumentTypeError(f"{text!r} is no compute capability; give numbers such as 80 90")
    return text


def main() -> int:
    """Run the command line; 0 done, 2 something cannot be built, 130 interrupted."""
    parser = argparse.ArgumentParser(prog="python -m selective_scan.build", description=__doc__)
    parser.add_argument(
        "--cuda-arch",
        nargs="+",
        type=_arch,
        default=[],
        metavar="NN",
        help="compute capabilities, such as 80 90; needs nvcc, but no GPU",
    )
    archs = parser.parse_args().cuda_arch
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    builds: dict[str, Callable[[], Path]] = {"C++": load_cpu}
    if archs:
        builds["CUDA"] = functools.partial(compile_with_nvcc, archs)
    code = 0
    for what, build in builds.items():
        try:
            log.info("the %s selective scan is %s", what, build())
        except BuildError as error:
            log.error("the %s selective scan cannot be built: %s", what, error)
            code = 2
        except KeyboardInterrupt:
            log.error("interrupted")
            return 130
    return code


if __name__ == "__main__":
    sys.exit(main())
