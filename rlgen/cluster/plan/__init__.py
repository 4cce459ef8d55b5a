"""What a study will cost before it is run: a written cost model over the DAG of its dry-run."""
