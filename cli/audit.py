"""The mode --audit: examine a split without training."""

import logging
from pathlib import Path

import numpy as np

from datasets import has_cube, load_scene
from reporting import results
from splits.choose import draws_split, make_split
from splits.leakage import distance_to, examine, sentences
from training.config import RunConfig

log = logging.getLogger("mim")


def audit(config: RunConfig, output: Path | None) -> list[str]:
    """Examine the split of some settings, and with `output` write audit.json, audit.png and audit.pdf there.

    Args:
        config: of the scene's files only the masks or the ground truth are needed.
        output: a folder, made if need be, or None.
    Returns:
        A sentence per finding; the last is the verdict.
    Raises:
        InputError: a file that is missing or cannot be read, or a split that cannot be drawn.
    """
    scene = load_scene(
        config.dataset,
        config.folder,
        need_cube=has_cube(config.dataset, config.folder),
        need_gt=draws_split(config),
        drop_bands=config.drop_bands,
    )
    faults: list[str] = []
    split = make_split(config, scene, np.random.default_rng(config.seed), faults)
    findings = examine(split, scene, config.window, faults)
    findings["preprocessing"] = config.preprocessing
    lines = sentences(findings)
    if output is not None:
        from reporting.figures import curves  # Matplotlib

        output.mkdir(parents=True, exist_ok=True)
        results.write_json(output / "audit.json", findings | {"sentences": lines})
        title = f"{scene.spec.name}: {split.method}"
        curves.save_audit(output / "audit", split.train, split.test, distance_to(split.train), config.window, title)
        log.info("%s holds audit.json, audit.png, audit.pdf", output)
    return lines
