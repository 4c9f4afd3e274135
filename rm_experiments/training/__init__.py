"""Losses, optimizers, schedules, the loop, and the state it saves."""
