"""From a folder of one's own photos to a config: `s4former new-config PHOTOS -o mine.json`."""
