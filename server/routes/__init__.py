"""Routes of the service, one file each."""
