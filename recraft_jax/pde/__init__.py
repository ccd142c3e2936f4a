"""Equations of PDEBench: how samples are drawn and how they are solved."""
