"""The results of runs: pictures, the report, comparisons, and the live view."""
