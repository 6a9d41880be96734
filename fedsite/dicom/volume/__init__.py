"""From the frames of a series to volumes, each judged by every rule."""
