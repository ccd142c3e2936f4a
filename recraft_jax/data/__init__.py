"""Readers and input pipeline: numpy in, numpy out."""
