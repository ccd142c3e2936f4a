"""Backbones, target embedders and heads, one file per model."""
