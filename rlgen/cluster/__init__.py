"""The study on a cluster: its DAG, what it costs, and how its jobs are started."""
