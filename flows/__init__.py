"""What Prefect runs: the pipeline, the search and the gate. The only package that imports prefect."""
