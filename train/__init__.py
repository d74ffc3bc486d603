"""Training: one flat loop, recipes that configure it, and run directories that explain themselves."""
