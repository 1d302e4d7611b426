"""The store of the service: predictions, image files and feedback, in SQLite or PostgreSQL."""
