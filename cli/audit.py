"""The mode --audit: examine a split without training."""

import logging
from argparse import Namespace

import numpy as np

from datasets import has_cube, load_scene
from reporting import results
from reporting.figures import curves
from splits.choose import draws_split, make_split
from splits.leakage import distance_to, examine, sentences

log = logging.getLogger("mim")


def audit(args: Namespace) -> list[str]:
    """Examine the split that a command line gives, and with --output write audit.json, audit.png and audit.pdf.

    Args:
        args: the command line's arguments; of the scene's files only the masks or the ground truth are needed.
    Returns:
        A sentence per finding; the last is the verdict.
    Raises:
        InputError: a file that is missing or cannot be read, or a split that cannot be drawn.
    """
    scene = load_scene(
        args.dataset, args.folder, need_cube=has_cube(args.dataset, args.folder), need_gt=draws_split(args)
    )
    faults: list[str] = []
    split = make_split(args, scene, np.random.default_rng(args.seed), faults)
    findings = examine(split, scene, args.patch_size, faults)
    findings["preprocessing"] = {name: getattr(args, name) for name in ("normalize", "fit_on", "pca")}
    told = sentences(findings)
    if args.output is not None:
        args.output.mkdir(parents=True, exist_ok=True)
        results.write_json(args.output / "audit.json", findings | {"sentences": told})
        title = f"{scene.spec.name}: {split.method}"
        curves.save_audit(
            args.output / "audit", split.train, split.test, distance_to(split.train), args.patch_size, title
        )
        log.info("%s holds audit.json, audit.png, audit.pdf", args.output)
    return told
