"""Where a run is watched: terminal, log, and visdom."""
