"""A trained network applied: maps of new scenes, and pictures of its activations."""
