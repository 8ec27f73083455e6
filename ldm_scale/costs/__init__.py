"""What an audit will take, counted and estimated before it is begun."""
