"""Where files come from: folders, media with a directory, zip archives. Nothing is judged here."""
