"""Scenes: the catalogue, scene.toml, and every file format."""
