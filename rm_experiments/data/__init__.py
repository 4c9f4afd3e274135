"""From files and Hub data sets to preference pairs."""
