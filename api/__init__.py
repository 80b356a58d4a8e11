"""HTTP faces of the broker."""
