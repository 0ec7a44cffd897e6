"""What watches a run: its log, the bar on the terminal, and where a server answers the live view."""

from pathlib import Path

from job import Job
from mapping import map_scene
from reporting import visualize
from reporting.live import VisdomMonitor
from reporting.monitor import JsonLog, Monitors, ProgressBar

LIVE_MAPS, LIVE_PIXELS = 5, 2000  # maps on visdom while training, and about how many pixels each predicts


def watch(job: Job, folder: Path, records: list[dict]) -> Monitors:
    """Start what watches a run.

    Args:
        job: the run.
        folder: its folder, which gets log.jsonl.
        records: of the epochs that an interrupted run has behind it.
    """
    n_train, n_map = int((job.split.train > 0).sum()), job.split.train.size // job.args.test_stride**2
    bar = ProgressBar(job.args.epoch, n_train, n_map, len(records))
    monitors = Monitors(JsonLog(folder / "log.jsonl", records), bar, *_live_view(job, folder))
    truth = visualize.colour_map(job.split.labelled, job.split.palette)
    false_colour = visualize.false_colour(job.scene.cube, job.scene.spec.rgb_bands)
    monitors.maps({"false colour": false_colour, "ground truth": truth})
    return monitors


def _live_view(job: Job, folder: Path) -> list[VisdomMonitor]:
    args = job.args
    if args.visdom == "off":
        return []
    side = max(1, round((job.cube.shape[0] * job.cube.shape[1] / LIVE_PIXELS) ** 0.5))

    def draw(model):
        labels, _ = map_scene(model, job.cube, stride=side, border=args.border, precision=args.precision)
        return visualize.colour_map(labels, job.split.palette)

    environment = f"{args.model}_{job.scene.spec.name}_{folder.name}"
    return [VisdomMonitor(args.visdom, environment, draw, map_every=max(1, args.epoch // LIVE_MAPS))]
