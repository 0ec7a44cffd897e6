"""Figures for print: maps, curves, and drawings of a network."""
