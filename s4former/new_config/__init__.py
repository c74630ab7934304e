"""From a folder of one's own photos to a config: `python -m s4former.new_config PHOTOS -o mine.json`."""
