"""What the pages share: datasets, models, jobs, thresholds, verdicts, uploads, the benchmark. Nothing here draws."""
