"""Everything that is read and written, local or on S3: addresses, run directories, their owners, digests."""
