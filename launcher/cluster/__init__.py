"""Running a job on a SLURM cluster: submit, the two programs inside the batch job, and looking after it."""
