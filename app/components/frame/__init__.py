"""What stands around every page: the subject, recent experiments, sharing, keys."""
