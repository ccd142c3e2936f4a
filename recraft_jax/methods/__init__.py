"""Methods as lists of phases."""
