"""One run: its state, optimizer and teacher, schedules, checkpoints, log, and what is checked before it starts.

    runs/NAME/config.json        the resolved config
              log.jsonl          all numbers that were logged
              checkpoints/       to resume from
              best-teacher/ ...  the best models on the evaluation images
              confusion.json     the confusion matrices of the last evaluation
              image_counts.json  of every evaluation image its pixels by class at the last evaluation, packed (archive.py)
              panels/            small pictures of fixed images
              report.html        an overview of all of it
              teacher/ student/  the last models
              results.json       the outcome, with everything needed to repeat it
              predictions.png    a few evaluation images
"""
