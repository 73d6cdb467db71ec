"""The methods in other libraries' training loops."""
