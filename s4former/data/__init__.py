"""Files and Hub datasets in, the batch of a step out."""
