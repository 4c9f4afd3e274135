"""Settings: their schema, their validation, and how Hydra composes them. Imports no torch."""
