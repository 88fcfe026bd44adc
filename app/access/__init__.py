"""What strangers may reach and use."""
