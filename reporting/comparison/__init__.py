"""Several runs side by side, and the tests between them."""
