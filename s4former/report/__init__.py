"""The report of a run: one HTML file, made of what lies in the run's folder."""
