"""The report of a run: one file to look at, drawn from what lies in the run's folder.

    python -m s4former.report runs/demo      writes runs/demo/report.html once more
"""
