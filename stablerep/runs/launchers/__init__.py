"""Who starts a run's processes: trainer services of one machine (local), or Kubernetes."""
