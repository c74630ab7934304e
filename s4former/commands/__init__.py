"""What people run besides training, one file each."""
