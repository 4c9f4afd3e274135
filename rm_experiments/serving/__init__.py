"""Saved reward models behind HTTP: requests are batched across clients, bounded, timed and counted."""
