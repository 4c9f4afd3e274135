"""Saved reward models at work: from Python, and over files of rows."""
