"""What people use in Python and in notebooks: finished runs as tables, runs compared, and a few images scored."""
