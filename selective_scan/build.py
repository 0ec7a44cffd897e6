"""Compile the selective scan ahead of its first use, for this machine and with --cuda-arch for GPUs."""

import argparse
import functools
import logging
import sys

from selective_scan.compile_cpu import BuildError, build_cpu
from selective_scan.compile_cuda import compile_with_nvcc

log = logging.getLogger(__name__)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m selective_scan.build", description=__doc__)
    parser.add_argument(
        "--cuda-arch",
        nargs="+",
        type=int,
        default=[],
        metavar="NN",
        help="compute capabilities, such as 80 90; needs nvcc, but no GPU",
    )
    archs = parser.parse_args().cuda_arch
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    builds = {"C++": build_cpu}
    if archs:
        builds["CUDA"] = functools.partial(compile_with_nvcc, [str(arch) for arch in archs])
    failed = 0
    for what, build in builds.items():
        try:
            log.info("the %s selective scan is %s", what, build())
        except BuildError as error:
            log.error("the %s selective scan cannot be built: %s", what, error)
            failed = 1
    return failed


if __name__ == "__main__":
    sys.exit(main())
