"""Fine-tuning jobs: checked at submit, queued in the database, run as one subprocess each, told about by webhooks."""
