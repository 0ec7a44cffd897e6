"""Where a run is watched and what it leaves behind."""
