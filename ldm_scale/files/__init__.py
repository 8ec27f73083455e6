"""Where everything is read from and written to, local or on S3."""
