"""Optimizers: how weights are updated."""
